"""
Every error of the service, as a tree.  It is divided first by whose fault it is.

* ServiceError
  + RequestError               the client's request is at fault
    - RequestMalformed
    - BodyEmpty
    - BodyTooLarge
    - BodyTooSlow
    - HeadersTooSlow
    - HeadersTooLarge
    - TooManyFiles
    - MediaTypeUnsupported
    - ParameterInvalid
  + ImageError                 the client's image is at fault
    - ImageTypeUnsupported
    - ImageTooLarge
    - ImageTooElongated
    - ImageTooCostly
    - ImageUnreadable
  + Unauthorized               the client has no valid key
  + RateLimited                the client asks more often than it may; come back later
  + Overloaded                 no client is at fault; come back later
  + RunFailed                  the service is at fault, with this image
  + NotReady                   the service is starting or stopping
  + DeadlineExceeded           the answer would come too late
  + FileUnreadable             a command was given a file that cannot be read; no client meets it
  + StartError                 the installation is at fault; raised at start-up only
    - RuntimeMissing
    - ModelUnusable
    - ProviderUnusable
    - SettingsInvalid

Each class carries the `code` that clients read.  Messages say what is wrong and what to do.
HTTP statuses are in one table, in http/middleware/errors.py.
"""

from collections.abc import Collection
from typing import ClassVar


class ServiceError(Exception):
    """The root: whatever this service raises on purpose."""

    code: ClassVar[str] = "service_error"


class RequestError(ServiceError):
    """The request is at fault, whatever the image in it."""

    code = "request_invalid"


class RequestMalformed(RequestError):
    """The body cannot be parsed as what its headers say it is."""

    code = "request_malformed"


class BodyEmpty(RequestError):
    """There is no image: the body, or the part, has no bytes."""

    code = "body_empty"


class BodyTooLarge(RequestError):
    """The body has more bytes than the service accepts."""

    code = "body_too_large"


class BodyTooSlow(RequestError):
    """The body did not arrive in the time allowed for it."""

    code = "body_too_slow"


class HeadersTooSlow(RequestError):
    """The headers did not arrive in the time allowed for them."""

    code = "headers_too_slow"


class HeadersTooLarge(RequestError):
    """The request line and headers have more bytes than the service accepts."""

    code = "headers_too_large"


class TooManyFiles(RequestError):
    """The form holds more images than one request may bring."""

    code = "too_many_files"


class MediaTypeUnsupported(RequestError):
    """The Content-Type is neither an image nor a form, or the Content-Encoding is not undone."""

    code = "media_type_unsupported"

    def __init__(self, message: str, *, accept_encoding: str | None = None) -> None:
        """`accept_encoding` are the codings that are undone, where the coding is at fault."""
        super().__init__(message)
        self.accept_encoding = accept_encoding


class ParameterInvalid(RequestError):
    """A parameter has a value that the service, or this model, does not offer."""

    code = "parameter_invalid"


class ImageError(ServiceError):
    """The image is at fault."""

    code = "image_invalid"


class ImageTypeUnsupported(ImageError):
    """The bytes do not begin like any image format that the service reads."""

    code = "image_type_unsupported"


class ImageTooLarge(ImageError):
    """The image has more pixels than the service decodes."""

    code = "image_too_large"


class ImageTooElongated(ImageError):
    """The image is a ribbon, of which the central square would show next to nothing."""

    code = "image_too_elongated"


class ImageTooCostly(ImageError):
    """Decoding the image would take more time than is allowed for one."""

    code = "image_too_costly"


class ImageUnreadable(ImageError):
    """The bytes begin like an image, but cannot be decoded to the end."""

    code = "image_unreadable"


class Unauthorized(ServiceError):
    """The request has no API key, or an invalid one."""

    code = "unauthorized"


class ComeBackLater(ServiceError):
    """Refused now; `retry_after` says in how many whole seconds to try again."""

    code = "come_back_later"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(ComeBackLater):
    """The client has used up what it may ask for in this time."""

    code = "rate_limited"


class Overloaded(ComeBackLater):
    """The queue is full; it should have room by then."""

    code = "overloaded"


class RunFailed(ServiceError):
    """The network could not be run on this image; the log says why."""

    code = "internal_error"


class NotReady(ServiceError):
    """The model is not loaded yet, or the service is stopping."""

    code = "not_ready"


class DeadlineExceeded(ServiceError):
    """The time that the request allowed has passed."""

    code = "deadline_exceeded"


class FileUnreadable(ServiceError):
    """An image, or a list of them, that cannot be read from the disk; only commands do that."""

    code = "file_unreadable"


class StartError(ServiceError):
    """The service cannot start; the message is all that its operator sees."""

    code = "start_failed"


class RuntimeMissing(StartError):
    """ONNX Runtime is not installed, or twice."""

    code = "runtime_missing"


class ModelUnusable(StartError):
    """The model file is missing, damaged, or not of the format that the service reads."""

    code = "model_unusable"


class ProviderUnusable(StartError):
    """The device that was asked for is not the one that computes."""

    code = "provider_unusable"


class SettingsInvalid(StartError):
    """A setting is unknown, out of range, or contradicts another."""

    code = "settings_invalid"

    def __init__(self, message: str, *, settings: Collection[str] = ()) -> None:
        """`settings` are the fields at fault, where it is known which ones."""
        super().__init__(message)
        self.settings = frozenset(settings)
