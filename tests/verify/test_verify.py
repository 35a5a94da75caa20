"""An output that a run left verifies; one that anything happened to doesn't."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer import open_run
from batchinfer.api import verify_output
from batchinfer.data.part import PREFIX, PartWriter
from batchinfer.errors import OutputError
from batchinfer.ledger import records
from batchinfer.run.stop import StopRequest
from batchinfer.verify.findings import Kind, Verification
from tests.run.workplace import Workplace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A finished job with everything in it: partitions, pruned row groups, filtered and dead rows, NaN, dictionaries, a limit."""
    workplace = Workplace(tmp_path_factory.mktemp("made"))
    for day, start in (("1", 0), ("2", 3000)):
        (workplace.folder / "input" / f"day={day}").mkdir(parents=True)
        ids = np.arange(start, start + 3000)
        x = pa.array([None if n in (70, 2999, 4000) else int(n) for n in ids], pa.int64())
        table = pa.table(
            {
                "id": ids,
                "x": x,
                "score": np.where(ids % 10 == 0, np.nan, ids / 7),
                "kind": pa.array([f"k{n % 3}" for n in ids]).dictionary_encode(),
                "tags": [[str(n)] * (n % 3) for n in ids.tolist()],
            }
        )
        pq.write_table(table, workplace.folder / "input" / f"day={day}" / "a.parquet", row_group_size=500)
    run = workplace.run(
        input={"where": "id < 1500 OR id > 2600", "limit": 5100}, output={"carry": "all"}, errors={"threshold": 3}
    )
    assert (run.exit_code, run.counts.dead, run.counts.filtered) == (0, 3, 1101)
    return workplace


@pytest.fixture
def output(made: Workplace, tmp_path: Path) -> Path:
    """A copy of it, which a test may alter."""
    return Path(shutil.copytree(made.folder / "output", tmp_path / "copy"))


def files(output: Path, pattern: str) -> list[Path]:
    found = sorted(output.glob(pattern))
    assert found
    return found


def kinds(verification: Verification) -> list[tuple[Kind, str]]:
    return [(f.kind, f.path.rpartition("/")[2]) for f in verification.findings]


@pytest.mark.parametrize("deep", [False, True])
def test_a_finished_output_verifies_also_as_a_copy_elsewhere(output: Path, deep: bool) -> None:
    verification = open_run(output).verify(deep=deep)
    assert (verification.findings, verification.notes, verification.exit_code) == ([], [], 0)
    rows = verification.rows
    assert (rows.planned, rows.succeeded, rows.dead, rows.filtered, rows.not_attempted) == (5100, 3996, 3, 1101, 0)
    assert verification.parts == len(files(output, "data/*.parquet"))


def test_an_output_with_too_many_dead_rows_verifies_too(workplace: Workplace) -> None:
    workplace.write(100, bad={5})
    assert workplace.run().exit_code == 3
    assert workplace.opened().verify(deep=True).findings == []
    workplace.run(errors={"threshold": 1})  # judges anew, and puts _SUCCESS
    assert workplace.opened().verify().findings == []


def test_an_input_without_rows_verifies(workplace: Workplace) -> None:
    workplace.write(0)
    workplace.run()
    assert workplace.opened().verify(deep=True).findings == []


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
    other = data.draw(st.sampled_from(others))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def copy(path: Path, others: list[Path], data: Any) -> None:
    name = data.draw(st.sampled_from([f"copy-{path.name}", path.name.replace("000000", "000001"), "x.parquet"]))
    (path.parent / name).write_bytes(path.read_bytes() + b" ")


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
    first, second = files(output, "data/*.parquet")[:2]
    swap(first, [second], _First())
    found = verify_output(output).findings
    assert [f.kind for f in found] == [Kind.ALTERED] * 2
    assert "this is the part of shard 1: were files swapped?" in found[0].message


class _First:
    def draw(self, strategy: Any) -> Any:
        return strategy.elements[0]


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


# Files whose bytes are as recorded, and which can't be true.


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = records.from_bytes(path.read_bytes(), "")
    change(value)
    path.write_bytes(records.to_bytes(value))


def rewrite(output: Path, part: Path, change: Callable[[pa.Table, dict[str, str]], pa.Table]) -> None:
    """Write a part anew with other content and have the manifest say that this is right."""
    old = pq.ParquetFile(part)
    metadata = {
        k.decode().removeprefix(PREFIX): v.decode() for k, v in old.metadata.metadata.items() if k.startswith(b"batch")
    }
    table = change(old.read().replace_schema_metadata(None), metadata)
    writer = PartWriter(table.schema)
    writer.write(table)
    part.write_bytes(writer.finish(metadata))
    recorded = digest_of(part)

    def name_it(manifest: dict[str, Any]) -> None:
        (line,) = [p for p in manifest["parts"] if p["path"].endswith(part.name)]
        line |= {"sha256": recorded, "bytes": part.stat().st_size}

    (manifest,) = files(output, "_batchinfer/*/manifests/0001.json")
    reseal(manifest, name_it)


def digest_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("column", ["id", "score", "kind", "tags", "day"])
def test_deep_finds_the_one_row_whose_carried_value_is_not_the_inputs(output: Path, column: str) -> None:
    def change(table: pa.Table, _metadata: dict[str, str]) -> pa.Table:
        rows = list(range(len(table)))
        rows[123] = 8 if column != "day" else 123
        at = table.schema.get_field_index(column)
        values = table[column].take(pa.array(rows))
        if column == "day":
            values = pa.chunked_array([pa.array([9 if n == 123 else v for n, v in enumerate(values.to_pylist())])])
        return table.set_column(at, table.schema.field(at), values)

    part = files(output, "data/*.parquet")[0]
    rewrite(output, part, change)
    assert verify_output(output).findings == []
    (found,) = verify_output(output, deep=True).findings
    assert (found.kind, found.path) == (Kind.DIFFERENT, f"data/{part.name}")
    assert f"row 123, column '{column}'" in found.message
    assert "day=1/a.parquet" in found.message


def test_deep_finds_rows_that_where_does_not_leave(output: Path) -> None:
    def change(table: pa.Table, metadata: dict[str, str]) -> pa.Table:
        from batchinfer.data import ordinals

        decision = json.loads(metadata["shard"])
        filtered = ordinals.decode(decision["filtered"])
        decision["filtered"] = ordinals.encode(np.sort(np.append(filtered[filtered != 1500], 1499)))
        metadata["shard"] = json.dumps(decision)
        return table

    part = files(output, "data/*.parquet")[0]
    filtered = json.loads(pq.read_metadata(part).metadata[f"{PREFIX}shard".encode()])["filtered"]
    assert filtered
    rewrite(output, part, change)
    found = verify_output(output, deep=True).findings
    assert len(found) == 1
    assert "`where`" in found[0].message


def test_a_part_whose_rows_are_not_those_that_its_footer_counts_is_found(output: Path) -> None:
    rewrite(output, files(output, "data/*.parquet")[0], lambda table, _: table.slice(1))
    (found,) = verify_output(output).findings
    assert found.kind is Kind.UNSOUND
    assert "and its footer says that" in found.message


def test_records_that_do_not_agree_are_found(output: Path) -> None:
    (manifest,) = files(output, "_batchinfer/*/manifests/0001.json")
    (plan,) = files(output, "_batchinfer/*/plans/0001.json")

    def more_rows(value: dict[str, Any]) -> None:
        value["rows"]["succeeded"] += 1

    def one_part_less(value: dict[str, Any]) -> None:
        value["parts"].pop()

    def same_rows_twice(value: dict[str, Any]) -> None:
        for one in value["shards"][0][2]:
            one[1] = 0

    def another_job(value: dict[str, Any]) -> None:
        value["fingerprint"]["digest"] = "0" * 64

    for record, change, words in (
        (manifest, more_rows, "its counts aren't those of its parts"),
        (manifest, one_part_less, "its counts aren't those of its parts"),
        (plan, same_rows_twice, "each of the first rows of the input once"),
        (plan, another_job, "belongs to another job"),
    ):
        sound = record.read_bytes()
        reseal(record, change)
        found = verify_output(output).findings
        assert any(f.kind is Kind.UNSOUND and words in f.message for f in found), (change, found)
        record.write_bytes(sound)
    assert verify_output(output).findings == []


# The input, which may be gone or changed since.


def test_without_its_input_an_output_still_verifies_and_says_so(workplace: Workplace) -> None:
    workplace.write(1000)
    workplace.run()
    workplace.write(1000, start=7)
    changed = workplace.opened().verify(deep=True)
    assert changed.findings == []
    assert "a.parquet" in changed.notes[0]
    assert "not compared with its input" in changed.notes[0]
    shutil.rmtree(workplace.folder / "input")
    gone = workplace.opened().verify(deep=True)
    assert gone.findings == []
    assert "the file is gone" in gone.notes[0]


# Generations.


def test_retries_verify_and_one_that_has_not_ended_is_said_to_be_so(workplace: Workplace) -> None:
    workplace.write(6000, bad={5, 70, 71, 3000, 5999})
    workplace.run()
    workplace.edit('raise TypeError("x is null")', "value = 0 if len(batch['x']) > 1 else value")
    workplace.edit("2.0 * float(value)", "2.0 * float(value or 0)")
    run = workplace.retry(only=["TypeError"])
    assert (run.exit_code, run.counts.succeeded) == (0, 6000)
    verification = run.verify(deep=True)
    assert verification.findings == []
    assert (verification.rows.planned, verification.rows.succeeded, verification.rows.dead) == (6000, 6000, 0)
    output = workplace.folder / "output"
    (part,) = (output / p for p in run.errors(resolved=True)["resolved_by"].unique())
    content = part.read_bytes()
    part.write_bytes(content[:-9] + b"x" + content[-8:])
    assert kinds(run.verify()) == [(Kind.ALTERED, part.name)]
    part.write_bytes(content)
    (plan,) = files(output, "_batchinfer/*/plans/0002.json")
    sound = plan.read_bytes()

    def another_row(value: dict[str, Any]) -> None:
        value["shards"][0][2][0][4] += 1

    reseal(plan, another_row)
    assert any("the rows that they say they retry" in f.message for f in verify_output(output).findings)
    plan.write_bytes(sound)
    for name in (
        "data/_SUCCESS",
        *(str(p.relative_to(output)) for p in output.glob("_batchinfer/*/manifests/0002.json")),
    ):
        (output / name).unlink()
    (found,) = verify_output(output).findings
    assert (found.kind, found.path.rpartition("/")[2]) == (Kind.UNFINISHED, "0002.json")
    assert "1 of 1 shards are decided, 5 of 5 rows" in found.message


# Before the end.


def test_an_unfinished_run_is_said_to_be_so_and_its_damaged_part_is_found(workplace: Workplace) -> None:
    workplace.write(6000, bad={1})
    stop = StopRequest()

    def listen(event: Any) -> None:
        if getattr(event, "decided", 0) >= 1:
            stop.ask("enough")

    from batchinfer import Job

    fields = workplace.fields(model={"options": {"delay": 0.02}}, errors={"threshold": 1})
    Job(**fields).run(listener=listen, stop=stop)
    output = workplace.folder / "output"
    (found,) = verify_output(output).findings
    assert found.kind is Kind.UNFINISHED
    assert "of 3 shards are decided" in found.message
    assert "run the same command" in found.advice
    part = files(output, "data/*.parquet")[0]
    content = bytearray(part.read_bytes())
    content[100] ^= 1  # in a page: nothing is recorded of the part yet but its page checksums
    part.write_bytes(content)
    assert kinds(verify_output(output)) == [(Kind.ALTERED, part.name), (Kind.UNFINISHED, "0001.json")]
    assert "delete it and run the same command again" in verify_output(output).findings[0].advice
    part.unlink()
    Job(**fields).run()
    assert verify_output(output, deep=True).findings == []


def batchinfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "batchinfer", *arguments], capture_output=True, text=True)


def test_the_command_exits_0_or_3_or_2_and_says_what_to_do(output: Path, tmp_path: Path) -> None:
    sound = batchinfer("verify", str(output), "--deep")
    assert sound.returncode == 0
    assert "5,100 = 3,996 succeeded + 3 dead + 1,101 filtered + 0 not attempted" in sound.stdout
    part = files(output, "data/*.parquet")[0]
    part.write_bytes(part.read_bytes()[:-1])
    found = batchinfer("verify", str(output))
    assert found.returncode == 3
    assert f"data/{part.name}" in found.stdout
    assert "put it back from a copy" in found.stdout
    as_json = batchinfer("verify", str(output), "--json")
    assert as_json.returncode == 3
    value = json.loads(as_json.stdout)
    assert (value["exit_code"], [f["kind"] for f in value["findings"]]) == (3, ["altered"])
    assert batchinfer("verify", str(tmp_path)).returncode == 2
