"""
Authentication and rate limiting before the endpoints that classify.

Both happen before the body is read; the first image is counted then, the others once it is known
how many there are.
"""

from dataclasses import dataclass
from typing import Annotated, Final, cast

from fastapi import Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.errors import SettingsInvalid, Unauthorized
from service.http.access import Keys, RateLimiter, network_of
from service.settings import Settings, spelled

BEARER: Final = HTTPBearer(
    scheme_name="bearer", description="Authorization: Bearer KEY", auto_error=False
)
HEADER: Final = APIKeyHeader(
    name="X-API-Key", scheme_name="header", description="X-API-Key: KEY", auto_error=False
)


@dataclass(frozen=True)
class AccessControl:
    """The API keys and the rate limiter of an application; `app.state.access`."""

    keys: Keys
    limiter: RateLimiter | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "AccessControl":
        """Read the keys.  Raises `SettingsInvalid`."""
        if "api_keys" in settings.model_fields_set and not settings.api_keys:
            raise SettingsInvalid(
                f"{spelled('api_keys')} is set, but holds no key; write keys of it, separated by "
                "commas, or take it away, and no key is needed."
            )
        keys = Keys([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
        return cls(keys, RateLimiter(settings.rate_limit) if settings.rate_limit else None)

    @property
    def dependencies(self) -> list[Dependency]:
        """What every endpoint that classifies depends on."""
        if self.keys:
            return [Depends(require_key)]
        return [Depends(count_by_address)] if self.limiter is not None else []


async def require_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    header: Annotated[str | None, Security(HEADER)],
) -> None:
    """What `authenticate` does; its parameters are for the OpenAPI document."""
    authenticate(request)


async def count_by_address(request: Request) -> None:
    """What `authenticate` does."""
    authenticate(request)


def authenticate(request: Request) -> None:
    """
    Let in a request that has one of the keys, if there are any, before its body is read, and count
    an image of its key or, without keys, of its address.

    Once for each request, however often it is called.  Raises `Unauthorized` and `RateLimited`.
    """
    access = _access(request)
    if hasattr(request.state, "client") or not (access.keys or access.limiter):
        return
    client: str | None = network_of(request.client.host) if request.client else ""
    if access.keys:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        offered = (
            bearer.strip() if scheme.lower() == "bearer" else "",
            request.headers.get("x-api-key"),
        )
        candidates = [key for key in offered if key]
        client = next(filter(None, map(access.keys.holds, candidates)), None)
        if client is None:
            what = "invalid API key" if candidates else "this needs an API key"
            raise Unauthorized(f"{what}; send it as -H 'Authorization: Bearer KEY'")
    request.state.client = client
    if access.limiter is not None:
        access.limiter.charge(client or "")


def charge(request: Request, images: int) -> None:
    """
    Count the images of a request, now that it is known how many there are.

    The first was counted before the body was read.  Raises `RateLimited` if they are too many.
    """
    limiter = _access(request).limiter
    if limiter is not None:
        limiter.charge(request.state.client, images, counted=1)


def _access(request: Request) -> AccessControl:
    return cast(AccessControl, request.app.state.access)
