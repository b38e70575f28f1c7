"""All errors of the client, by the server's codes."""

from collections.abc import Mapping
from typing import ClassVar, Final


class ClientError(Exception):
    """
    The root: all that the client raises on purpose; `str()` says what is wrong and what to do.

    `code` is one word that does not change, the server's own where it refused.
    """

    code: str = "client_error"
    retried: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status  # None if there was no answer, or if it is one image's of several
        self.retry_after = retry_after  # seconds
        self.request_id = request_id  # the X-Request-ID that the server's log has
        self.filename = filename  # of the image at fault, if one is and it has a name


class FileUnreadable(ClientError):
    """An image's file cannot be read; nothing was sent."""

    code = "file_unreadable"


class DownloadFailed(FileUnreadable):
    """An image's address did not give it; nothing was sent to the server."""

    code = "download_failed"


class ConnectionFailed(ClientError):
    """Nothing answers there, or the connection was lost before the answer was complete."""

    code = "connection_failed"
    retried = True


class CertificateRefused(ConnectionFailed):
    """The server's certificate is not trusted here, or is not for this address."""

    code = "certificate_refused"
    retried = False


class TimedOut(ClientError):
    """No answer in the time that the caller allows."""

    code = "timed_out"


class AnswerUnreadable(ClientError):
    """An answer, but not as this service writes it: another server, or another version."""

    code = "answer_unreadable"


class Refused(ClientError):
    """The server says no; `status` and `code` say why."""

    code = "refused"


class RequestRefused(Refused):
    """The request is at fault, not the image in it: a parameter, its size, its address."""


class ImageRefused(Refused):
    """The image is at fault; others may be answered."""


class Unauthorized(Refused):
    """There is no API key in the request, or not one of the server's."""


class DeadlineExceeded(Refused):
    """The server's own time for a request has passed."""


class ServerFailed(Refused):
    """The server is at fault; its log says why, under `request_id`."""


class Unavailable(Refused):
    """Not now; `retry_after` says when, if the server does."""

    retried = True


class Overloaded(Unavailable):
    """The server's queue is full."""


class RateLimited(Unavailable):
    """The caller has used up what it may ask for in this time."""


class NotReady(Unavailable):
    """The server starts, or stops."""


# The server's codes, by what each becomes here.
CODES: Final[Mapping[type[Refused], str]] = {
    RequestRefused: "request_malformed body_too_large body_too_slow headers_too_slow "
    "headers_too_large too_many_files media_type_unsupported parameter_invalid not_found "
    "method_not_allowed",
    ImageRefused: "body_empty image_type_unsupported image_too_large image_too_elongated "
    "image_too_costly image_unreadable",
    Unauthorized: "unauthorized",
    DeadlineExceeded: "deadline_exceeded",
    ServerFailed: "internal_error",
    Overloaded: "overloaded",
    RateLimited: "rate_limited",
    NotReady: "not_ready",
}
REFUSALS: Final = {code: kind for kind, codes in CODES.items() for code in codes.split()}

# For what others answer in the server's place, proxies above all.
STATUSES: Final[Mapping[int, type[Refused]]] = {
    401: Unauthorized,
    403: Unauthorized,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def refusal_of(code: str, status: int | None) -> type[Refused]:
    """The class for a code that is known here, or else for the status."""
    if code in REFUSALS:
        return REFUSALS[code]
    status = status or 500
    return STATUSES.get(status, ServerFailed if status >= 500 else RequestRefused)
