"""Precisions tried one after the other, with an engine whose answers and times a test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from batchinfer.engines.protocol import Description, Rows
from batchinfer.errors import GateError, ModelError
from batchinfer.job.steps import Batching, Step
from batchinfer.measure.candidates import Candidate
from batchinfer.measure.choose import choose
from batchinfer.measure.comparison import Sample
from batchinfer.measure.remembered import Remembered
from batchinfer.measure.settings import Settings
from batchinfer.pipeline.batching import positions

CANDIDATES = [Candidate("fp32", 32), Candidate("bf16", 16), Candidate("int8-weight", 8), Candidate("int4-weight", 4)]
KNOWN = {"model": "abc", "machine": "a CPU"}
LARGE = 10**9


class Prepared:
    lengths: NDArray[np.int64] | None = None
    truncated: NDArray[np.bool_] | None = None
    row_bytes: int | None = None

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def batch(self, rows: Rows) -> list[int]:
        return [self._values[n] for n in (positions(rows) if isinstance(rows, slice) else rows)]


class Angles:
    """An engine whose vector for a row is turned by what its precision is off, in radians; keeps to the engine protocol."""

    def __init__(
        self,
        off: Mapping[str, float] | None = None,
        seconds: Mapping[str, float] | None = None,
        tail: Mapping[str, float] | None = None,
        bad: tuple[int, ...] = (),
        refuses: tuple[str, ...] = (),
    ) -> None:
        self._off, self._seconds, self._tail = off or {}, seconds or {}, tail or {}
        self._bad, self._refuses = bad, refuses
        self.loaded = ""
        self.calls: Counter[str] = Counter()
        self.loads: list[str] = []
        self.now = 0.0
        """A clock that only the model's calls move."""

    def load(self, device: str, precision: str, threads: int) -> Description:
        self.loads.append(precision)
        if precision in self._refuses:
            raise ModelError(f"no {precision} on {device}")
        self.loaded = precision
        return Description({"y": pa.list_(pa.float64(), 2)}, precision, device)

    def prepare(self, rows: pa.Table) -> Prepared:
        return Prepared(rows["x"].to_pylist())

    def infer(self, batch: list[int]) -> list[int]:
        self.calls[self.loaded] += 1
        if set(self._bad) & set(batch):
            raise ValueError("a bad row")
        self.now += self._seconds.get(self.loaded, 0.0)
        return batch

    def finish(self, outputs: list[int]) -> Mapping[str, pa.Array]:
        values = np.array(outputs, np.float64)
        angles = values + self._off.get(self.loaded, 0.0)
        angles += np.where(values % 50 == 0, self._tail.get(self.loaded, 0.0), 0.0)
        plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return {"y": pa.FixedSizeListArray.from_arrays(pa.array(plane.ravel()), 2)}


FASTER = {"fp32": 0.004, "bf16": 0.003, "int8-weight": 0.002, "int4-weight": 0.001}


def chosen(
    engine: Angles,
    folder: Path | None = None,
    precision: str = "auto",
    gate: Any = None,
    rows: int = LARGE,
    digest: str = "rows",
    whole: bool = False,
    known: Mapping[str, Any] | None = None,
) -> Settings:
    keys = {"engine": "torch", "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": {"y": "e"}, "precision": precision}
    step = Step.model_validate(keys if gate is None else {**keys, "gate": gate})
    return choose(
        engine,
        step,
        [pa.table({"x": pa.array(range(64))})],
        Batching(rows=32),
        "cpu",
        1,
        rows,
        sample=lambda most: Sample(pa.table({"x": pa.array(range(most))}), whole, digest),
        known=None if folder is None else known or KNOWN,
        candidates=CANDIDATES,
        remembered=Remembered(folder or Path("/nowhere")),
        clock=lambda: engine.now,
    )


def test_auto_takes_the_fastest_and_says_what_else_there_was() -> None:
    settings = chosen(engine := Angles(seconds=FASTER))
    assert settings.precision == engine.loaded == "int4-weight"
    assert list(settings.measured["rows_per_second"]) == ["fp32", "bf16", "int8-weight", "int4-weight"]
    assert settings.measured["choice"] == "int4-weight: the fastest"
    assert settings.measured["gate"]["passed"]


def test_auto_passes_over_a_faster_one_that_the_gate_fails() -> None:
    settings = chosen(engine := Angles({"int4-weight": 0.5}, FASTER))
    assert settings.precision == engine.loaded == "int8-weight"
    assert not settings.measured["gates"]["int4-weight"]["passed"]
    assert settings.measured["gate"] == settings.measured["gates"]["int8-weight"]


def test_auto_takes_nothing_below_16_bits_where_the_gate_is_off() -> None:
    settings = chosen(engine := Angles(seconds=FASTER), gate="off")
    assert settings.precision == "bf16"
    assert "gate: off" in settings.measured["skipped"]["int4-weight"]
    assert "int4-weight" not in engine.loads


def test_a_broken_precision_that_is_asked_for_is_refused_with_the_figures() -> None:
    with pytest.raises(
        GateError, match=r"int4-weight disagrees with fp32 .* mean cosine 0\.87.* at least 0\.995 is not kept"
    ):
        chosen(Angles({"int4-weight": 0.5}), precision="int4-weight")


def test_a_broken_tail_is_refused_though_the_mean_is_good() -> None:
    with pytest.raises(GateError, match=r"at least 0\.995 is kept.* 1st percentile .* at least 0\.99 is not kept"):
        chosen(Angles(tail={"int4-weight": 0.4}), precision="int4-weight")


def test_a_good_precision_that_is_asked_for_is_loaded_after_the_comparison() -> None:
    settings = chosen(engine := Angles({"int4-weight": 0.01}), precision="int4-weight")
    assert settings.precision == engine.loaded == "int4-weight"
    assert settings.measured["gate"]["passed"]


def test_without_a_gate_what_is_asked_for_runs_uncompared() -> None:
    settings = chosen(engine := Angles({"int4-weight": 0.5}), precision="int4-weight", gate="off")
    assert settings.precision == "int4-weight"
    assert engine.loads == ["int4-weight"]
    assert "gate" not in settings.measured


def test_fallback_goes_to_the_next_that_passes_and_says_so() -> None:
    gate = {"on_fail": "fallback"}
    broken = Angles({"int4-weight": 0.5})
    settings = chosen(broken, precision="int4-weight", gate=gate)
    assert settings.precision == broken.loaded == "int8-weight"
    assert settings.measured["choice"] == "int8-weight: in place of int4-weight, which failed the gate"
    both = Angles({"int4-weight": 0.5, "int8-weight": 0.5})
    assert chosen(both, precision="int4-weight", gate=gate).precision == both.loaded == "bf16"
    none = Angles({"int4-weight": 0.5, "int8-weight": 0.5}, refuses=("bf16",))
    assert chosen(none, precision="int4-weight", gate=gate).precision == none.loaded == "fp32"


def test_bad_rows_of_the_sample_are_left_out_and_cost_no_others() -> None:
    settings = chosen(Angles(bad=(100, 300)), precision="int4-weight")
    assert (settings.measured["gate"]["rows"], settings.measured["gate"]["left_out"]) == (510, 2)


def test_a_precision_that_raises_on_every_row_is_refused() -> None:
    class Broken(Angles):
        def infer(self, batch: list[int]) -> list[int]:
            if self.loaded == "int4-weight":
                raise RuntimeError("no kernel")
            return super().infer(batch)

    with pytest.raises(GateError, match=r"512 rows without a value where fp32 has one"):
        chosen(Broken(), precision="int4-weight")


def test_a_precision_that_cannot_be_compared_within_three_percent_is_skipped_and_named() -> None:
    """By the made-up times, the job takes 1.5 s, of which 45 ms may be spent: timing all costs 38 ms, comparing 80 ms more."""
    settings = chosen(Angles(seconds=FASTER), rows=12_000)
    assert settings.precision == "bf16"
    assert "comparing it with fp32 takes about" in settings.measured["skipped"]["int4-weight"]


def test_the_next_run_of_the_same_job_makes_no_measuring_call(tmp_path: Path) -> None:
    first = chosen(Angles(seconds=FASTER), tmp_path)
    again = chosen(engine := Angles(seconds=FASTER), tmp_path)
    assert engine.calls == {}
    assert engine.loads == ["int4-weight"]
    assert again.precision == first.precision == "int4-weight"
    assert again.measured["gate"] == first.measured["gate"]
    assert again.measured["known_before"]


def test_other_rows_of_the_same_model_are_compared_again_and_not_timed(tmp_path: Path) -> None:
    chosen(Angles(seconds=FASTER), tmp_path)
    settings = chosen(engine := Angles(seconds=FASTER), tmp_path, digest="other rows")
    assert settings.precision == "int4-weight"
    assert engine.loads == ["fp32", "int4-weight"]
    assert engine.calls == {"fp32": 16, "int4-weight": 16}  # 512 rows in batches of 32, once each


@pytest.mark.parametrize("other", [{"model": "abd"}, {"machine": "a GPU"}])
def test_another_model_or_machine_is_measured(tmp_path: Path, other: dict[str, str]) -> None:
    chosen(Angles(seconds=FASTER), tmp_path)
    chosen(engine := Angles(seconds=FASTER), tmp_path, known={**KNOWN, **other})
    assert engine.calls["fp32"] > 16


def test_a_candidate_that_a_small_job_skipped_is_measured_by_a_large_one(tmp_path: Path) -> None:
    slow = {"fp32": 0.01, "bf16": 0.006}
    small = chosen(Angles(seconds=slow), tmp_path, rows=4300)
    assert small.precision == "bf16"
    assert "timing it" in small.measured["skipped"]["int8-weight"]
    large = chosen(Angles(seconds=FASTER), tmp_path)
    assert large.precision == "int4-weight"


def with_compiled(engine: Angles, threads: int) -> Settings:
    keys = {"engine": "torch", "uri": "/m.pt", "inputs": {"x": "x"}, "outputs": {"y": "e"}}
    return choose(
        engine,
        Step.model_validate(keys),
        [pa.table({"x": pa.array(range(64))})],
        Batching(rows=32),
        "cpu",
        threads,
        LARGE,
        candidates=[*CANDIDATES[:2], Candidate("bf16-compiled", 16, compiles=True)],
        remembered=Remembered(Path("/nowhere")),
        clock=lambda: engine.now,
    )


def test_auto_compiles_where_a_long_job_has_one_thread_and_it_is_faster() -> None:
    settings = with_compiled(engine := Angles(seconds={"fp32": 0.004, "bf16": 0.003, "bf16-compiled": 0.0027}), 1)
    assert settings.precision == engine.loaded == "bf16-compiled"
    assert settings.measured["choice"] == "bf16-compiled: the fastest"


def test_auto_does_not_compile_for_a_gain_within_the_noise() -> None:
    settings = with_compiled(Angles(seconds={"fp32": 0.004, "bf16": 0.003, "bf16-compiled": 0.0029}), 1)
    assert settings.precision == "bf16"


def test_auto_leaves_compiling_where_several_calls_may_run_at_a_time() -> None:
    settings = with_compiled(engine := Angles(seconds={"fp32": 0.004, "bf16": 0.003, "bf16-compiled": 0.0027}), 2)
    assert "bf16-compiled" not in engine.loads
    assert "ask for it by name" in settings.measured["skipped"]["bf16-compiled"]
