"""
The commands of `alexnet`, a module for each.

    application       the command itself: help, --version, what becomes of errors
    exit_codes        the exit statuses, and the end of each command's help
    options           options that several commands share
    settings_options  a flag for each setting, for serve and doctor
    completion        the shells' scripts for the TAB key
    installed         versions of installed packages
    addresses         host and port -> a bound socket
    predict           sources -> images -> output
    doctor            the checks of `checks`, reported together

The modules of the commands are imported for `--help` too, so what is slow to import (the runtime,
the framework, numpy) is imported inside the functions that need it.
"""
