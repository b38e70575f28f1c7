"""
The commands of `alexnet`, a module for each.

    application       the command itself: help, --version, completion, what becomes of errors
    options           what several commands share; a flag for each setting; exit statuses
    output            the outcomes of predict, for people and programs

The modules of the commands are imported for `--help` too, so what is slow to import (the runtime,
the framework, numpy) is imported inside the functions that need it.
"""
