"""What the service costs: `python -m benchmarks.serving`, and so on, from the repository's root."""
