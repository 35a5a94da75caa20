"""Retries that come to nothing: of unchanged rows, of a model that can't be loaded, of a job that was stopped."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl
import pytest

from batchinfer.errors import ModelError, OutputError
from batchinfer.ledger.parts import Counts
from batchinfer.run.events import Finished
from tests.run.workplace import Workplace

ROWS, BAD = 3000, {7, 8, 2500}


def predictions(workplace: Workplace) -> list[dict[str, Any]]:
    return pl.read_parquet(workplace.folder / "output/data/*.parquet").sort("id").to_dicts()


def test_a_second_retry_with_nothing_changed_changes_nothing_that_counts(workplace: Workplace) -> None:
    workplace.write(ROWS, bad=BAD)
    workplace.run()
    workplace.edit("if value is None:", "if value is None and len(batch['x']) < 100:")
    workplace.edit('raise TypeError("x is null")', 'raise ValueError("still null")')
    first = workplace.retry()
    said = (first.exit_code, first.state, first.counts, predictions(workplace), first.results().collect().to_dicts())
    letters, files = workplace.dead(), workplace.files()
    again = workplace.retry()
    assert (
        again.exit_code,
        again.state,
        again.counts,
        predictions(workplace),
        again.results().collect().to_dicts(),
    ) == said
    assert said[:3] == (3, "PARTIAL", Counts(ROWS, ROWS - 3, 3))
    changing = {"shard"}  # which retry it was
    assert [{k: v for k, v in letter.items() if k not in changing} for letter in workplace.dead()] == [
        {k: v for k, v in letter.items() if k not in changing} for letter in letters
    ]
    after = workplace.files()
    assert {p for p in files if files[p] != after[p]} == {p for p in files if p.endswith("run_results.json")}
    added = [p for p in after if p not in files and p.startswith("data/")]
    assert [len(pl.read_parquet(workplace.folder / "output" / p)) for p in added] == [0]
    assert again.verify(deep=True).findings == []


@pytest.fixture
def unloadable(workplace: Workplace) -> str:
    """A job with dead rows, whose retry could not load its model; the model's source before that."""
    workplace.write(ROWS, bad=BAD)
    assert workplace.run(errors={"threshold": 5}).exit_code == 0
    source = (workplace.folder / "code/doubling.py").read_text()
    workplace.edit("self.delay, self.log = delay, log", "raise OSError('no weights')")
    with pytest.raises(ModelError, match="no weights"):
        workplace.retry()
    run = workplace.opened()
    assert (run.exit_code, run.counts) == (2, Counts(ROWS, ROWS - 3, 3))
    assert [g.ended for g in run.generations] == [True, False]
    (workplace.folder / "code/doubling.py").write_text(source)
    return source


def test_after_a_retry_that_could_not_load_its_model_another_one_just_works(
    workplace: Workplace, unloadable: str, caplog: pytest.LogCaptureFixture
) -> None:
    workplace.mend()
    with caplog.at_level(logging.WARNING):
        run = workplace.retry()
    assert "a retry that was interrupted ends here; 3 of its rows stay dead as they were" in caplog.text
    assert (run.exit_code, run.counts) == (0, Counts(ROWS, ROWS))
    assert [(g.kind, g.ended) for g in run.generations] == [("run", True), ("retry", True), ("retry", True)]
    assert run.verify(deep=True).findings == []
    events: list[Any] = []
    assert workplace.run(events=events).exit_code == 0
    assert [type(e) for e in events] == [Finished]


def test_and_so_does_a_run_of_the_job_as_it_was(
    workplace: Workplace, unloadable: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not (workplace.folder / "output/data/_SUCCESS").exists()
    with caplog.at_level(logging.WARNING):
        run = workplace.run(errors={"threshold": 5})
    assert "a retry that was interrupted ends here" in caplog.text
    assert (run.exit_code, run.counts) == (0, Counts(ROWS, ROWS - 3, 3))
    assert (workplace.folder / "output/data/_SUCCESS").exists()
    assert run.verify(deep=True).findings == []
    workplace.mend()
    assert workplace.retry().counts == Counts(ROWS, ROWS)


def test_a_job_that_was_stopped_by_its_dead_rows_says_how_it_goes_on(workplace: Workplace) -> None:
    workplace.write(ROWS, bad={7, 8, 2500})
    stopping = {"errors": {"threshold": 1, "on_exceed": "abort"}}
    run = workplace.run(**stopping)
    (said,) = run.record["errors"]
    output = workplace.folder / "output"
    assert "2 dead rows, more than errors.threshold: 1 allows" in said
    assert (
        f"--set errors.on_exceed=finish, then mend the cause and predict the dead rows: batchinfer retry {output};"
        in said
    )
    before = workplace.files()
    source = (workplace.folder / "code/doubling.py").read_text()
    workplace.mend()
    with pytest.raises(
        OutputError, match=r"Run it to its end as it was, with --set errors\.on_exceed=finish .*, then mend"
    ):
        workplace.retry(**stopping)
    assert workplace.files() == before
    mended = (workplace.folder / "code/doubling.py").read_text()
    (workplace.folder / "code/doubling.py").write_text(source)  # what the messages say, step by step
    assert workplace.run(errors={"threshold": 1, "on_exceed": "finish"}).counts == Counts(ROWS, ROWS - 3, 3)
    (workplace.folder / "code/doubling.py").write_text(mended)
    assert workplace.opened().retry().counts == Counts(ROWS, ROWS)
