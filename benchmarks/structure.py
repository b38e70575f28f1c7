"""
Measures of the code: size, modules crossed by one JPEG.

    python -m benchmarks.structure

Counts lines, modules and names of `service`, and profiles one `POST /v1/predict` to a server in a
thread: every Python call that enters another module of `service` is a change.
"""

import socket
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2

from .processes import ROOT

SERVICE = ROOT / "service"
CAT = ROOT / "tests" / "pictures" / "cat.jpg"


def modules() -> dict[str, int]:
    """The modules of `service`, as paths below it, and their lines."""
    return {
        str(path.relative_to(SERVICE)): len(path.read_text("utf-8").splitlines())
        for path in sorted(SERVICE.rglob("*.py"))
    }


def repeated() -> list[str]:
    """Module names that stand in more than one package, but `__init__` and `errors`."""
    names = Counter(Path(path).stem for path in modules())
    return sorted(name for name, count in names.items() if count > 1 and name[:2] != "__")


class Crossings:
    """A profile function that notes which modules of `service` are entered, one after another."""

    def __init__(self) -> None:
        self.recording = False
        self.entered: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.recording or event != "call":
            return
        path = frame.f_code.co_filename
        if path.startswith(f"{SERVICE}/") and self.entered[-1:] != [path]:
            self.entered.append(path)


def crossings() -> tuple[int, int]:
    """Modules of `service` that one JPEG crosses, and how often the module changes."""
    profile = Crossings()
    threading.setprofile(profile)
    from service.app import Server, create_app
    from service.settings import load_engine, load_settings

    settings = load_settings(device="cpu", host="127.0.0.1", port=0, log_level="warning")
    engine = load_engine(settings)
    app = create_app(settings, engine)
    ready = threading.Event()
    server = Server(app, ready.set, lambda current: current)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    ready.wait()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/predict"
    with httpx2.Client(headers={"content-type": "image/jpeg"}) as client:
        client.post(url, content=CAT.read_bytes()).raise_for_status()
        profile.recording = True
        client.post(url, content=CAT.read_bytes()).raise_for_status()
        profile.recording = False
    server.should_exit = True
    thread.join()
    threading.setprofile(None)
    return len(set(profile.entered)), len(profile.entered)


def main() -> None:
    """Print a Markdown table."""
    lines = modules()
    crossed, changes = crossings()
    longest = sorted(lines, key=lines.__getitem__)[-3:]
    print("| measure of `service` | |")
    print("|---|---|")
    print(f"| lines of Python | {sum(lines.values()):,} |")
    print(f"| modules | {len(lines)} |")
    print(f"| modules at the top | {sum('/' not in path for path in lines)} |")
    print(f"| names of several modules | {', '.join(repeated()) or 'none'} |")
    print(f"| longest modules | {', '.join(f'{path} {lines[path]}' for path in longest)} |")
    print(f"| modules that one JPEG crosses | {crossed} |")
    print(f"| changes of module on its way | {changes} |")


if __name__ == "__main__":
    main()
