"""
Everything that can go wrong at a client's side, drawn once.  Whose fault it is is the first fork.

* ClientError                the root; `code`, `status`, `retry_after`, `request_id`, `filename`
  + FileUnreadable           an image's file cannot be read here; nothing was sent
  + ConnectionFailed         nothing answers there, or the connection was lost; retried
    - CertificateRefused     something answers, but its certificate is not trusted; not retried
  + TimedOut                 no answer in the time that we allow
  + AnswerUnreadable         an answer, but not as our server writes it
  + Refused                  the server says no; `status` and `code` say why
    - RequestRefused         the request is at fault: a parameter, its size, its address
    - ImageRefused         the image is at fault
    - Unauthorized           the key is missing, or is not one of the server's
    - DeadlineExceeded       the server had not enough time
    - ServerFailed           the server is at fault
    - Unavailable            not now; retried
      . Overloaded           its queue is full
      . RateLimited          we have asked more often than we may
      . NotReady             it starts, or stops

`REFUSALS` says which code of the server is which class.
"""

from collections.abc import Mapping
from typing import ClassVar, Final


class ClientError(Exception):
    """
    The root: whatever the client raises on purpose; `str()` says what is wrong and what to do.

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


class ConnectionFailed(ClientError):
    """Nothing answers there, or the connection was lost before the answer was complete."""

    code = "connection_failed"
    retried = True


class CertificateRefused(ConnectionFailed):
    """The server's certificate is signed by nobody that we trust, or is not for this address."""

    code = "certificate_refused"
    retried = False


class TimedOut(ClientError):
    """The time that we allow has passed."""

    code = "timed_out"


class AnswerUnreadable(ClientError):
    """What answers there is not our server, or is one of another time."""

    code = "answer_unreadable"


class Refused(ClientError):
    """The server says no."""

    code = "refused"


class RequestRefused(Refused):
    """The request is at fault, whatever the image in it."""


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
    """We have used up what we may ask for in this time."""


class NotReady(Unavailable):
    """The server starts, or stops."""


REFUSALS: Final[Mapping[str, type[Refused]]] = {
    "request_malformed": RequestRefused,
    "body_too_large": RequestRefused,
    "body_too_slow": RequestRefused,
    "headers_too_slow": RequestRefused,
    "headers_too_large": RequestRefused,
    "too_many_files": RequestRefused,
    "media_type_unsupported": RequestRefused,
    "parameter_invalid": RequestRefused,
    "not_found": RequestRefused,
    "method_not_allowed": RequestRefused,
    "body_empty": ImageRefused,
    "image_type_unsupported": ImageRefused,
    "image_too_large": ImageRefused,
    "image_too_elongated": ImageRefused,
    "image_too_costly": ImageRefused,
    "image_unreadable": ImageRefused,
    "unauthorized": Unauthorized,
    "deadline_exceeded": DeadlineExceeded,
    "internal_error": ServerFailed,
    "overloaded": Overloaded,
    "rate_limited": RateLimited,
    "not_ready": NotReady,
}

# For what others answer in the server's place, proxies above all.
STATUSES: Final[Mapping[int, type[Refused]]] = {
    401: Unauthorized,
    403: Unauthorized,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def refusal_of(code: str | None, status: int | None) -> type[Refused]:
    """The class for a code that we know, or else for the status."""
    if code is not None and code in REFUSALS:
        return REFUSALS[code]
    if status is None or status >= 500:
        return STATUSES.get(status or 500, ServerFailed)
    return STATUSES.get(status, RequestRefused)
