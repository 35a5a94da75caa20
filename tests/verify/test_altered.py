"""A file that was altered, cut off, lost, swapped or added is found, whichever it is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer.api import verify_output
from batchinfer.errors import OutputError
from batchinfer.ledger import records
from batchinfer.verify.findings import Kind
from tests.run.workplace import Workplace
from tests.verify.outputs import files, kinds


def test_every_single_flipped_bit_in_a_part_or_dead_letter_is_found(output: Path) -> None:
    chance = random.Random(3)
    for path in [*files(output, "data/*.parquet"), *files(output, "_dead_letter/*.parquet")]:
        sound = path.read_bytes()
        for _ in range(40):
            at = chance.randrange(len(sound))
            path.write_bytes(bytes([*sound[:at], sound[at] ^ (1 << chance.randrange(8)), *sound[at + 1 :]]))
            assert kinds(verify_output(output)) == [(Kind.ALTERED, path.name)]
        path.write_bytes(sound)
    assert verify_output(output).findings == []


Mutation = Callable[[Path, list[Path], Any], None]


def flip(path: Path, others: list[Path], data: Any) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)


def truncate(path: Path, others: list[Path], data: Any) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))] if content else b"x")


def append(path: Path, others: list[Path], data: Any) -> None:
    path.write_bytes(path.read_bytes() + data.draw(st.binary(min_size=1, max_size=50)))


def remove(path: Path, others: list[Path], data: Any) -> None:
    path.unlink()


def swap(path: Path, others: list[Path], data: Any) -> None:
    exchange(path, data.draw(st.sampled_from(others)))


def copy(path: Path, others: list[Path], data: Any) -> None:
    name = data.draw(st.sampled_from([f"copy-{path.name}", path.name.replace("000000", "000001"), "x.parquet"]))
    (path.parent / name).write_bytes(path.read_bytes() + b" ")


def exchange(one: Path, other: Path) -> None:
    mine, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs)
    other.write_bytes(mine)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_happens_to_a_file_is_found(made: Workplace, tmp_path_factory: Any, data: Any) -> None:
    output = Path(shutil.copytree(made.folder / "output", tmp_path_factory.mktemp("altered") / "output"))
    # A heartbeat is a sign of life: nothing is proven by it.
    everything = sorted(p for p in output.rglob("*") if p.is_file() and p.parent.name != "heartbeats")
    path = data.draw(st.sampled_from(everything))
    published = path.parent.name in ("data", "_dead_letter")
    mutations: list[Mutation] = [flip, truncate, append]
    if path.parent.name != "closed":  # a runner that was killed leaves none
        mutations.append(remove)
    if published:
        mutations.append(copy)
    others = [p for p in everything if p.read_bytes() != path.read_bytes()]
    mutation = data.draw(st.sampled_from([*mutations, swap]))
    mutation(path, others, data)
    if (path.parent.name, mutation) == ("jobs", remove):
        with pytest.raises(OutputError, match="no job of batchinfer"):
            verify_output(output)
    else:
        assert verify_output(output).exit_code == 3
    shutil.rmtree(output.parent)


def test_swapped_parts_are_called_so(output: Path) -> None:
    exchange(*files(output, "data/*.parquet")[:2])
    found = verify_output(output).findings
    assert [f.kind for f in found] == [Kind.ALTERED] * 2
    assert "this is the part of shard 1: were files swapped?" in found[0].message


def test_extra_files_are_found_with_whose_they_are(output: Path) -> None:
    part = files(output, "data/*.parquet")[0]
    extra = {
        "data/part-0000000-00000000.parquet": "it belongs to another job",
        "data/.part.parquet": "no job of batchinfer wrote this file",
        "data/day=1/x.parquet": "no job of batchinfer wrote this file",
        f"data/{part.name.replace('0000000', '0000009', 1)}": "no manifest names it",
        f"_dead_letter/{part.stem}-0123456789ab.parquet": "no manifest names it",
    }
    for name in extra:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(part.read_bytes())
    (output / "data" / ".DS_Store").write_bytes(b"no reader takes it for data")
    found = verify_output(output).findings
    assert {f.path: f.message for f in found} == extra
    assert {f.kind for f in found} == {Kind.EXTRA}


def test_a_success_that_is_missing_or_stale_is_found(output: Path) -> None:
    (output / "data" / "_SUCCESS").unlink()
    assert kinds(verify_output(output)) == [(Kind.MISSING, "_SUCCESS")]
    (output / "data" / "_SUCCESS").touch()
    (results,) = files(output, "_batchinfer/*/run_results.json")
    judged = records.from_bytes(results.read_bytes(), "")
    results.write_bytes(records.to_bytes({**judged, "state": "PARTIAL", "exit_code": 3}))
    assert kinds(verify_output(output)) == [(Kind.EXTRA, "_SUCCESS")]
    results.write_bytes(records.to_bytes(judged))
    (manifest,) = files(output, "_batchinfer/*/manifests/0001.json")
    manifest.unlink()
    assert kinds(verify_output(output)) == [(Kind.EXTRA, "_SUCCESS"), (Kind.UNFINISHED, "0001.json")]


def test_a_damaged_job_record_is_a_finding_and_none_at_all_is_an_error(output: Path, tmp_path: Path) -> None:
    (record,) = files(output, "_batchinfer/jobs/*.json")
    record.write_bytes(record.read_bytes()[:-1])
    assert kinds(verify_output(output)) == [(Kind.ALTERED, "0001.json")]
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(OutputError, match="no job of batchinfer has written here"):
            verify_output(folder)
