"""The transformers engine: encoder models of the Hugging Face library on text columns."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchinfer.engines.heads import Embedding, Head, TextClassification, TokenClassification
from batchinfer.engines.location import Location, locate
from batchinfer.engines.options import EmbeddingOptions, TextOptions, check_names, parse, task_of
from batchinfer.engines.outputs import tensor_to_numpy
from batchinfer.engines.protocol import Description
from batchinfer.engines.sentence import recipe
from batchinfer.engines.tokens import Format, TextBatch, TextRows, tokenise
from batchinfer.engines.trust import check_code, own_code, reason
from batchinfer.errors import ModelError
from batchinfer.job.spec import Step
from batchinfer.precision import recipes

_AFTER_PADDING = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "longformer",
    "mpnet",
    "data2vec-text",
    "esm",
}
"""Model types that number positions from behind the padding id, and so have that many fewer than they say."""


@dataclass(frozen=True)
class TextOutputs:
    """What `infer` hands to `finish`: the head's tensors on the CPU, and the batch that they are of."""

    values: Mapping[str, Any]
    batch: TextBatch


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any
    head: Head
    format: Format
    prompt: str
    device: str


class TransformersEngine:
    """Runs a model of transformers for one of the tasks embedding, text-classification and token-classification."""

    def __init__(self, step: Step, code: Sequence[str] = ()) -> None:  # noqa: ARG002 - such models bring no code
        task = task_of(step)
        wrong = check_names(step, task)
        if wrong:
            raise ModelError("\n".join(wrong))
        self._step = step
        self._options: TextOptions = parse(task.options, step)
        self._loaded: _Loaded | None = None

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load tokenizer and model.

        Raises ModelError where files or weights lack, or an option doesn't fit the model.
        """
        # The tokenizer reads these once, at its first use in the process; later changes do nothing.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        recipes.dtype(precision)
        where = f"{self._step.name}.uri"
        location = locate(self._step.uri, where, code=bool(self._options.trust_remote_code))
        trusted = check_code(location, self._step.uri, self._options.trust_remote_code, self._step.name)
        folder = location.folder
        made = recipe(folder, self._options, where) if isinstance(self._options, EmbeddingOptions) else None
        config, tokenizer = _open(folder, where, trusted=trusted)
        head = _head(self._step.task, config, made)
        model = recipes.apply(_load_model(location, head, where, trusted=trusted), precision).to(device)
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        length = self._length(config, tokenizer, made.max_length if made is not None else self._options.max_length)
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        if length is None:
            backend.no_truncation()
        else:
            self._check_room(backend, length)
            backend.enable_truncation(length)
        sample = backend.encode("a", "b" if "text_pair" in self._step.inputs else None)
        format_ = Format(
            pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
            type_ids=takes_types and "token_type_ids" in tokenizer.model_input_names,
            types_vary=any(sample.type_ids),
            spans=isinstance(head, TokenClassification),
            pin=device.startswith("cuda"),
        )
        self._loaded = _Loaded(model, backend, head, format_, made.prompt if made is not None else "", device)
        return Description({name: head.types[name] for name in self._step.outputs}, precision, device, length)

    def without_model(self) -> TransformersEngine:
        """See ModelEngine."""
        engine, loaded = TransformersEngine(self._step), self._require()
        engine._loaded = replace(loaded, model=None, device="cpu", format=replace(loaded.format, pin=False))
        return engine

    def prepare(self, rows: pa.Table) -> TextRows:
        """Tokenise one window. Raises TypeError "text is null" or for what is no string, ValueError for no tokens."""
        loaded = self._require()
        names = [name for name in ("text", "text_pair") if name in self._step.inputs]
        columns = [rows.column(str(self._step.inputs[name])) for name in names]
        return tokenise(loaded.tokenizer, columns, loaded.prompt, loaded.format)

    def infer(self, batch: TextBatch) -> TextOutputs:
        """Run the model and the head on the device, and bring the result to the CPU."""
        import torch

        loaded = self._require()
        with torch.inference_mode():
            inputs = {name: tensor.to(loaded.device, non_blocking=True) for name, tensor in batch.tensors.items()}
            computed = loaded.head.compute(loaded.model(**inputs), inputs["attention_mask"])
            return TextOutputs({name: value.cpu() for name, value in computed.items()}, batch)

    def finish(self, outputs: TextOutputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output that the step names."""
        values = {name: tensor_to_numpy(value) for name, value in outputs.values.items()}
        columns = self._require().head.columns(values, outputs.batch)
        return {name: columns[name] for name in self._step.outputs}

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes before prepare(), infer() and finish()")
        return self._loaded

    def _length(self, config: Any, tokenizer: Any, wanted: int | None) -> int | None:
        """Tokens after which a text is cut; None where nothing bounds it.

        Raises ModelError for more than the model has.
        """
        positions = getattr(config, "max_position_embeddings", None)
        positions = positions if isinstance(positions, int) and positions > 0 else None
        if positions is not None and config.model_type in _AFTER_PADDING:
            positions -= config.pad_token_id + 1
        if wanted is not None and positions is not None and wanted > positions:
            if self._options.max_length is not None:
                raise ModelError(
                    f"{self._step.name}.options.max_length: {wanted} is more than the model's {positions} positions"
                )
            wanted = positions
        if wanted is not None:
            return wanted
        # A tokenizer that knows no bound says 1e30.
        bounds = [bound for bound in (positions, tokenizer.model_max_length) if bound is not None and bound < 1e9]
        return min(bounds, default=None)

    def _check_room(self, backend: Any, length: int) -> None:
        special = backend.num_special_tokens_to_add("text_pair" in self._step.inputs)
        if length <= special:
            raise ModelError(
                f"{self._step.name}.options.max_length: {length} leaves no room beside {special} special tokens"
            )


def _open(folder: Path, where: str, *, trusted: bool) -> tuple[Any, Any]:
    """The model's configuration and its fast tokenizer. Raises ModelError."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusted, use_fast=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        if not trusted and (code := own_code(folder)):
            raise ModelError(
                f"{where}: {folder} brings code of its own ({', '.join(code)}), which is not run unless it is pinned: read it, "
                "and if you trust it, set options.trust_remote_code"
            ) from error
        raise ModelError(f"{where}: {folder} holds no model that transformers can open: {reason(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{where}: {folder} has no fast tokenizer: save it once with one (tokenizer.json)")
    return config, tokenizer


def _head(task: str | None, config: Any, made: Any) -> Head:
    if task == "embedding":
        return Embedding(made, config.hidden_size)
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if task == "token-classification":
        return TokenClassification(labels)
    problem = config.problem_type
    if problem == "regression":
        return TextClassification(labels, "none")
    several = problem == "multi_label_classification" or config.num_labels == 1
    return TextClassification(labels, "sigmoid" if several else "softmax")


def _load_model(location: Location, head: Head, where: str, *, trusted: bool) -> Any:
    """The model in float32 and inference mode.

    Raises ModelError where its weights are missing: they would be random.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    folder = location.folder
    try:
        model, keys = getattr(transformers, head.model_class).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=trusted,
            use_safetensors=location.has_safetensors,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: the pickled weights in {folder} are damaged, or hold more than tensors, and reading that can run any code: "
            "save the model with safetensors where it was made: model.save_pretrained(folder)"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{where}: {folder} can't be loaded as {head.model_class}: {reason(error)}") from error
    # Nobody looks at the pooler's output where token vectors are pooled here.
    unused = "pooler." if isinstance(head, Embedding) else None
    missing = sorted(key for key in keys["missing_keys"] if unused is None or unused not in key)
    if missing:
        raise ModelError(
            f"{where}: {folder} has no weights for {', '.join(missing)}: it was not trained for the task, and would "
            "run with random numbers there"
        )
    return model.eval()
