"""What the errors of the real client libraries mean: each made by the library's own code where that is possible."""

from __future__ import annotations

import json

import aiohttp
import botocore.exceptions
import google.auth.exceptions
import pytest
import requests.exceptions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from gcsfs.retry import ChecksumError, validate_response
from s3fs.errors import translate_boto_error

from batchinfer.errors import AccessError, RefusedError
from batchinfer.storage.faults import Fault, classify
from batchinfer.storage.remote import FsspecStore
from batchinfer.testing.stores import FaultyFileSystem


def s3(status: int, code: str) -> BaseException:
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(botocore.exceptions.ClientError(answer, "PutObject"))


def gcs(status: int, message: str = "m") -> BaseException:
    with pytest.raises(Exception) as raised:
        validate_response(status, json.dumps({"error": {"code": status, "message": message}}), "b/lake/o/x")
    return raised.value


def azure(status: int) -> BaseException:
    error = HttpResponseError("m")
    error.status_code = status
    return error


def refresh(*, retryable: bool = False, cause: BaseException | None = None) -> BaseException:
    error = google.auth.exceptions.RefreshError("m", retryable=retryable)
    error.__cause__ = cause
    return error


MEANING = [
    (s3(503, "SlowDown"), Fault.PASSING),
    (s3(500, "InternalError"), Fault.PASSING),
    (s3(429, "TooManyRequests"), Fault.PASSING),
    (s3(409, "ConditionalRequestConflict"), Fault.PASSING),
    (s3(412, "PreconditionFailed"), Fault.PASSING),
    (s3(400, "RequestTimeout"), Fault.PASSING),
    (s3(400, "BadDigest"), Fault.PASSING),
    (s3(400, "ExpiredToken"), Fault.DENIED),
    (s3(403, "AccessDenied"), Fault.DENIED),
    (s3(403, "SomethingNew"), Fault.DENIED),
    (s3(404, "NoSuchKey"), Fault.MISSING),
    (s3(404, "NoSuchBucket"), Fault.MISSING),
    (s3(301, "PermanentRedirect"), Fault.REFUSED),
    (s3(400, "AuthorizationHeaderMalformed"), Fault.REFUSED),
    (s3(400, "KeyTooLongError"), Fault.REFUSED),
    (s3(501, "NotImplemented"), Fault.REFUSED),
    (s3(405, "MethodNotAllowed"), Fault.DENIED),
    (botocore.exceptions.NoCredentialsError(), Fault.DENIED),
    (botocore.exceptions.ParamValidationError(report="bucket"), Fault.REFUSED),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://s"), Fault.PASSING),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="http://s"), Fault.PASSING),
    (botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), Fault.PASSING),
    (gcs(403), Fault.DENIED),
    (gcs(401), Fault.DENIED),
    (gcs(404), Fault.MISSING),
    (gcs(412), Fault.EXISTS),
    (gcs(429), Fault.PASSING),
    (gcs(502), Fault.PASSING),
    (gcs(503), Fault.PASSING),
    (gcs(400), Fault.REFUSED),
    (gcs(400, "invalid argument"), Fault.REFUSED),
    (ChecksumError("m"), Fault.PASSING),
    (requests.exceptions.ConnectionError("m"), Fault.PASSING),
    (google.auth.exceptions.DefaultCredentialsError("m"), Fault.DENIED),
    (google.auth.exceptions.TransportError("m"), Fault.PASSING),
    (refresh(), Fault.DENIED),
    (refresh(retryable=True), Fault.PASSING),
    (refresh(cause=google.auth.exceptions.TransportError("m")), Fault.PASSING),
    (azure(403), Fault.DENIED),
    (azure(404), Fault.MISSING),
    (azure(409), Fault.PASSING),
    (azure(503), Fault.PASSING),
    (azure(400), Fault.REFUSED),
    (ClientAuthenticationError("m"), Fault.DENIED),
    (ServiceRequestError("m"), Fault.PASSING),
    (ServiceResponseError("m"), Fault.PASSING),
    (aiohttp.ClientPayloadError("m"), Fault.PASSING),
    (aiohttp.ServerDisconnectedError(), Fault.PASSING),
    (aiohttp.InvalidURL("x"), Fault.REFUSED),
    (ConnectionResetError(104, "reset"), Fault.PASSING),
    (TimeoutError(), Fault.PASSING),
    (OSError(5, "EIO"), Fault.PASSING),
    (ZeroDivisionError(), Fault.FOREIGN),
]


@pytest.mark.parametrize(
    ("error", "meaning"), MEANING, ids=[f"{type(e).__name__}-{m.value}-{n}" for n, (e, m) in enumerate(MEANING)]
)
def test_an_error_means(error: BaseException, meaning: Fault) -> None:
    assert classify(error) is meaning


def refusing(error: BaseException) -> tuple[FsspecStore, FaultyFileSystem]:
    fs = FaultyFileSystem(lambda _verb, _n: error)
    return FsspecStore("memory://out", fs), fs


@pytest.mark.parametrize("error", [gcs(403), azure(403), s3(400, "ExpiredToken")], ids=["gcs", "azure", "s3"])
def test_a_right_that_is_missing_is_said_at_once_by_every_verb(error: BaseException) -> None:
    store, fs = refusing(error)
    for call in (
        lambda: store.put("x", b""),
        lambda: store.create("x", b""),
        lambda: store.read("x"),
        lambda: store.delete("x"),
        lambda: store.list(),
    ):
        with pytest.raises(AccessError, match="check credentials and their rights"):
            call()
    assert set(fs.calls.values()) == {1, 2}  # pipe_file by put and create


@pytest.mark.parametrize("error", [s3(301, "PermanentRedirect"), gcs(400), s3(501, "NotImplemented")])
def test_what_the_store_will_never_do_is_no_reason_to_wait(error: BaseException) -> None:
    store, fs = refusing(error)
    with pytest.raises(RefusedError, match="check the URL and the options"):
        store.put("x", b"")
    assert fs.calls["pipe_file"] == 1


def test_a_container_that_is_missing_is_named_whatever_the_library_raises() -> None:
    store, _ = refusing(azure(404))
    with pytest.raises(RefusedError, match="no such bucket or container"):
        store.put("x", b"")
    store.delete("x")
