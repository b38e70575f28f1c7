"""The memory that commands take."""

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Any

from tests.support.commands import Stream, here, plain
from tests.support.servers import PATIENCE, ROOT

# One image is under way at once, so that two folders differ by what is kept of them.
ONE_AT_ONCE: dict[str, Any] = {"max_batch": 1, "max_queue": 1, "max_files": 1, "threads": 1}


class Nowhere(Stream):
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        """Only in name."""
        return len(text)


def most_allocated(*arguments: str, **settings: Any) -> int:
    """Bytes that Python and numpy had allocated at most at any time of a command that runs here."""
    from service.__main__ import main

    gc.collect()
    gc.freeze()  # else what the tests have makes the collector of what the command drops lazy
    tracemalloc.start()
    try:
        variables = plain(**ONE_AT_ONCE, **settings)
        done = here(main, "alexnet", *arguments, variables=variables, stdout=Nowhere())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert done.returncode == 0, done.stderr.decode()
    return most


GROWTH = """\
import json, resource, sys
from service.__main__ import main
taken = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["alexnet", *arguments]
    try: main()
    except SystemExit as ended: assert not ended.code, ended
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(taken[-1] - taken[-2])
"""


def growth(commands: Sequence[Sequence[str]], **settings: Any) -> int:
    """Bytes that the last of these commands had resident at most, one after the other in a process
    of their own, beyond those before it; they print nothing on standard output."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, json.dumps(commands)],
        cwd=ROOT,
        env=plain(**ONE_AT_ONCE, **settings),
        capture_output=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr.decode()
    return 1024 * int(done.stdout)
