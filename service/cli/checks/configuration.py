"""
The settings, as flags and environment give them, and the files of keys that they name.
"""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from service.cli.checks import Finding, failed, ok, warning
from service.errors import SettingsInvalid
from service.http.access import Keys
from service.settings import (
    OF_OTHERS,
    PREFIX,
    Settings,
    load_settings,
    spelled,
    unknown_variables,
)


def usable_settings(flags: Mapping[str, str | None]) -> tuple[Settings, list[str]]:
    """
    The settings, and what is wrong with them: each that is named there has its default instead.

    What is wrong is taken out of this process's environment.
    """
    given, faults = dict(flags), list[str]()
    while True:
        try:
            return load_settings(**given), faults
        except SettingsInvalid as error:
            faults.append(str(error))
            variables = {f"{PREFIX}{name.upper()}" for name in error.settings}
            for variable in [name for name in os.environ if name.upper() in variables]:
                del os.environ[variable]
            for name in error.settings:
                given.pop(name, None)


def settings(faults: list[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """What was wrong, and variables that are none of ours."""
    for fault in faults:
        yield failed("settings", fault.rstrip("."), "correct it, or leave it out for its default")
    known = [f"{PREFIX}{name.upper()}" for name in (*Settings.model_fields, *OF_OTHERS)]
    unknown = unknown_variables(environment)
    for name in unknown:
        close = get_close_matches(name.upper(), known, 1)
        yield warning(
            "settings",
            f"{name} is no setting, and has no effect",
            f"did you mean {close[0]}?" if close else "alexnet serve --help lists them",
        )
    chosen = sorted(
        name.removeprefix(PREFIX).lower() for name in environment if name.upper() in known
    )
    if chosen and not faults:
        yield ok("settings", f"{len(chosen)} from the environment: {', '.join(chosen)}")
    elif not faults and not unknown:
        yield ok("settings", "none in the environment")


def keys(its: Settings) -> Iterator[Finding]:
    """Whether the file of keys can be used, and whether strangers may ask."""
    given = [key.get_secret_value() for key in its.api_keys]
    if Keys(given, its.api_keys_file):
        yield ok("keys", "whoever asks must show a key")
    elif its.host in ("127.0.0.1", "::1", "localhost"):
        yield ok("keys", "none, and only this machine can ask")
    else:
        yield warning(
            "keys",
            f"everybody who reaches {its.host} may ask",
            f"set {spelled('api_keys_file')}, or let a proxy ask for keys",
        )


def tracing(its: Settings) -> Iterator[Finding]:
    """Whether spans have somewhere to go."""
    if not its.tracing:
        return
    from service.http.middleware.tracing import provider

    tracer = provider(its)
    if tracer is not None:
        tracer.shutdown()
    yield ok("tracing", "on")
