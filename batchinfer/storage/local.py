"""The five verbs on a local disk: temporary file, fsync, link or rename, fsync of the directory."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import TypeVar

from batchinfer.errors import AccessError, OutputError, StorageError
from batchinfer.storage.protocol import Entry

T = TypeVar("T")

_ADVICE = {
    errno.ENOSPC: "the disk is full: free space, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space, then run the same command again",
    errno.EIO: "the disk reports an input/output error",
}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_OBJECT = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Below a file, a folder, and names that no file can have: there is no such object."""
_ATTEMPTS = 10


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours; a missing file stays FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except PermissionError as e:
        raise AccessError(
            f"{path}: no permission ({e.strerror}): check owner and mode of the file and its folder"
        ) from e
    except OSError as e:
        if e.errno == errno.EROFS:
            raise AccessError(f"{path}: the file system is read-only: mount it for writing, or use another path") from e
        raise StorageError(f"{path}: {_ADVICE.get(e.errno or 0, e.strerror or str(e))}") from e


class LocalStore:
    """Objects are files below `root`."""

    def __init__(self, root: str, *, scratch: str | None = None) -> None:
        self.root = str(Path(root).absolute())
        self._folder = Path(self.root)
        self._scratch = scratch

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """See Store.list. Symbolic links to files are followed, those to folders too unless they lead back.

        One that leads nowhere is listed with no bytes: reading it raises, where leaving it out would hide that something is missing.
        """
        top = self._folder / prefix
        with _translated(top):
            if top.is_file():
                return [self._entry(prefix, top.stat())]
            found: builtins.list[Entry] = []
            self._walk(top, prefix.strip("/"), found, frozenset())
            return sorted(found, key=lambda e: e.path)

    def _walk(self, folder: Path, name: str, found: builtins.list[Entry], above: frozenset[tuple[int, int]]) -> None:
        try:
            here = folder.stat()
            children = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        identity = (here.st_dev, here.st_ino)
        if identity in above:
            return
        for child in children:
            path = f"{name}/{child.name}" if name else child.name
            try:
                if child.is_dir():
                    self._walk(Path(child.path), path, found, above | {identity})
                else:
                    found.append(self._entry(path, child.stat()))
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                if child.is_symlink():  # to nothing; else it was deleted since the folder was read
                    found.append(Entry(path, 0, ""))

    @staticmethod
    def _entry(path: str, stat: os.stat_result) -> Entry:
        return Entry(path, stat.st_size, str(stat.st_mtime_ns))

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store.read."""
        target = self._folder / path
        with _translated(target), _opened(target) as file:
            end = os.fstat(file.fileno()).st_size if stop is None else stop
            pieces: list[bytes] = []
            while start < end:
                piece = os.pread(file.fileno(), end - start, start)
                if not piece:
                    break
                pieces.append(piece)
                start += len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, path: str, start: int, target: memoryview) -> int:
        """Fill `target` from `start` on and give the number of bytes that there were; the memory is the caller's, so it can be reused."""
        file = self._folder / path
        filled = 0
        with _translated(file), _opened(file) as opened:
            while filled < len(target):
                count = os.preadv(opened.fileno(), [target[filled:]], start + filled)
                if count == 0:
                    break
                filled += count
        return filled

    def put(self, path: str, data: bytes) -> None:
        """See Store.put."""
        target = self._folder / path
        with _translated(target), self._written(target, data) as temporary:
            _in_folder(target, lambda: temporary.replace(target))
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """See Store.create. A hard link fails where the name exists and shows the whole content where it succeeds."""
        target = self._folder / path
        with _translated(target), self._written(target, data) as temporary:
            try:
                _in_folder(target, lambda: os.link(temporary, target))
            except FileExistsError:
                won = target.read_bytes() == data
            except OSError as e:
                if e.errno in _NO_LINKS:
                    raise OutputError(
                        f"{target}: this file system has no hard links, and without them two runners could overwrite each "
                        "other's results: use another disk, or a bucket by its URL, or, where you see to it that no second "
                        "run writes there, --single-writer"
                    ) from e
                raise
            else:
                won = True
            _sync_folder(target.parent)  # also for a name that another made: it may have died before it did so
            return won

    def delete(self, path: str) -> None:
        """See Store.delete. Folders that this empties go too, up to the root."""
        target = self._folder / path
        with _translated(target):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()
            for folder in target.parents:
                if folder == self._folder:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break

    @contextlib.contextmanager
    def _written(self, target: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file on the target's file system; gone when the block ends."""
        folder = target.parent if self._scratch is None else self._folder / self._scratch
        temporary = folder / f".{target.name}.{secrets.token_hex(6)}.tmp"
        fd = self._open(target, temporary)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _open(target: Path, temporary: Path) -> int:
        """Open the temporary file; another process may remove an empty folder between making and using it."""
        _make_folder(target.parent)
        return _in_folder(temporary, lambda: os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _opened(path: Path) -> FileIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as e:
        if e.errno in _NO_OBJECT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from e
        raise


def _in_folder(target: Path, publish: Callable[[], T]) -> T:
    """Publish a name in a folder that is made when it is missing: whoever deletes the last file of a folder removes it."""
    for _ in range(_ATTEMPTS):
        _make_folder(target.parent)
        with contextlib.suppress(FileNotFoundError):
            return publish()
    raise StorageError(f"{target.parent}: the folder keeps disappearing: something else removes it")


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        folder.mkdir()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
