"""
What happens when the service is treated badly.  Overload, long runs, hostile clients, fuzzers.
"""
