"""A small real server that answers as it is told, and remembers what it was asked."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = {"name": "alexnet", "variant": "owt", "precision": "fp32", "version": "abc"}
CLASSES = [{"index": 281, "wordnet_id": None, "label": "tabby", "probability": 0.5}]


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def files(self) -> list[str]:
        """The names of a form's files; none for a raw body."""
        parts = self.body.split(b'; filename="')[1:]
        return [part.partition(b'"')[0].decode() for part in parts]


Act = Callable[[BaseHTTPRequestHandler, Asked], None]


@dataclass
class Scripted:
    """Plays `acts` one by one, and the last one for ever."""

    url: str
    acts: list[Act]
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)  # the test ends


def says(status: int, body: object = None, **headers: str) -> Act:
    """Answer with this status, JSON (bytes as they are) and headers; `_` stands for `-`."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()

    def act(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(text))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text)
        handler.close_connection |= "Content_Length" in headers  # that is not true

    return act


def refuses(status: int, code: str, **headers: str) -> Act:
    """A refusal in our server's shape."""
    return says(status, {"error": f"{code}, said the server", "code": code}, **headers)


def answer(number: int = 1) -> dict[str, Any]:
    """Our server's answer to so many images."""
    predictions = [{"filename": None, "classes": CLASSES}] * number
    return {"model": MODEL, "crops": "ten", "predictions": predictions}


def classifies(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    """Answer as our server does, a form or a single image."""
    says(200, answer(len(asked.files) or 1))(handler, asked)


def hangs_up(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    """Close without a word."""
    handler.close_connection = True


def resets(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    """Break the connection off, as a server of TLS may that is sent HTTP."""
    now = struct.pack("ii", 1, 0)  # SO_LINGER: a reset in place of an end
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    handler.close_connection = True
    # The file objects keep the socket open.
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def babbles(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    """Something that is not HTTP."""
    handler.wfile.write(b"220 mail.example ESMTP\r\n")
    handler.close_connection = True


@contextmanager
def scripted(*acts: Act) -> Iterator[Scripted]:
    """Serve `acts` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = Asked(
                self.command,
                self.path,
                dict(self.headers.items()),
                self.rfile.read(int(self.headers.get("Content-Length", 0))),
            )
            with server.lock:
                server.asked.append(asked)
                act = server.acts[0] if len(server.acts) == 1 else server.acts.pop(0)
            act(self, asked)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Quietly."""

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # all of them have ended when the block has
        request_queue_size = 64

        def handle_error(self, *arguments: object) -> None:
            """A client that left is no trouble of the server."""

    with Server(("127.0.0.1", 0), Handler) as listening:
        server = Scripted(f"http://127.0.0.1:{listening.server_port}", list(acts))
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            listening.shutdown()
            thread.join()
