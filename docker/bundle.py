"""Print the config.json with which an OCI runtime runs an image as compose.yaml has it run.

Read from standard input is what `buildah inspect --type image` says of the image.  What an engine
adds is left out: networks (the container has the host's) and cgroups, so limits of memory and
processes.
"""

import argparse
import json
import sys
from typing import Any

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("root", help="where the image's file system is mounted")
parser.add_argument("--user", help="UID:GID in place of the image's")
parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
parser.add_argument("--volume", action="append", default=[], metavar="SOURCE:TARGET:ro")
given = parser.parse_args()
image: dict[str, Any] = json.load(sys.stdin)["OCIv1"]["config"]
uid, gid = (given.user or image["User"]).split(":")


def mount(target: str, kind: str, source: str, *options: str) -> dict[str, object]:
    """One row of the container's mounts."""
    return {"destination": target, "type": kind, "source": source, "options": ["nosuid", *options]}


volumes = [volume.split(":") for volume in given.volume]  # all of them to be read only
config = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": int(uid), "gid": int(gid)},
        "args": (image.get("Entrypoint") or []) + (image.get("Cmd") or []),
        "env": image["Env"] + given.env,
        "cwd": image.get("WorkingDir") or "/",
        "capabilities": {},
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 16384, "hard": 16384}],
    },
    "root": {"path": given.root, "readonly": True},
    "mounts": [
        mount("/proc", "proc", "proc", "noexec", "nodev"),
        mount("/dev", "tmpfs", "tmpfs", "mode=755", "size=64k"),
        mount("/tmp", "tmpfs", "tmpfs", "noexec", "nodev", "mode=1777", "size=64m"),
        *(mount(target, "bind", source, "bind", "ro") for source, target, _ in volumes),
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
    },
}
json.dump(config, sys.stdout, indent=1)
