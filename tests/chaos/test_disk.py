"""A disk that is full, read-only, or not ours: a clear end in seconds, nothing torn, and the same command completes later."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.chaos.place import ROOT, Place, ended, one_kill, wait_for

SMALL_DISK = r"""
set -e
mount -t tmpfs -o size={size}k,mode=755 tmpfs "$1"
mkdir "$1/filler"; head -c {filler}k /dev/zero > "$1/filler/x"
mkdir -p "$1/out"
set +e
"$2" -m batchinfer run "$3" --progress none 2> "$1.said"; echo $? > "$1.first"
cp -a "$1/out" "$1.torn"
rm -r "$1/filler"
"$2" -m batchinfer run "$3" --progress none 2>> "$1.said-again"; echo $? > "$1.second"
cp -a "$1/out" "$1.whole"
"""
"""In a mount namespace of its own, which ends with the shell: a small disk, almost full, then with room."""
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def in_namespace(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A shell in a user and mount namespace of its own, which needs no rights on any usual Linux."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def without_override() -> None:
    """Give up root's right to write anywhere; for anybody else nothing changes."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def full_disk(place: Place, room: int) -> None:
    """Run on a disk with so many KiB of room, then on the same one with enough."""
    disk = place.folder / "disk"
    disk.mkdir()
    place.output = str(disk / "out")
    place.write_job()
    script = SMALL_DISK.format(size=4096, filler=4096 - room)
    done = in_namespace(script, str(disk), sys.executable, str(place.folder / "job.yaml"))
    assert done.returncode == 0, done.stderr
    said = Path(f"{disk}.said").read_text()
    assert Path(f"{disk}.first").read_text().strip() == "75", said
    assert "the disk is full: free space, then run the same command again" in said
    assert "Traceback" not in said
    whole_files(Path(f"{disk}.torn"))
    assert Path(f"{disk}.second").read_text().strip() == "0", Path(f"{disk}.said-again").read_text()
    place.output = f"{disk}.whole"


def whole_files(output: Path) -> None:
    """Every part and every record that can be seen is readable to its end."""
    for path in output.glob("data/*.parquet"):
        pq.read_table(io.BytesIO(path.read_bytes()))
    assert not (output / "data/_SUCCESS").exists()
    assert all(path.read_bytes().endswith(b"}\n") for path in output.glob("_batchinfer/**/*.json"))


@pytest.mark.parametrize("room", [20, 56])
def test_a_full_disk(place: Place, note: Any, room: int) -> None:
    full_disk(place, room)
    note("disk full, then with room", place, one_kill())


@pytest.mark.chaos
@pytest.mark.parametrize("room", range(8, 64, 8))
def test_a_disk_that_is_full_after(place: Place, note: Any, room: int, repetition: int) -> None:
    full_disk(place, room)
    note("disk full, then with room", place, one_kill())


def test_a_read_only_disk_is_refused_in_seconds(place: Place) -> None:
    (place.folder / "output").mkdir()
    place.write_job()
    began = time.monotonic()
    script = 'mount -t tmpfs -o ro tmpfs "$1" && exec "$2" -m batchinfer run "$3" --progress none'
    done = in_namespace(script, place.output, sys.executable, str(place.folder / "job.yaml"))
    assert done.returncode == 2, done.stderr
    assert "the file system is read-only" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 30


def test_a_folder_without_permission_is_refused_and_taken_once_it_is_given(place: Place, note: Any) -> None:
    folder = Path(place.output)
    folder.mkdir(mode=0o555)
    code, said = ended(place.launch(preexec_fn=without_override))
    assert code == 2, said
    assert "no permission" in said
    assert "Traceback" not in said
    assert place.names() == []
    folder.chmod(0o755)
    code, said = place.finish()
    assert code == 0, said
    note("no permission, then given", place, 0)


def test_a_permission_that_is_taken_in_mid_run(place: Place, note: Any) -> None:
    process = place.launch(preexec_fn=without_override)
    wait_for(place.parts, process)
    data = Path(place.output) / "data"
    data.chmod(0o555)
    code, said = ended(process)
    assert code == 2, said
    assert "no permission" in said
    data.chmod(0o755)
    code, said = place.finish()
    assert code == 0, said
    note("permission taken in mid-run, then given", place, one_kill())
