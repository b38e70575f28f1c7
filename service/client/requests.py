"""
What is sent, and how its answer is read; nothing here sends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from service.client import responses
from service.client.inputs import Upload
from service.client.responses import Outcome, Response

T = TypeVar("T")

OCTETS: Final = "application/octet-stream"  # the server looks at the bytes themselves
UNNAMED: Final = "picture"  # a part of a form without a name would be no file


@dataclass(frozen=True)
class Request(Generic[T]):
    """A request, and what its answer means; `read` raises `ClientError`."""

    path: str
    read: Callable[[Response], T]
    options: Mapping[str, Any]  # method, query, headers and body, as httpx2 takes them


HEALTH: Final = Request("health", responses.health, {"method": "GET"})
READINESS: Final = Request("readyz", responses.readiness, {"method": "GET"})


def predict(
    uploads: Sequence[Upload], top: int, crops: str, details: Sequence[str]
) -> Request[list[Outcome]]:
    """Classify the images: one is the body itself, which is faster; several are a form."""
    params: dict[str, str | int] = {"top": top, "crops": crops}
    if names := details if isinstance(details, str) else ",".join(details):
        params["details"] = names
    body: dict[str, Any]
    if len(uploads) == 1:
        body = {"content": uploads[0].data, "headers": {"Content-Type": OCTETS}}
    else:
        body = {
            "files": [
                ("file", (_printable(upload.filename or UNNAMED), upload.data, OCTETS))
                for upload in uploads
            ]
        }
    return Request(
        "v1/predict",
        lambda response: responses.outcomes(response, uploads),
        {"method": "POST", "params": params, **body},
    )


def _printable(name: str) -> str:
    """A name without the halves of characters that no form could hold."""
    return name.encode("utf-8", "replace").decode()
