"""
The commands of `alexnet`, a module for each.

    application   the command itself: help, --version, what becomes of errors
    statuses      what the shell is told at the end
    flags         options that several commands share
    completion    the shells' scripts for the TAB key
    installed     versions of what pip knows
    predict       sources -> images -> answers
    doctor        the checks of `checks`, one after the other

The modules of the commands are imported for `--help` too, so what is slow to import (the runtime,
the framework, numpy) is imported inside the functions that need it.
"""
