"""Beam RunInference on the texts, by a model handler that keeps whole tables.

Imported only where the program runs: its classes are Beam's, and Beam is an extra of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from tests.benchmarks.models import WIDTH, WRITER, Embedder, Marks, Tokeniser, as_column

SCHEMA = pa.schema([("id", pa.int64()), ("embedding", pa.list_(pa.float32(), WIDTH))])


@dataclass
class Loaded:
    """What Beam keeps of a model. A class, for Beam's reference to it is a weak one."""

    tokenise: Tokeniser
    embed: Embedder


class Embeddings(ModelHandler[pa.Table, pa.Table, Loaded]):
    """Tables of texts to tables of embeddings, as many rows at a time as `batch` says, from tables that are smaller.

    Examples of one row each would turn every embedding into a list of Python floats for Beam's writer.
    """

    def __init__(self, marks: Marks, precision: str, threads: int, tokens: int, batch: int) -> None:
        super().__init__(min_batch_size=batch, max_batch_size=batch, element_size_fn=len)
        self._marks, self._precision, self._threads, self._tokens = marks, precision, threads, tokens

    def load_model(self) -> Loaded:
        model = Loaded(Tokeniser(self._threads), Embedder(self._precision, self._threads, self._tokens))
        model.embed(model.tokenise(["warm up"] * 4))
        self._marks.mark("ready")
        return model

    def run_inference(
        self, batch: Sequence[pa.Table], model: Loaded, inference_args: dict[str, Any] | None = None
    ) -> Iterable[pa.Table]:
        del inference_args
        table = pa.concat_tables(batch)
        vectors = model.embed(model.tokenise(table["text"].to_pylist()), lambda: self._marks.mark("first"))
        yield pa.table([table["id"], as_column(vectors)], schema=SCHEMA)


def text(
    files: list[str], out: Path, marks: Marks, precision: str, threads: int, tokens: int, batch: int, workers: int
) -> None:
    """Run the pipeline on Beam's own runner in this process, or with `workers` in as many processes.

    Not on what `DirectRunner` would choose: that downloads a server first.
    """
    mode = "multi_processing" if workers > 1 else "in_memory"
    options = PipelineOptions(direct_num_workers=workers, direct_running_mode=mode)
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromParquetBatched(str(Path(files[0]).parent / "*.parquet"), columns=["id", "text"])
            | RunInference(Embeddings(marks, precision, threads, tokens, batch))
            | beam.io.WriteToParquetBatched(
                str(out / "part"), SCHEMA, codec=WRITER["compression"], file_name_suffix=".parquet"
            )
        )
