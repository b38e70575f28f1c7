"""The version of this distribution, which a test holds to the server's."""

__version__ = "0.1.0"
