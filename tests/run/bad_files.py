"""Runs of damaged files: `python -m tests.run.bad_files FOLDER FILE...` prints what came of each as a line of JSON.

In a process of its own, since a decoder might end it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data.scan import scan
from batchinfer.errors import BatchinferError, InputError
from tests.data.helpers import REAL
from tests.run.workplace import Workplace

FILES = sorted(str(p) for p in (REAL / "parquet-bad").glob("*.parquet"))
GOOD = 50
"""Rows of each sound file."""
_MODEL = "class One:\n    def __call__(self, batch):\n        return {'y': [1.0] * len(batch['x'])}\n"


def check(folder: Path, files: Sequence[str]) -> Counter[str]:
    """Each file is read, or ends its run with 2 and its name and costs no other file's row; how many of each there were."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.bad_files", str(folder), *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=Path(__file__).parents[2],
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(outcomes)) == (0, len(files)), done.stderr[-2000:]
    return Counter(_checked(o["file"], o["alone"], o["beside"]) for o in outcomes)


def _checked(file: str, alone: dict[str, Any] | None, beside: dict[str, Any]) -> str:
    both = file, alone, beside
    if alone is None:
        alone = {**beside, "succeeded": beside["succeeded"] - 2 * GOOD}
    assert (alone["code"], alone["planned"]) == (beside["code"], beside["planned"]), both
    if alone["code"] == 0:
        assert beside["succeeded"] == alone["succeeded"] + 2 * GOOD, both
        return "read"
    assert alone["code"] == 2, both
    assert all(file in r["told"] or r["told"].startswith("output.carry: the column ") for r in (alone, beside)), both
    if not alone["planned"]:
        return "refused when it is planned"
    assert beside["succeeded"] == alone["succeeded"] + 2 * GOOD, both
    assert beside["rest"] == alone["rest"] > 0, both
    return "refused when it is read"


def _sound(folder: Path, number: int) -> str:
    path = folder / f"sound-{number}.parquet"
    if not path.exists():
        rows = range(GOOD * number, GOOD * (number + 1))
        pq.write_table(pa.table({"sound id": rows}), path)
    return str(path)


def _run(folder: Path, paths: list[str], column: str) -> dict[str, Any]:
    """Exit code, rows and messages of a job that reads every column."""
    folder.mkdir()
    place = Workplace(folder)
    (folder / "code" / "one.py").write_text(_MODEL)
    try:
        run = place.run(
            input={"path": paths, "key": None},
            model={"uri": "one:One", "inputs": {"x": column}, "outputs": {"y": {"column": "the y", "type": "float32"}}},
            batching={"shard": GOOD, "window": GOOD},
            errors={"threshold": -1},
            output={"carry": "all"},
        )
    except BatchinferError as e:
        return {"code": e.exit_code, "told": str(e), "planned": False, "succeeded": 0, "rest": 0}
    told = "\n".join(run.record["errors"])
    rest = run.counts.not_attempted
    return {"code": run.exit_code, "told": told, "planned": True, "succeeded": run.counts.succeeded, "rest": rest}


def _columns(file: str) -> list[str]:
    try:
        return scan(file).columns or ["none"]
    except InputError:
        return ["none"]


def main() -> None:
    """Each file alone, then between two sound ones."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    folder = Path(sys.argv[1])
    sound = [_sound(folder, n) for n in range(2)]
    for n, file in enumerate(sys.argv[2:]):
        column = next(filter(None, _columns(file)), None)  # a job can't name one that has no name
        alone = None if column is None else _run(folder / f"{n}-alone", [file], column)
        beside = _run(folder / f"{n}-beside", [sound[0], file, sound[1]], "sound id")
        print(json.dumps({"file": file, "alone": alone, "beside": beside}), flush=True)


if __name__ == "__main__":
    main()
