"""What a run left verifies: finished, with dead rows, retried, without its input; and what is unfinished is said to be so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchinfer import Job, open_run
from batchinfer.api import verify_output
from batchinfer.run.stop import StopRequest
from batchinfer.verify.findings import Kind
from tests.run.workplace import Workplace
from tests.terminal import batchinfer
from tests.verify.outputs import files, kinds, reseal


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


def test_an_unfinished_run_is_said_to_be_so_and_its_damaged_part_is_found(workplace: Workplace) -> None:
    workplace.write(6000, bad={1})
    stop = StopRequest()

    def listen(event: Any) -> None:
        if getattr(event, "decided", 0) >= 1:
            stop.ask("enough")

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
