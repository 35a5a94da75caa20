"""Models that lie elsewhere, fetched into this machine's cache once and kept by the digest of what they hold.

When a job is planned, `s3://models/churn/` becomes `s3://models/churn@sha256:<digest>`: a uri that means the same model everywhere,
and on each machine a place in its cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from batchinfer.engines.mlflow_registry import SCHEMES, RegisteredModel
from batchinfer.engines.remote import Remote, StoredModel
from batchinfer.errors import MissingExtraError, ModelError, RefusedError, StorageError, TransientError
from batchinfer.job.locations import is_url
from batchinfer.job.steps import Step
from batchinfer.precision import artefacts
from batchinfer.storage.store import StorageOptions, is_local

log = logging.getLogger(__name__)

_PINNED = re.compile(r"(.+)@sha256:([0-9a-f]{64})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL = "model"
"""The folder inside an artefact that holds the model's own file or folder."""
_FILES = {"torch": ("weights",), "onnx": ("calibration",), "openvino": ("calibration",)}
"""Options that name a file beside the model's own, by engine."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(uri: str) -> bool:
    """Whether a model must be fetched before it can be loaded."""
    return uri.startswith(SCHEMES) or (is_url(uri) and not is_local(uri))


def remote_uris(step: Step) -> dict[str, str]:
    """What a step has fetched, by its key."""
    named = {"uri": step.uri, **{f"options.{key}": step.options.get(key) for key in _FILES.get(step.engine, ())}}
    return {key: uri for key, uri in named.items() if isinstance(uri, str) and is_remote(uri)}


def pin(step: Step, storage: StorageOptions) -> Step:
    """The step with the digests of what it has fetched, which is then in the cache. Raises as `fetch` does."""
    found = {key: fetch(uri, storage, f"{step.name}.{key}") for key, uri in remote_uris(step).items()}
    if not found:
        return step
    options = {**step.options, **{key.removeprefix("options."): uri for key, uri in found.items() if key != "uri"}}
    return step.model_copy(update={"uri": found.get("uri", step.uri), "options": options})


def bring(step: Step, storage: StorageOptions) -> None:
    """Have what a pinned step fetches in this machine's cache. Raises as `fetch` does."""
    for key, uri in remote_uris(step).items():
        fetch(uri, storage, f"{step.name}.{key}")


def path_of(uri: str, where: str) -> Path:
    """Where the file or folder of a pinned uri is in this machine's cache, once it was fetched. Raises ModelError for another uri."""
    address, digest = _parted(uri)
    if digest is None:
        raise ModelError(f"{where}: {uri} wasn't fetched, which is done when a job is planned")
    return artefacts.place_of(_made_of(digest)) / _MODEL / _name(address)


def addressed(message: str, step: Step) -> str:
    """A message about the files of a step with their URLs in place of where they are in the cache."""
    for key, uri in remote_uris(step).items():
        message = message.replace(str(path_of(uri, f"{step.name}.{key}")), _parted(uri)[0])
    return message


def fetch(uri: str, storage: StorageOptions, where: str) -> str:
    """Have a model in this machine's cache, and give its uri with the digest of what it holds.

    Nothing is fetched where it is there already, whole: by the digest in the uri, or by what its store says of it now. Of several
    processes that want one model, one fetches it and the others wait.

    Args:
        uri: of a file or a folder; with `@sha256:<digest>` behind it, of exactly this one.
        storage: fsspec options by URL prefix.
        where: its key in the job file, for messages.

    Raises:
        ModelError: there is nothing, it isn't the one that was pinned, it changes while it is fetched, or it can't be kept.
        StorageError, AccessError, RefusedError, MissingExtraError: its store can't be read.

    """
    address, wanted = _parted(uri)
    if wanted is not None and artefacts.is_kept(_made_of(wanted)):
        return uri
    with _told(where, address):
        remote = _remote(address, storage)
        with _alone(remote.address) as place:
            return f"{remote.address}@sha256:{_kept(remote, wanted, place)}"


def look(uri: str, storage: StorageOptions, where: str) -> bool:
    """Whether a model is in this machine's cache by the digest in its uri; where it isn't, its store is asked, and nothing fetched.

    Raises as `fetch` does where the store hasn't got it.
    """
    address, wanted = _parted(uri)
    if wanted is not None and artefacts.is_kept(_made_of(wanted)):
        return True
    with _told(where, address):
        _remote(address, storage).version()
    return False


def _remote(address: str, storage: StorageOptions) -> Remote:
    return RegisteredModel(address) if address.startswith(SCHEMES) else StoredModel(address, storage)


def _kept(remote: Remote, wanted: str | None, place: Path) -> str:
    """The digest of a model that is in the cache from now on; `place` is an empty folder."""
    if wanted is not None and artefacts.is_kept(_made_of(wanted)):  # another process has fetched it meanwhile
        return wanted
    version = remote.version()
    note = artefacts.cache_folder() / "fetched" / hashlib.sha256(f"{remote.address}\0{version}".encode()).hexdigest()
    known = _noted(note) if wanted is None else None
    if known is not None and artefacts.is_kept(_made_of(known)):
        return known
    began, model = time.monotonic(), place / _name(remote.address)
    remote.download(model)
    if remote.version() != version:
        raise ModelError(f"{remote.address} changed while it was fetched: run again once it is written")
    digest = _digest(place)
    if wanted not in (None, digest):
        raise ModelError(
            f"{remote.address} is not what it was: it now has the digest {digest}, and {wanted} is pinned. Bring the model back, or "
            "plan the job anew"
        )
    artefacts.artefact(_made_of(digest), lambda folder: _move(place, folder / _MODEL))
    _write_note(note, digest)
    log.info("fetched %s in %.1f s", remote.address, time.monotonic() - began)
    return digest


def _parted(uri: str) -> tuple[str, str | None]:
    """Address and digest."""
    match = _PINNED.fullmatch(uri)
    return (uri, None) if match is None else (match[1], match[2])


def _name(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def _made_of(digest: str) -> Mapping[str, str]:
    return {"fetched": digest}


def _digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{artefacts.digest(path)}\0".encode())
    return total.hexdigest()


def _move(place: Path, target: Path) -> None:
    target.mkdir()
    for path in place.iterdir():
        path.rename(target / path.name)


def _noted(note: Path) -> str | None:
    try:
        text = note.read_text()
    except (OSError, ValueError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def _write_note(note: Path, digest: str) -> None:
    note.parent.mkdir(exist_ok=True)
    made = note.with_suffix(".tmp")  # nobody else writes it: the model's lock is held
    made.write_text(digest)
    made.replace(note)


@contextlib.contextmanager
def _alone(address: str) -> Iterator[Path]:
    """An empty folder of the cache, for what is fetched from an address; other processes that fetch from there wait."""
    folder = artefacts.cache_folder() / "fetching"
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / hashlib.sha256(address.encode()).hexdigest()
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it however the process ends
        shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _told(where: str, address: str) -> Iterator[None]:
    """Have errors say which key of the job file they are about."""
    try:
        yield
    except MissingExtraError as error:
        raise MissingExtraError(error.package, error.extra, f"{where}: {address}") from None
    except (RefusedError, TransientError) as error:
        raise type(error)(f"{where}: {error}") from error
    except OSError as error:
        what = f"{where}: {address} can't be kept in {artefacts.cache_folder()}: {error.strerror or error}"
        if error.errno in _FULL:
            raise StorageError(f"{what}: free space, or have BATCHINFER_CACHE name a folder with more") from error
        raise ModelError(f"{what}: have BATCHINFER_CACHE name a folder on a local disk") from error
