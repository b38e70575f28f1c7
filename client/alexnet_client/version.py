"""The version of this distribution.  A test holds it to the server's."""

__version__ = "0.1.0"
