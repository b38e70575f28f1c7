"""What happens when the service is treated badly: overload, long runs, hostile clients, fuzzers."""
