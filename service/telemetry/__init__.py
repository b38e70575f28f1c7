"""Metrics, logs, and the record of each request."""
