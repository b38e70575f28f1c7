"""Run by smoke.sh in a container: status 1 says which of its promises is broken.

Its argument is the user that the service should have.  Needs the standard library only.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

user = sys.argv[1]
faults: list[str] = []


def hold(promise: str, holds: bool) -> None:
    """Note the promise if it is broken."""
    if not holds:
        faults.append(promise)


# Not of this process: of the service, the first one in the container.
service = dict(line.split(":\t", 1) for line in Path("/proc/1/status").read_text().splitlines())
hold(f"the user is {user}", service["Uid"].split() == [user] * 4)
hold("there are no capabilities", all(int(service[c], 16) == 0 for c in ("CapBnd", "CapEff")))
hold("no program can give new privileges", service["NoNewPrivs"].strip() == "1")
# Asked of the mount, since the user could not write to these anyway.
for folder in ("/", "/opt/venv", "/model", "/var/tmp"):
    hold(f"{folder} is read-only", bool(os.statvfs(folder).f_flag & os.ST_RDONLY))
with tempfile.NamedTemporaryFile(dir="/tmp", suffix=".sh", delete=False) as script:
    script.write(b"#!/bin/sh\n")
os.chmod(script.name, 0o700)
try:
    subprocess.run([script.name], check=True)
    hold("nothing in /tmp can be run", False)
except PermissionError:
    pass
os.unlink(script.name)
for tool in ("pip", "pip3", "gcc", "cc", "uv"):
    hold(f"there is no {tool}", shutil.which(tool) is None)
base = subprocess.run([os.path.realpath(sys.executable), "-c", "import pip"], capture_output=True)
hold("pip cannot be imported", base.returncode != 0 and importlib.util.find_spec("pip") is None)
hold("torch is not here", importlib.util.find_spec("torch") is None)

raise SystemExit(f"not so: {'; '.join(faults)}" if faults else 0)
