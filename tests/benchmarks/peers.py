"""The peers on the same work: Ray Data and Daft, as their documentation has it and as well as they can be made to do it; and Beam.

What was tried, of 2,000 texts in fp32 on two virtual cores beside other work, one run each: seconds from the first model on (and CPU
seconds, with the loading of a second model). The loop of one thread took 17.5 (17.0).

    Daft: two processes of one thread    batches of 512: 12.4 (20.9), of 1,024: 14.3 (20.9)
          in its own process             batches of 512: 17.6 (18.6), of 1,024: 18.5 (19.1)
          (both while a `batch_size` cut the filled batches again)
    Ray Data: two actors of one thread   fused, batches of 512: 18.7, of 1,024: 22.1; split, of 512: 24.6

One round in turns, on a machine with four times the work that it has cores for, gave rows a second: Ray Data fused 84, split 81, Beam in
two processes 70, Daft 62 and 63, and 63 in its own process (beside batchinfer's 71); all with batches of 1,024.
It says little of which is faster; Daft in its own process was ready first, and had a seventh less CPU seconds a row.

Two threads of a model wait for each other by spinning, which is dear where something else has a core: the loop of two threads took 98
seconds (50.9). Models of one thread each wait for nothing.

Daft cuts batches at the ends of files, whatever `batch_size` says, unless `into_batches` fills them first: 128 texts in 16 files, by a
model of two threads, took 13.9 seconds, and 3.4 as one batch (the loop 3.4). `max_concurrency` gives it processes, `use_process=False`
or not; without, it calls one object in its own process by as many threads as there are cores.

The table, 2 million rows, two runs each, where the loop took 4.5 and 2.0 seconds of one thread: Daft in its own process 2.0 and 1.6
(batches of 16,384: 1.7 and 2.6), two processes 2.8 and 2.4, one 2.4 and 2.2; Ray Data with one actor 2.4 and 4.0, two 5.4 and 3.2, and with
batches of 250,000 3.5 and 2.3: too short to tell Ray Data's apart. Daft's other Parquet writer asks for pyiceberg; its own makes
dictionaries of floats and can't be told not to.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.benchmarks.models import FEATURES, ROOT, WIDTH, WRITER, Embedder, Marks, Score, Tokeniser, as_column


class RayEmbedder:
    """Ray Data's class: texts, or token ids that a stage before made, to embeddings."""

    def __init__(self, marks: Marks, precision: str, threads: int, tokens: int | None) -> None:
        self._marks, self._tokenise = marks, Tokeniser(threads)
        self._embed = Embedder(precision, threads, tokens)
        self._embed(self._tokenise(["warm up"] * 4))
        marks.mark("ready")

    def __call__(self, table: pa.Table) -> pa.Table:
        split = "ids" in table.column_names
        ids = table["ids"].to_pylist() if split else self._tokenise(table["text"].to_pylist())
        vectors = self._embed(ids, lambda: self._marks.mark("first"))
        self._marks.spent()
        return pa.table({"id": table["id"], "embedding": as_column(vectors)})


class RayTokeniser:
    """Ray Data's class for a stage of its own: texts to token ids."""

    def __init__(self, marks: Marks) -> None:
        self._marks, self._tokenise = marks, Tokeniser(1)

    def __call__(self, table: pa.Table) -> pa.Table:
        ids = self._tokenise(table["text"].to_pylist())
        self._marks.spent()
        return pa.table({"id": table["id"], "ids": pa.array(ids, pa.list_(pa.int32()))})


class RayScorer:
    """Ray Data's class for the table."""

    def __init__(self, marks: Marks, threads: int) -> None:
        self._marks, self._score = marks, Score(threads)
        marks.mark("ready")

    def __call__(self, table: pa.Table) -> pa.Table:
        scores = self._score([table[name].to_numpy() for name in FEATURES])
        self._marks.mark("first")
        self._marks.spent()
        return pa.table({"id": table["id"], "score": scores})


def _ray() -> Any:
    import ray

    ray.init(
        address="local",
        num_cpus=max(4, os.cpu_count() or 1),  # reading and writing wait for no core beside the model's
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def ray_text(
    files: list[str],
    out: Path,
    marks: Marks,
    precision: str = "fp32",
    threads: str = "2",
    tokens: str = "2048",
    batch: str = "512",
    form: str = "fused",
    workers: str = "1",
    **_: str,
) -> None:
    """Ray Data over `workers` actors.

    `form`: documented (batches of 64 in file order, as `map_batches` is explained), fused (large batches that are tokenised and
    sorted in the actor), or split (tokenised in a stage of its own).
    """
    ray = _ray()
    one, pool = ray.data.ActorPoolStrategy(size=1), ray.data.ActorPoolStrategy(size=int(workers))
    data = ray.data.read_parquet(files, columns=["id", "text"])
    if form == "split":
        data = data.map_batches(
            RayTokeniser,
            fn_constructor_args=(marks,),
            batch_format="pyarrow",
            batch_size=int(batch),
            compute=one,
            num_cpus=0.5,
        )
    data = data.map_batches(
        RayEmbedder,
        fn_constructor_args=(marks, precision, int(threads), None if form == "documented" else int(tokens)),
        batch_format="pyarrow",
        batch_size=64 if form == "documented" else int(batch),
        compute=pool,
        num_cpus=1,
    )
    data.write_parquet(str(out), **WRITER)


def ray_table(
    files: list[str],
    out: Path,
    marks: Marks,
    threads: str = "2",
    batch: str = "65536",
    workers: str = "1",
    **_: str,
) -> None:
    """Ray Data over `workers` actors, with large batches that stay Arrow."""
    ray = _ray()
    data = ray.data.read_parquet(files).map_batches(
        RayScorer,
        fn_constructor_args=(marks, int(threads)),
        batch_format="pyarrow",
        batch_size=int(batch),
        compute=ray.data.ActorPoolStrategy(size=int(workers)),
        num_cpus=1,
    )
    data.write_parquet(str(out), **WRITER)


def daft_text(
    files: list[str],
    out: Path,
    marks: Marks,
    precision: str = "fp32",
    threads: str = "2",
    tokens: str = "2048",
    batch: str = "512",
    workers: str = "1",
    gather: str = "yes",
    **_: str,
) -> None:
    """Daft's own runner with a class, which tokenises and sorts large batches.

    `workers`: processes that hold the model, or 0 for this one, which then calls it once a core. `gather`: whether batches are filled
    across files; a `batch_size` besides would cut them again.
    """
    import daft
    import transformers

    _ = transformers.AutoModel  # found when it is asked for, and not by two threads at once, as they make the class

    daft.set_runner_native()
    own = int(workers) == 0

    @daft.cls(max_concurrency=None if own else int(workers), use_process=not own)
    class Embeddings:
        def __init__(self) -> None:
            self.tokenise, self.embed = Tokeniser(int(threads)), Embedder(precision, int(threads), int(tokens))
            self.embed(self.tokenise(["warm up"] * 4))
            marks.mark("ready")

        @daft.method.batch(
            return_dtype=daft.DataType.fixed_size_list(daft.DataType.float32(), WIDTH),
            batch_size=None if gather == "yes" else int(batch),
        )
        def __call__(self, texts: Any) -> Any:
            vectors = self.embed(self.tokenise(texts.to_pylist()), lambda: marks.mark("first"))
            return daft.Series.from_arrow(as_column(vectors))

    frame, embeddings = daft.read_parquet(files), Embeddings()
    if gather == "yes":
        frame = frame.into_batches(int(batch))
    frame = frame.select(frame["id"], embeddings(frame["text"]).alias("embedding"))
    frame.write_parquet(str(out), compression=WRITER["compression"])


def daft_table(
    files: list[str],
    out: Path,
    marks: Marks,
    threads: str = "2",
    batch: str = "65536",
    workers: str = "1",
    **_: str,
) -> None:
    """Daft's own runner with a class over 32 columns; `workers` as for the text."""
    import daft

    daft.set_runner_native()
    own = int(workers) == 0

    @daft.cls(max_concurrency=None if own else int(workers), use_process=not own)
    class Scores:
        def __init__(self) -> None:
            self.score = Score(int(threads))
            marks.mark("ready")

        @daft.method.batch(return_dtype=daft.DataType.float32(), batch_size=int(batch))
        def __call__(self, *columns: Any) -> Any:
            scores = self.score([c.to_arrow().to_numpy(zero_copy_only=False) for c in columns])
            marks.mark("first")
            return daft.Series.from_arrow(pa.array(scores))

    frame, scores = daft.read_parquet(files), Scores()
    frame = frame.select(frame["id"], scores(*[frame[name] for name in FEATURES]).alias("score"))
    frame.write_parquet(str(out), compression=WRITER["compression"])


def beam_text(
    files: list[str],
    out: Path,
    marks: Marks,
    precision: str = "fp32",
    threads: str = "2",
    tokens: str = "2048",
    batch: str = "512",
    workers: str = "1",
    **_: str,
) -> None:
    """Beam RunInference; see `tests.benchmarks.beam`."""
    from tests.benchmarks import beam

    beam.text(files, out, marks, precision, int(threads), int(tokens), int(batch), int(workers))
