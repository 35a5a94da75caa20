"""Checkpoints that come quantized, told from their files without torch: they run as they are, at the precision `native`."""

from __future__ import annotations

import json
from pathlib import Path

from batchinfer.engines.archive import names_torchao
from batchinfer.engines.location import locate
from batchinfer.engines.modules import weights_of
from batchinfer.engines.options import TorchOptions, parse, runs_own_code
from batchinfer.engines.sources import is_class
from batchinfer.engines.trust import PICKLES
from batchinfer.job.steps import Step
from batchinfer.precision import layers


def quantized_by(step: Step) -> str | None:
    """What a step's checkpoint was quantized with, such as `torchao`; None for one of plain numbers.

    Knows a folder of transformers by its configuration, and `options.weights` that `torch.save` wrote by the classes that it names.
    Raises ModelError where the model can't be found.
    """
    if step.engine == "transformers":
        config = locate(step.uri, f"{step.name}.uri", code=runs_own_code(step)).folder / "config.json"
        return _method(config)
    if step.engine == "torch" and is_class(step.uri) and "weights" in step.options:
        path = weights_of(parse(TorchOptions, step), step)
        return layers.PACKAGE if path is not None and path.suffix in PICKLES and names_torchao(path) else None
    return None


def _method(config: Path) -> str | None:
    try:
        found = json.loads(config.read_bytes()).get("quantization_config")
    except (OSError, ValueError, AttributeError):  # loading it says what is wrong
        return None
    return str(found.get("quant_method", "an unnamed method")) if isinstance(found, dict) else None
