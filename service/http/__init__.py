"""Bytes from untrusted clients become requests, and answers go back."""
