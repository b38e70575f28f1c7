"""
The `alexnet` command, also `python -m service`; its parts are in `cli`.
"""

from service.cli.application import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
