"""Jobs of random steps over random rows, beside the same computed row by row."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchinfer import Job

MODEL = '''
class Add:
    """The sum of its inputs and a number; raises for a sum that a divisor divides."""

    def __init__(self, plus, bad):
        self.plus, self.bad = plus, bad

    def __call__(self, batch):
        sums = [sum(v for v in row if v is not None) + self.plus for row in zip(*batch.values())]
        if any(s % self.bad == 0 for s in sums):
            raise ValueError("bad")
        return {"y": sums}
'''
BASE = ("a", "b")


@dataclass(frozen=True)
class Drawn:
    """A step: y = the sum of columns + plus, where a column is at least `least`."""

    name: str
    reads: tuple[str, ...]
    column: str
    plus: int
    bad: int
    test: str | None
    least: int
    otherwise: bool
    rule: bool
    skip: bool


@st.composite
def drawn_steps(draw: st.DrawFn) -> list[Drawn]:
    steps: list[Drawn] = []
    columns = list(BASE)
    for n in range(draw(st.integers(1, 5))):
        reads = tuple(draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique=True)))
        before = steps[-1] if steps else None
        alternative = (
            before is not None and before.test is not None and before.column not in reads and draw(st.booleans())
        )
        otherwise = alternative and draw(st.booleans())
        tested = alternative or draw(st.booleans())
        column = before.column if alternative and before is not None else f"c{n}"
        known = [c for c in columns if c != column]
        steps.append(
            Drawn(
                f"s{n}",
                reads,
                column,
                draw(st.integers(-3, 3)),
                draw(st.sampled_from([5, 7, 1000])),
                draw(st.sampled_from(known)) if tested and not otherwise else None,
                draw(st.integers(-10, 10)),
                otherwise,
                draw(st.booleans()),
                draw(st.booleans()),
            )
        )
        if not alternative:
            columns.append(column)
    return steps


def to_step(step: Drawn) -> dict[str, Any]:
    when = "otherwise" if step.otherwise else f"{step.test} >= {step.least}" if step.test else None
    made: dict[str, Any] = {"name": step.name, **({"when": when} if when else {})}
    if step.rule:
        total = " + ".join(f"COALESCE({c}, 0)" for c in step.reads)
        return {**made, "rules": {step.column: f"{total} + {step.plus}"}}
    inputs = {c: c for c in step.reads}
    errors = {"on_failure": "skip" if step.skip else "dead"}
    outputs = {"y": {"column": step.column, "type": "int64"}}
    options = {"plus": step.plus, "bad": step.bad}
    return {
        **made,
        "engine": "python",
        "uri": "adding:Add",
        "inputs": inputs,
        "outputs": outputs,
        "options": options,
        "errors": errors,
    }


def by_hand(row: dict[str, Any], steps: list[Drawn]) -> tuple[dict[str, Any] | None, list[str]]:
    """The row with its columns, or None where it is dead; the steps with a `when` that took it."""
    values, taken, used = dict(row), set[str](), []
    for step in steps:
        values.setdefault(step.column, None)
    for step in steps:
        if step.column in taken and (step.test is not None or step.otherwise):
            continue
        if step.test is not None and (values[step.test] is None or values[step.test] < step.least):
            continue
        if step.test is not None or step.otherwise:
            taken.add(step.column)
            used.append(step.name)
        total = sum(values[c] or 0 for c in step.reads) + step.plus
        if step.rule or total % step.bad:
            values[step.column] = total
        elif not step.skip:
            return None, []
    return values, used or [""]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=drawn_steps(),
    rows=st.lists(st.tuples(*[st.none() | st.integers(-20, 20)] * 2), max_size=60),
    window=st.sampled_from([3, 8, 100]),
)
def test_any_pipeline_gives_what_it_gives_row_by_row(
    steps: list[Drawn], rows: list[tuple[int | None, int | None]], window: int
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "adding.py").write_text(MODEL)
        schema = {"id": pl.Int64, "a": pl.Int64, "b": pl.Int64}
        table = pl.DataFrame([(n, *row) for n, row in enumerate(rows)], schema, orient="row")
        table.write_parquet(folder / "in.parquet")
        columns = list(dict.fromkeys(step.column for step in steps))
        conditional = any(s.test is not None or s.otherwise for s in steps)
        run = Job(
            code=[str(folder)],
            input={"path": str(folder / "in.parquet"), "key": "id"},
            steps=[to_step(step) for step in steps[::-1] if not any_alternative(steps)] or [to_step(s) for s in steps],
            batching={"window": window, "shard": 2 * window},
            errors={"threshold": -1, "circuit_breaker": False},
            resources={"executor": "inline"},
            output={"path": str(folder / "out"), "columns": columns, **({"step_used": "used"} if conditional else {})},
        ).run()
        assert run.exit_code == 0
        expected = [(row, *by_hand(row, steps)) for row in table.to_dicts()]
        alive = [(row["id"], values, used) for row, values, used in expected if values is not None]
        made = run.results().collect()
        assert made["id"].to_list() == [n for n, _, _ in alive]
        for column in columns:
            assert made[column].to_list() == [values[column] for _, values, _ in alive], column
        if conditional:
            assert [sorted(used.split("+")) for used in made["used"]] == [sorted(used) for _, _, used in alive]
        assert (run.counts.succeeded, run.counts.dead) == (len(alive), len(rows) - len(alive))


def any_alternative(steps: list[Drawn]) -> bool:
    """Whether the order in the file says something."""
    return len({s.column for s in steps}) < len(steps)
