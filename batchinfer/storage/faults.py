"""What an error of a storage client means: told by its type, its HTTP status or its service code, never by its text."""

from __future__ import annotations

from enum import Enum
from typing import Any


class Fault(Enum):
    """What to do about an error of the store."""

    PASSING = "passing"
    """The same request may succeed later: overload, a lost connection, a time-out."""
    DENIED = "denied"
    """Credentials are missing, wrong or without the right."""
    MISSING = "missing"
    """There is no such object, bucket or container."""
    EXISTS = "exists"
    """A conditional create met an object."""
    REFUSED = "refused"
    """The service or its client will never carry out this request: a wrong region, a bad name, a header that it doesn't know."""
    FOREIGN = "foreign"
    """Not the store's: a mistake in the program."""


_CLIENT_LIBRARIES = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"}
_DENIED = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "NoAuthTokenError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
}
_REFUSED = {
    "ParamValidationError",
    "ValidationError",
    "NoRegionError",
    "ProfileNotFound",
    "InvalidConfigError",
    "BaseEndpointResolverError",
}
_PASSING_4XX = {408, 409, 412, 425, 429}
"""A conflict or a failed condition is passing: whoever makes a conditional request reads back what stands there."""
_PASSING_CODES = {"RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
"""S3's names for a body that suffered on its way; their status is 400."""
_DENIED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


def classify(error: BaseException) -> Fault:
    """What an error that an fsspec file system raised means."""
    if isinstance(error, PermissionError):
        return Fault.DENIED
    if isinstance(error, FileExistsError):
        return Fault.EXISTS
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return Fault.MISSING
    names = _names(error)
    if names & _DENIED or _is_refused_refresh(error):
        return Fault.DENIED
    if (told := _by_answer(error)) is not None:
        return told
    if isinstance(error, ValueError) or names & _REFUSED:
        return Fault.REFUSED  # options and names that the client itself doesn't take
    # gcsfs says 403 in this way, and nothing else: system errors have a number, those of HTTP clients a type.
    if type(error) is OSError and error.errno is None:
        return Fault.DENIED
    if isinstance(error, (OSError, TimeoutError)) or any(_of_library(error, name) for name in _CLIENT_LIBRARIES):
        return Fault.PASSING
    return Fault.FOREIGN


def _names(error: BaseException | None) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _is_refused_refresh(error: BaseException) -> bool:
    """Google's word for a token that wasn't renewed: the same type where the network was the reason."""
    refused = "RefreshError" in _names(error) and not getattr(error, "retryable", False)
    return refused and "TransportError" not in _names(error.__cause__)


def _of_library(error: BaseException, name: str) -> bool:
    return type(error).__module__.partition(".")[0] == name


def _by_answer(error: BaseException) -> Fault | None:
    """By what the service answered, if it did."""
    for told in (error, error.__cause__):
        status, code = _status(told)
        if status is None or status < 300:
            continue
        if code in _DENIED_CODES or status in (401, 403):
            return Fault.DENIED
        if status in (404, 410):
            return Fault.MISSING
        passing = status in _PASSING_4XX or code in _PASSING_CODES or (status >= 500 and status != 501)
        return Fault.PASSING if passing else Fault.REFUSED
    return None


def _status(error: Any) -> tuple[int | None, str]:
    """HTTP status and service code that a client library's exception carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status, code = response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response.get("Error", {}).get("Code")
        return (status if isinstance(status, int) else None), str(code)
    for holder in (error, response):  # requests has it on the answer
        for name in ("status_code", "status", "code"):  # azure and requests; aiohttp; gcsfs and google
            status = getattr(holder, name, None)
            if isinstance(status, int):
                return int(status), ""
    return None, ""
