"""What every engine must keep to, as a pytest class: subclass it, name it Test…, and give `build` and `rows`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.inputs import columns_of
from batchinfer.engines.protocol import Description, Engine, ModelEngine, Prepared, Rows
from batchinfer.engines.registry import identify, open_engine
from batchinfer.engines.travel import pack, unpack
from batchinfer.job.steps import Step

HEAVY = (
    "PIL",
    "mlflow",
    "onnx",
    "onnxruntime",
    "sklearn",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "polars",
    "ray",
)
"""Libraries that planning a job must not import."""

_IDENTIFY = """
import json, sys
from batchinfer.engines.checks import check
from batchinfer.engines.registry import identify
from batchinfer.job.steps import Step
step, code = Step.model_validate(json.loads(sys.argv[1])), json.loads(sys.argv[2])
check(step, code)
print(json.dumps({"digest": identify(step, code).digest, "modules": sorted(sys.modules)}))
"""


def same(left: Any, right: Any, tolerance: float) -> bool:
    """True where two values from Arrow are equal, floating numbers within `tolerance`, relative above 1."""
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= tolerance * max(1.0, abs(left))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key], tolerance) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right, strict=True))
    return bool(left == right)


class EngineContract:
    """The contract. Each test has a folder of its own, `self.folder`, in which `build` may put a model's files."""

    precision = "fp32"
    """What the engine is loaded at."""
    tolerance = 1e-5
    """How far a value may move when its row stands in another batch."""
    refuses_nulls = True
    """Whether a row with a null input raises. An engine that hands nulls to the user's code says False."""

    folder: Path

    def build(self) -> Step:
        """The step, after writing what its model needs below `self.folder`."""
        raise NotImplementedError

    def rows(self) -> pa.Table:
        """At least five good rows, no two alike, with the columns that the step names."""
        raise NotImplementedError

    def code(self) -> Sequence[str]:
        """Folders that the step's class may be imported from."""
        return ()

    def change(self) -> None:
        """Change one of the model's files so that it is another model."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _prepared(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.step = self.build()

    @pytest.fixture
    def engine(self) -> ModelEngine:
        """The engine, loaded on the CPU."""
        engine = open_engine(self.step, self.code())
        self.description: Description = engine.load("cpu", self.precision, 1)
        return engine

    def predict(self, engine: Engine, prepared: Prepared, rows: Rows) -> Mapping[str, pa.Array]:
        """The three calls that the worker makes for a batch."""
        return engine.finish(engine.infer(prepared.batch(rows)))

    def test_a_loaded_engine_says_its_precision_device_and_outputs(self, engine: Engine) -> None:
        assert engine is not None
        assert self.description.precision == self.precision
        assert self.description.device == "cpu"
        assert list(self.description.outputs) == list(self.step.outputs)

    def test_every_output_has_one_value_per_row_of_the_described_type(self, engine: Engine) -> None:
        table = self.rows()
        columns = self.predict(engine, engine.prepare(table), slice(0, len(table)))
        assert list(columns) == list(self.step.outputs)
        for name, column in columns.items():
            assert isinstance(column, pa.Array)
            assert len(column) == len(table)
            column.validate(full=True)
            described = self.description.outputs[name]
            assert described is None or column.type == described

    def test_values_follow_their_rows_in_whatever_order_and_split_these_come(self, engine: Engine) -> None:
        table = self.rows()
        count = len(table)
        prepared = engine.prepare(table)
        whole = self.predict(engine, prepared, slice(0, count))
        splits: list[list[Rows]] = [
            [np.arange(count, dtype=np.intp)[::-1].copy()],
            [slice(row, row + 1) for row in range(count)],
            [slice(0, 2), slice(2, count)],
            [np.arange(0, count, 2, dtype=np.intp), np.arange(1, count, 2, dtype=np.intp)],
        ]
        for split in splits:
            for rows in split:
                columns = self.predict(engine, prepared, rows)
                for name, column in columns.items():
                    assert same(
                        column.to_pylist(), np.array(whole[name].to_pylist(), object)[rows].tolist(), self.tolerance
                    )

    def test_rows_prepared_and_finished_in_a_process_without_the_model_give_the_same_bits(
        self, engine: ModelEngine
    ) -> None:
        """By way of pickle, and the batch and its outputs too."""
        table = self.rows()
        rows = np.arange(1, len(table), dtype=np.intp)
        apart: Engine = unpack(pack(engine.without_model()))
        outputs = engine.infer(unpack(pack(apart.prepare(table).batch(rows))))
        columns = apart.finish(unpack(pack(outputs)))
        whole = self.predict(engine, engine.prepare(table), rows)
        assert all(columns[name].equals(whole[name]) for name in self.step.outputs)

    def test_the_same_batch_twice_gives_the_same_bits(self, engine: Engine) -> None:
        table = self.rows()
        first, second = (self.predict(engine, engine.prepare(table), slice(1, 4)) for _ in range(2))
        assert all(first[name].equals(second[name]) for name in self.step.outputs)

    def test_a_window_of_several_chunks_or_cut_from_a_larger_one_gives_the_same(self, engine: Engine) -> None:
        table = self.rows()
        whole = self.predict(engine, engine.prepare(table), slice(1, len(table)))
        chunked = pa.concat_tables([table.slice(1, 1), table.slice(2)])
        for window in (table.slice(1), chunked):
            columns = self.predict(engine, engine.prepare(window), slice(0, len(window)))
            assert all(same(columns[n].to_pylist(), whole[n].to_pylist(), self.tolerance) for n in self.step.outputs)

    def test_lengths_and_cuts_are_told_of_every_row_or_of_none(self, engine: Engine) -> None:
        table = self.rows()
        prepared = engine.prepare(table)
        assert len(prepared) == len(table)
        for told in (prepared.lengths, prepared.truncated):
            assert told is None or told.shape == (len(table),)
        if prepared.lengths is not None:
            assert prepared.lengths.min() > 0
            assert self.description.max_length is None or prepared.lengths.max() <= self.description.max_length

    def test_a_null_raises_and_its_neighbours_do_not(self, engine: Engine) -> None:
        table = self.rows()
        name = columns_of(self.step)[0]
        keep = pa.array([row != 1 for row in range(len(table))])
        column = pc.if_else(keep, table.column(name), pa.scalar(None, table.schema.field(name).type))
        bad = table.set_column(table.schema.get_field_index(name), name, column)
        if self.refuses_nulls:
            with pytest.raises(TypeError, match="null"):
                self.predict(engine, engine.prepare(bad), slice(0, len(bad)))
        good = bad.filter(keep)
        assert all(
            len(c) == len(good) for c in self.predict(engine, engine.prepare(good), slice(0, len(good))).values()
        )

    def test_an_engine_can_be_loaded_again(self, engine: Engine) -> None:
        table = self.rows()
        before = self.predict(engine, engine.prepare(table), slice(0, 3))
        assert engine.load("cpu", self.precision, 1) == self.description
        after = self.predict(engine, engine.prepare(table), slice(0, 3))
        assert all(before[name].equals(after[name]) for name in self.step.outputs)

    def test_the_identity_is_stable_and_changes_with_a_file(self) -> None:
        before = identify(self.step, self.code())
        assert identify(self.step, self.code()) == before
        assert before.packages
        self.change()
        after = identify(self.step, self.code())
        assert after.digest != before.digest
        assert sum(after.files[name] != before.files[name] for name in before.files) == 1

    def test_planning_imports_neither_the_model_libraries_nor_the_users_code(self) -> None:
        check(self.step, self.code())
        command = [sys.executable, "-c", _IDENTIFY, self.step.model_dump_json(), json.dumps(list(self.code()))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        own = self.step.uri.partition(":")[0].partition(".")[0]
        assert not {*HEAVY, own} & set(told["modules"])
        assert told["digest"] == identify(self.step, self.code()).digest
