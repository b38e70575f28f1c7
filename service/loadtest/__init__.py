"""Load on a running server.  The generator, its statistics, and images to send."""
