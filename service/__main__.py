"""The `alexnet` command, also `python -m service`.  Its parts are in `cli`."""

from service.cli.application import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
