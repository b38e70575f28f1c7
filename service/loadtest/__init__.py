"""Load on a running server: the generator, its statistics, and images to send."""
