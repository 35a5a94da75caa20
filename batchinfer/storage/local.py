"""The five verbs on a local disk: temporary file, fsync, link or rename, fsync of the directory."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from batchinfer.errors import AccessError, StorageError
from batchinfer.storage.store import Entry

_ADVICE = {
    errno.ENOSPC: "the disk is full: free space, then run the same command again",
    errno.EDQUOT: "the quota is used up: free space, then run the same command again",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
}


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
        raise StorageError(f"{path}: {_ADVICE.get(e.errno or 0, e.strerror or str(e))}") from e


class LocalStore:
    """Objects are files below `root`."""

    def __init__(self, root: str, *, scratch: str | None = None) -> None:
        self.root = str(Path(root).absolute())
        self._folder = Path(self.root)
        self._scratch = scratch

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """See Store.list. Symbolic links to files are followed, those to folders too unless they lead back."""
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
            if child.is_dir():
                self._walk(Path(child.path), path, found, above | {identity})
            else:
                with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                    found.append(self._entry(path, child.stat()))

    @staticmethod
    def _entry(path: str, stat: os.stat_result) -> Entry:
        return Entry(path, stat.st_size, str(stat.st_mtime_ns))

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """See Store.read."""
        target = self._folder / path
        with _translated(target), target.open("rb", buffering=0) as file:
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
        with _translated(file), file.open("rb", buffering=0) as opened:
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
            temporary.replace(target)
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """See Store.create. A hard link fails where the name exists and shows the whole content where it succeeds."""
        target = self._folder / path
        with _translated(target), self._written(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return target.read_bytes() == data
            _sync_folder(target.parent)
            return True

    def delete(self, path: str) -> None:
        """See Store.delete. Folders that this empties go too, up to the root."""
        target = self._folder / path
        with _translated(target):
            target.unlink(missing_ok=True)
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
        for _ in range(5):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        raise FileNotFoundError(errno.ENOENT, "the folder keeps disappearing", str(temporary.parent))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
