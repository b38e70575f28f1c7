"""
What the service costs.  Run as `python -m benchmarks.serving`, and so on, from the repository's
root.
"""
