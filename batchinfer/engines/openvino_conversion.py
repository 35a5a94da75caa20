"""A transformers model made a graph of OpenVINO's, once."""

from __future__ import annotations

import inspect
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from batchinfer.engines.encoder import read_json
from batchinfer.engines.graph_files import GraphFiles
from batchinfer.engines.graph_options import openvino_options
from batchinfer.engines.heads import Embedding, head_for
from batchinfer.engines.location import Location
from batchinfer.engines.options import Pooling, parse
from batchinfer.engines.sentence import recipe
from batchinfer.errors import MissingExtraError
from batchinfer.job.steps import Step
from batchinfer.precision.artefacts import artefact, digest
from batchinfer.precision.openvino_int8 import untold

_NAME = "model.xml"


def converted(step: Step, files: GraphFiles) -> Path:
    """The graph of a folder's encoder for the step's task, in float32, with rows and width of any size; made once and kept.

    Raises ModelError where weights are missing or the model can't be followed, MissingExtraError without transformers.
    """
    where, folder = f"{step.name}.uri", files.model
    try:
        import openvino
        import torch

        from batchinfer.engines.transformers import load_model
    except ImportError as error:
        raise MissingExtraError(error.name or "transformers", "transformers", f"{where}: {step.uri}") from error
    options = parse(openvino_options(step), step)
    made = recipe(folder, options, where) if isinstance(options, Pooling) else None
    head = head_for(step, read_json(folder / "config.json"), made, None, where)
    output = "last_hidden_state" if isinstance(head, Embedding) else "logits"

    def build(place: Path) -> None:
        model = load_model(Location(folder), head.model_class, where, trusted=False, as_stored=False)
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if "token_type_ids" in inspect.signature(model.forward).parameters else []
        sample = {name: torch.ones(2, 8, dtype=torch.int64) for name in names}
        sample["attention_mask"][1, 5:] = 0  # a mask that masks nothing may be left out of what is traced
        axes = [(name, openvino.PartialShape([-1, -1]), openvino.Type.i64) for name in names]
        with untold(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is traced, about values that are the same for any text
            graph = openvino.convert_model(_one_output(model, output), example_input=sample, input=axes)
        graph.outputs[0].get_tensor().set_names({output})
        openvino.save_model(graph, place / _NAME, compress_to_fp16=False)

    made_of = {f"file {name}": digest(path) for name, path in files.files().items()}
    made_of |= {f"package {name}": metadata.version(name) for name in ("openvino", "torch", "transformers")}
    return artefact({**made_of, "recipe": f"convert_model {head.model_class}"}, build) / _NAME


def _one_output(model: Any, output: str) -> Any:
    import torch

    class OneOutput(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask, **types), output)

    return OneOutput().eval()
