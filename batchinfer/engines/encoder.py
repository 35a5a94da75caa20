"""Texts through the graph of an encoder: its tokenizer and labels are read from the files beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.graph import Graph, Port
from batchinfer.engines.heads import Embedding, HeadOutputs, TokenClassification, head_for, ready
from batchinfer.engines.options import MaxLength, Pooling, check_names, task_of
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.readers import TextReader
from batchinfer.engines.sentence import recipe
from batchinfer.engines.tokens import Format, TextBatch, TextRows, cut_at, longest
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

_FED = ("input_ids", "attention_mask", "token_type_ids")
_HIDDEN = ("last_hidden_state", "token_embeddings")


class Texts:
    """Texts through a graph, for one of the tasks embedding, text-classification and token-classification."""

    def __init__(
        self, step: Step, graph: Graph, folder: Path, options: MaxLength, prepared: PreparedColumns, threads: int
    ) -> None:
        """Read tokenizer and labels from `folder`, and check that the graph fits the task. Raises ModelError."""
        # The tokenizer reads these once, at its first use in the process; later changes do nothing.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        import torch

        torch.set_num_threads(threads)  # heads compute with torch
        wrong = check_names(step, task_of(step))
        if wrong:
            raise ModelError("\n".join(wrong))
        where = f"{step.name}.uri"
        self._step, self.graph = step, graph
        _check_inputs(graph, step)
        config, settings = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
        made = recipe(folder, options, where) if isinstance(options, Pooling) else None
        port = _result(graph, step)
        self._output = port.name
        size = port.shape[-1] if port.shape is not None else None
        self._head = head_for(step, config, made, size, where)
        tokenizer = _tokenizer(folder, where)
        tokenizer.no_padding()
        self._head = ready(self._head, tokenizer)
        self.max_length = longest(
            config,
            settings.get("model_max_length"),
            made.max_length if made is not None else options.max_length,
            f"{step.name}.options.max_length" if options.max_length is not None else None,
        )
        cut_at(tokenizer, self.max_length, f"{step.name}.options.max_length", pair="text_pair" in step.inputs)
        sample = tokenizer.encode("a", "b" if "text_pair" in step.inputs else None)
        format_ = Format(
            pad_id=_pad_id(config, settings, tokenizer),
            type_ids="token_type_ids" in graph.inputs,
            types_vary=any(sample.type_ids),
            spans=isinstance(self._head, TokenClassification),
        )
        prompt = made.prompt if made is not None else ""
        self._reader = TextReader.of(step, tokenizer, prompt, format_, self.max_length, prepared)
        self.types: Mapping[str, pa.DataType | None] = {name: self._head.types[name] for name in step.outputs}

    def prepare(self, rows: pa.Table) -> TextRows:
        """Tokenise one window. Raises TypeError "text is null" or for what is no string, ValueError for no tokens."""
        return self._reader.prepare(rows)

    def feeds(self, batch: TextBatch) -> Mapping[str, NDArray[Any]]:
        """See Use."""
        return {
            name: np.ascontiguousarray(batch.tensors[name].numpy(), dtype=port.dtype)
            for name, port in self.graph.inputs.items()
        }

    def infer(self, batch: TextBatch) -> HeadOutputs:
        """Run the graph, then the head."""
        import torch

        value = torch.from_numpy(self.graph.run(self.feeds(batch), [self._output])[self._output])
        name = "last_hidden_state" if isinstance(self._head, Embedding) else "logits"
        with torch.inference_mode():
            computed = self._head.compute(SimpleNamespace(**{name: value}), batch.tensors["attention_mask"])
        return HeadOutputs(computed, batch)

    def finish(self, outputs: HeadOutputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output that the step names."""
        values: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in outputs.values.items()}
        columns = self._head.columns(values, outputs.batch)
        return {name: columns[name] for name in self._step.outputs}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises ModelError for anything else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object")
    return found


def _tokenizer(folder: Path, where: str) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{where}: {path} is no tokenizer: {error}") from error


def _pad_id(config: Mapping[str, Any], settings: Mapping[str, Any], tokenizer: Any) -> int:
    token = settings.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(token) if isinstance(token, str) else config.get("pad_token_id")
    return found if isinstance(found, int) else 0


def _check_inputs(graph: Graph, step: Step) -> None:
    ports = graph.inputs.values()
    strange = [str(port) for port in ports if port.name not in _FED or (port.dtype is None or port.dtype.kind != "i")]
    if strange or "input_ids" not in graph.inputs:
        raise ModelError(
            f"{step.name}.uri: {step.uri} is no text encoder: it takes {'; '.join(map(str, ports))}, and texts give "
            f"{', '.join(_FED)} as integers"
        )
    for port in ports:
        if port.shape is not None and (len(port.shape) != 2 or port.shape[1] is not None):
            raise ModelError(
                f"{step.name}.uri: {step.uri} takes texts of one length only (input {port}): "
                "export it with a second axis of any size"
            )


def _result(graph: Graph, step: Step) -> Port:
    """The output that the task's head is put on."""
    named = _HIDDEN if step.task == "embedding" else ("logits",)
    rank = 2 if step.task == "text-classification" else 3
    fits = [port for port in graph.outputs.values() if port.shape is None or len(port.shape) == rank]
    by_name = [port for port in fits if port.name in named]
    if len(by_name or fits) != 1:
        raise ModelError(
            f"{step.name}.task: {step.task} needs an output of {rank} axes, called {' or '.join(named)} where there are "
            f"several; {step.uri} gives {'; '.join(map(str, graph.outputs.values()))}"
        )
    return (by_name or fits)[0]
