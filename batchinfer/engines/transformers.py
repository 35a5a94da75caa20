"""The transformers engine: encoder models of the Hugging Face library on columns of texts and images."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchinfer.engines.batches import TensorBatch
from batchinfer.engines.heads import DESCRIBED, Embedding, Head, HeadOutputs, TokenClassification, head_for, ready
from batchinfer.engines.image_files import Files
from batchinfer.engines.location import Location, locate
from batchinfer.engines.options import (
    EmbeddingOptions,
    ImageTaskOptions,
    OwnCode,
    TextOptions,
    check_names,
    parse,
    task_of,
)
from batchinfer.engines.outputs import tensor_to_numpy
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Prepared
from batchinfer.engines.readers import ImageReader, Reader, TextReader, image_processor
from batchinfer.engines.replicas import Replicas
from batchinfer.engines.sentence import Recipe, recipe
from batchinfer.engines.tokens import Format, cut_at, longest
from batchinfer.engines.trust import check_code, own_code, reason
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from batchinfer.precision.artefacts import digest
from batchinfer.precision.compiled import compiling
from batchinfer.precision.kept import LEAST_BYTES, kept
from batchinfer.precision.layers import quiet
from batchinfer.precision.protocol import Applied
from batchinfer.storage.store import StorageOptions


@dataclass(frozen=True)
class _Loaded:
    replicas: Replicas | None
    """None where the model is elsewhere."""
    reader: Reader
    head: Head
    device: str
    smallest: int
    """Rows that a batch needs at least."""


class TransformersEngine:
    """Runs a model of transformers for one of the tasks embedding, text-, token- and image-classification."""

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),  # noqa: ARG002 - such models bring no code
        storage: StorageOptions | None = None,
        prepared: PreparedColumns | None = None,
    ) -> None:
        task = task_of(step)
        wrong = check_names(step, task)
        if wrong:
            raise ModelError("\n".join(wrong))
        self._step = step
        self._options: OwnCode = parse(task.options, step)
        self._storage = storage or {}
        self._prepared = prepared or PreparedColumns()
        self._loaded: _Loaded | None = None

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load the model, and its tokenizer or image processor.

        Raises ModelError where files or weights lack, or an option doesn't fit the model.
        """
        # The tokenizer reads these once, at its first use in the process; later changes do nothing.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        where = f"{self._step.name}.uri"
        location = locate(self._step.uri, where, code=bool(self._options.trust_remote_code))
        trusted = check_code(location, self._step.uri, self._options.trust_remote_code, self._step.name)
        folder = location.folder
        made = recipe(folder, self._options, where) if isinstance(self._options, EmbeddingOptions) else None
        config, opened = open_folder(folder, where, self._step, trusted=trusted)
        # By attribute: some kinds of model have other names for them in their config.json.
        described = {name: getattr(config, name, None) for name in DESCRIBED}
        size = config.num_labels if made is None else config.hidden_size
        head = head_for(self._step, described, made, size, where)
        as_stored = precision == recipes.NATIVE

        def applied_now() -> Applied:
            model = load_model(location, head.model_class, where, trusted=trusted, as_stored=as_stored)
            return recipes.apply(precision, model, device)

        pays = not as_stored and not trusted and device == "cpu" and _is_large(location)
        if pays and recipes.recipe(precision).quantizes:
            made_of = _made_of(location, head)
            applied = kept(made_of, precision, applied_now, lambda: _skeleton(config, head))
        else:
            applied = applied_now()
        prepared = None if trusted else self._prepared
        if isinstance(self._options, ImageTaskOptions):
            reader: Reader = self._images(opened, self._options, applied, device, prepared)
        else:
            opened.backend_tokenizer.no_padding()
            head = ready(head, opened.backend_tokenizer)
            reader = self._texts(opened, described, head, made, applied.module, device, prepared)
        replicas = Replicas(applied.module, device, threads, compiled=applied.compiled)
        self._loaded = _Loaded(replicas, reader, head, device, applied.smallest)
        if applied.compiled:
            self.infer(reader.sample())  # it takes up to a minute: not in a batch, whose time is bounded
        types, several = {name: head.types[name] for name in self._step.outputs}, replicas.can_be_several
        return Description(types, precision, device, reader.max_length, applied.told(), side_by_side=several)

    def _images(
        self, processor: Any, options: ImageTaskOptions, applied: Applied, device: str, prepared: PreparedColumns | None
    ) -> ImageReader:
        files = Files(options.images.root, self._storage, f"{self._step.name}.options.images")
        files.open()
        floats = (p.dtype for p in applied.module.parameters() if p.is_floating_point())
        dtype = applied.dtype if applied.dtype is not None else next(floats)
        return ImageReader.of(self._step, processor, files, dtype, prepared, pin=device.startswith("cuda"))

    def _texts(
        self,
        tokenizer: Any,
        described: Mapping[str, Any],
        head: Head,
        made: Recipe | None,
        module: Any,
        device: str,
        prepared: PreparedColumns | None,
    ) -> TextReader:
        assert isinstance(self._options, TextOptions)
        takes_types = "token_type_ids" in inspect.signature(module.forward).parameters
        asked = f"{self._step.name}.options.max_length"
        wanted = made.max_length if made is not None else self._options.max_length
        length = longest(
            described, tokenizer.model_max_length, wanted, asked if self._options.max_length is not None else None
        )
        backend = tokenizer.backend_tokenizer
        cut_at(backend, length, asked, pair="text_pair" in self._step.inputs)
        sample = backend.encode("a", "b" if "text_pair" in self._step.inputs else None)
        format_ = Format(
            pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
            type_ids=takes_types and "token_type_ids" in tokenizer.model_input_names,
            types_vary=any(sample.type_ids),
            spans=isinstance(head, TokenClassification),
            pin=device.startswith("cuda"),
        )
        prompt = made.prompt if made is not None else ""
        return TextReader.of(self._step, backend, prompt, format_, length, prepared)

    def without_model(self) -> TransformersEngine:
        """See ModelEngine."""
        engine, loaded = TransformersEngine(self._step), self._require()
        engine._loaded = replace(loaded, replicas=None, device="cpu", reader=loaded.reader.elsewhere())
        return engine

    def prepare(self, rows: pa.Table) -> Prepared:
        """Tokenise one window; images are decoded by batches. Raises TypeError "text is null" or for what is no string, ValueError for no
        tokens.
        """
        return self._require().reader.prepare(rows)

    def infer(self, batch: TensorBatch) -> HeadOutputs:
        """Run the model and the head on the device, and bring the result to the CPU."""
        import torch

        loaded = self._require()
        assert loaded.replicas is not None
        with torch.inference_mode(), loaded.replicas.stream():
            inputs = {name: tensor.to(loaded.device, non_blocking=True) for name, tensor in batch.tensors.items()}
            if batch.rows < loaded.smallest:
                inputs = {name: torch.cat([tensor] * loaded.smallest) for name, tensor in inputs.items()}
            with compiling(f"{self._step.name}.precision"):
                answer = loaded.replicas.here()(**inputs)
            computed = loaded.head.compute(answer, inputs.get("attention_mask"))
            return HeadOutputs({name: value[: batch.rows].cpu() for name, value in computed.items()}, batch)

    def finish(self, outputs: HeadOutputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output that the step names."""
        values = {name: tensor_to_numpy(value) for name, value in outputs.values.items()}
        columns = self._require().head.columns(values, outputs.batch)
        return {name: columns[name] for name in self._step.outputs}

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes before prepare(), infer() and finish()")
        return self._loaded


def open_folder(folder: Path, where: str, step: Step, *, trusted: bool) -> tuple[Any, Any]:
    """The model's configuration, and its image processor for images, else its fast tokenizer. Raises ModelError."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        if step.task == "image-classification":
            return config, image_processor(folder, where, trusted=trusted)
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


def _is_large(location: Location) -> bool:
    """Whether the model's weights are so large that its quantized form is worth keeping."""
    weights = (path for name, path in location.files().items() if name.endswith((".safetensors", ".bin")))
    return sum(path.stat().st_size for path in weights) >= LEAST_BYTES


def _made_of(location: Location, head: Head) -> dict[str, str]:
    """What decides about the numbers of a model besides its precision: its files, the class, and the library that reads them."""
    files = {f"file {name}": digest(path) for name, path in location.files().items()}
    return {**files, "class": head.model_class, "package transformers": metadata.version("transformers")}


def _skeleton(config: Any, head: Head) -> Any:
    """The model in inference mode, without numbers."""
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, head.model_class).from_config(config, dtype=torch.float32).eval()


def load_model(location: Location, model_class: str, where: str, *, trusted: bool, as_stored: bool) -> Any:
    """The model in inference mode, in float32, or `as_stored`: as a quantized one has it.

    Raises ModelError where its weights are missing: they would be random.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    folder = location.folder
    try:
        with quiet():
            model, keys = getattr(transformers, model_class).from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=trusted,
                use_safetensors=location.has_safetensors,
                weights_only=True,
                dtype="auto" if as_stored else torch.float32,
                output_loading_info=True,
            )
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: the pickled weights in {folder} are damaged, or hold more than tensors, and reading that can run any code: "
            "save the model with safetensors where it was made: model.save_pretrained(folder)"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{where}: {folder} can't be loaded as {model_class}: {reason(error)}") from error
    # Nobody looks at the pooler's output where token vectors are pooled here.
    unused = "pooler." if model_class == Embedding.model_class else None
    missing = sorted(key for key in keys["missing_keys"] if unused is None or unused not in key)
    if missing:
        raise ModelError(
            f"{where}: {folder} has no weights for {', '.join(missing)}: it was not trained for the task, and would "
            "run with random numbers there"
        )
    return model.eval()
