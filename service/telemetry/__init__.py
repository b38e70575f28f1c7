"""What the service tells of itself: metrics, logs, and the record of each request."""
