"""Runs a page's Python blocks, one line of JSON each, in one namespace; answers likewise."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what children print is not a reply
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for request in sys.stdin:
        block = json.loads(request)
        printed, failed = io.StringIO(), False
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                # Its lines are the page's, so that a traceback tells where it was.
                code = compile("\n" * block["line"] + block["source"], "the page", "exec")
                exec(code, namespace)
            except BaseException:
                failed = True
                traceback.print_exc()
        replies.write(json.dumps([failed, printed.getvalue()]) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
