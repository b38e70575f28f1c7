"""Images and what is asked of them -> the request.  Nothing here sends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from alexnet_client import responses
from alexnet_client.images import Upload
from alexnet_client.responses import Outcome, Response

T = TypeVar("T")

OCTETS: Final = "application/octet-stream"  # the server looks at the bytes themselves
UNNAMED: Final = "picture"  # a part of a form without a name would be no file


@dataclass(frozen=True)
class Options:
    """
    What is asked of each image, in the words of `Client.classify`.

    `details` and `classes` may be one string, with commas between several.
    """

    top: int
    crops: str
    details: Sequence[str]
    threshold: float
    classes: Sequence[str | int]
    renormalise: bool

    @property
    def heatmap(self) -> bool:
        """Whether a heatmap is asked for."""
        return "heatmap" in self.details

    def params(self) -> dict[str, Any]:
        """The query, as httpx2 takes it, without what is not asked for."""
        params: dict[str, Any] = {"top": self.top, "crops": self.crops}
        chosen = {
            "details": self.details if isinstance(self.details, str) else ",".join(self.details),
            "threshold": self.threshold,
            "classes": self.classes if isinstance(self.classes, str) else [*self.classes],
            "renormalise": self.renormalise and "true",
        }
        return params | {name: value for name, value in chosen.items() if value}


@dataclass(frozen=True)
class Request(Generic[T]):
    """A request, and what its answer means; `read` raises `ClientError`."""

    path: str
    read: Callable[[Response], T]
    options: Mapping[str, Any]  # method, query, headers and body, as httpx2 takes them


HEALTH: Final = Request("health", responses.health, {"method": "GET"})
READINESS: Final = Request("readyz", responses.readiness, {"method": "GET"})


def predict(uploads: Sequence[Upload], options: Options) -> Request[list[Outcome]]:
    """Classify the images: one is the body itself, which is faster; several are a form."""
    body: dict[str, Any]
    if len(uploads) == 1:
        body = {"content": uploads[0].data, "headers": {"Content-Type": OCTETS}}
    else:
        body = {
            "files": [
                # Without the halves of characters, which no form could hold.
                ("file", ((name or UNNAMED).encode("utf-8", "replace").decode(), data, OCTETS))
                for data, name in ((upload.data, upload.filename) for upload in uploads)
            ]
        }
    return Request(
        "v1/predict",
        lambda response: responses.outcomes(response, [upload.filename for upload in uploads]),
        {"method": "POST", "params": options.params(), **body},
    )
