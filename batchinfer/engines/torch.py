"""The torch engine: an exported program, a TorchScript file, or a module class with safetensors weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from batchinfer.engines import modules
from batchinfer.engines.batches import TensorBatch
from batchinfer.engines.images import Images
from batchinfer.engines.inputs import check_numeric, columns_of, contiguous, matrix, to_numpy
from batchinfer.engines.options import TorchOptions, parse
from batchinfer.engines.outputs import Outputs, finish, single
from batchinfer.engines.pixels import ImageColumns
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.protocol import Description, Rows
from batchinfer.engines.replicas import Replicas
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from batchinfer.precision.compiled import compiling
from batchinfer.storage.store import StorageOptions


class TensorRows:
    """One window as tensors, which share the memory of the Arrow columns where no conversion is needed, and images."""

    lengths = None
    truncated = None

    def __init__(
        self, rows: int, tensors: Mapping[str, Any], dtype: Any, row_bytes: int | None = None, *, pin: bool
    ) -> None:
        self._rows = rows
        self._tensors = tensors
        self._dtype = dtype
        self._pin = pin
        self.row_bytes = row_bytes

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> TensorBatch:
        """These rows, floating inputs in the module's precision, pinned for a CUDA device; views where they can be.

        Raises what reading and decoding images does.
        """
        import torch

        count = len(range(*rows.indices(self._rows))) if isinstance(rows, slice) else len(rows)
        cut = {}
        for name, whole in self._tensors.items():
            if isinstance(whole, Images):
                tensor = torch.from_numpy(whole[rows])
            else:
                tensor = whole[rows] if isinstance(rows, slice) else whole[torch.from_numpy(rows)]
            if tensor.is_floating_point() and self._dtype is not None:
                tensor = tensor.to(self._dtype)
            cut[name] = tensor.pin_memory() if self._pin else tensor
        return TensorBatch(count, cut)


class TorchEngine:
    """Runs a torch module on numeric columns, and on columns of images."""

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),
        storage: StorageOptions | None = None,
        prepared: PreparedColumns | None = None,
    ) -> None:
        self._step = step
        self._code = code
        self._options = parse(TorchOptions, step)
        self._images = ImageColumns(self._options.images, storage or {}, step.name, prepared or PreparedColumns())
        self._module: modules.Loaded | None = None
        self._replicas: Replicas | None = None
        self._device = "cpu"

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load the module.

        Raises ModelError where the file is of another kind, its batch size is fixed, or weights lack.
        """
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        self._images.files.open()
        loaded = modules.load(self._step, self._options, self._code, device)
        applied = recipes.apply(precision, loaded.module, device)
        floats = (p.dtype for p in applied.module.parameters() if p.is_floating_point())
        dtype = applied.dtype if applied.dtype is not None else next(floats, None)
        smallest = max(loaded.smallest, applied.smallest)
        self._module = replace(loaded, module=applied.module, dtype=dtype, smallest=smallest)
        self._replicas = Replicas(applied.module, device, threads)
        self._device = device
        # A module that is compiled may keep values while it runs, and a copy would be compiled again.
        several = not applied.compiled and self._replicas.can_be_several
        types = dict.fromkeys(self._step.outputs)
        return Description(types, precision, device, applied=applied.told(), side_by_side=several)

    def without_model(self) -> TorchEngine:
        """See ModelEngine."""
        engine = TorchEngine(self._step)
        engine._images = self._images
        engine._module = replace(self._loaded(), module=None)
        return engine

    def prepare(self, rows: pa.Table) -> TensorRows:
        """Numeric columns as tensors of shape (rows,), fixed-size lists of k and lists of k columns as (rows, k); images when a batch takes
        them.

        Raises TypeError naming the input where a value is null, and ModelError for a column that is neither numeric nor of images.
        """
        module = self._loaded()
        columns = {name: contiguous(rows.column(name)) for name in columns_of(self._step)}
        tensors: dict[str, Any] = {}
        for name, named in self._step.inputs.items():
            parts = [columns[column] for column in ((named,) if isinstance(named, str) else named)]
            where = f"{self._step.name}.inputs.{name}"
            if isinstance(named, str) and self._images.takes(parts[0]):
                tensors[name] = self._images.images(parts[0], name)
                continue
            check_numeric(parts, name, where, "the torch engine", single=isinstance(named, str))
            tensors[name] = _tensor(parts[0]) if isinstance(named, str) else _matrix(parts)
        row_bytes = self._images.row_bytes(tensors)
        return TensorRows(rows.num_rows, tensors, module.dtype, row_bytes, pin=self._device.startswith("cuda"))

    def infer(self, batch: TensorBatch) -> Outputs:
        """Run the module, and bring what it gives to the CPU.

        Raises what the module raises; ModelError where it writes into its inputs (they share the memory of the job's
        columns) or gives another number or form of outputs than the step names.
        """
        import torch

        loaded = self._loaded()
        assert self._replicas is not None
        module = replace(loaded, module=self._replicas.here())
        versions = {name: tensor._version for name, tensor in batch.tensors.items()}
        with torch.inference_mode(), self._replicas.stream():
            inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.tensors.items()}
            # A program that was traced for at least two rows gets a lone row twice.
            short = batch.rows < module.smallest
            if short:
                inputs = {name: torch.cat([tensor] * module.smallest) for name, tensor in inputs.items()}
            outputs = {
                name: (tensor[: batch.rows] if short else tensor).cpu() if isinstance(tensor, torch.Tensor) else tensor
                for name, tensor in self._by_name(self._run(module, inputs)).items()
            }
        written = [name for name, tensor in batch.tensors.items() if tensor._version != versions[name]]
        if written:
            raise ModelError(
                f"{self._step.name}.uri: the module writes into its input {', '.join(written)}, which shares its "
                "memory with the job's columns: clone it in forward before changing it"
            )
        return Outputs(batch.rows, outputs)

    def finish(self, outputs: Outputs) -> Mapping[str, pa.Array]:
        """One Arrow array per output: (n,) and (n, 1) become numbers, (n, k) lists of fixed size; bfloat16 float32.

        Raises ModelError for a missing output and for another number of values than rows.
        """
        values = {name: single(value) for name, value in outputs.values.items()}
        return finish(Outputs(outputs.rows, values), self._step.outputs, self._step.name)

    def _run(self, module: modules.Loaded, inputs: Mapping[str, Any]) -> Any:
        with compiling(f"{self._step.name}.precision"):
            return module(inputs)

    def _loaded(self) -> modules.Loaded:
        if self._module is None:
            raise RuntimeError("load() comes before prepare() and infer()")
        return self._module

    def _by_name(self, values: Any) -> Mapping[str, Any]:
        """The module's outputs by name: from a dict by key, from a tuple or list by position, from a tensor alone."""
        if isinstance(values, Mapping):
            return values
        names = list(self._step.outputs)
        listed = list(values) if isinstance(values, tuple | list) else [values]
        if len(listed) != len(names):
            raise ModelError(
                f"{self._step.name}.outputs: the module gives {len(listed)} outputs, and the step names {len(names)}: "
                "name them all in the order in which forward returns them, or return a dict"
            )
        return dict(zip(names, listed, strict=True))


def _tensor(column: pa.Array) -> Any:
    """A column without nulls as a tensor: a view of its memory, for booleans a copy.

    By DLPack, which hands on read-only memory without a copy and without the warning of torch.from_numpy.
    """
    import torch

    if pa.types.is_boolean(column.type):
        return torch.from_numpy(to_numpy(column))
    if not pa.types.is_fixed_size_list(column.type):
        return torch.from_dlpack(column)
    return torch.from_dlpack(column.flatten()).reshape(len(column), column.type.list_size)


def _matrix(columns: list[pa.Array]) -> Any:
    import torch

    return torch.from_numpy(matrix(columns))
