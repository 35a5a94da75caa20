"""The tasks of the transformers engine: what a model's outputs mean, on the device and then as Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.batches import TensorBatch
from batchinfer.engines.outputs import fixed_size_lists
from batchinfer.engines.pooling import pooled
from batchinfer.engines.sentence import Recipe
from batchinfer.engines.tokens import TextBatch
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

ENTITY = pa.struct(
    [("label", pa.string()), ("score", pa.float32()), ("start", pa.int32()), ("end", pa.int32())],
)
"""One found entity; `start` is its first character in the text, from 0, `end` the one after its last."""

DESCRIBED = ("hidden_size", "id2label", "problem_type", "max_position_embeddings", "model_type", "pad_token_id")
"""What of a model's config.json is used."""


class Head(Protocol):
    """One task."""

    @property
    def model_class(self) -> str:
        """The class of transformers that loads the model."""

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """Types of all the outputs that the task has."""

    def compute(self, outputs: Any, mask: Any) -> Mapping[str, Any]:
        """On the device: the tensors to bring to the CPU; `mask` is (rows, width), 1 at tokens; None of images."""

    def columns(self, values: Mapping[str, NDArray[Any]], batch: TensorBatch) -> Mapping[str, pa.Array]:
        """On the CPU: one column per output."""


@dataclass(frozen=True)
class HeadOutputs:
    """What `infer` hands to `finish`: the head's tensors on the CPU, and the batch that they are of."""

    values: Mapping[str, Any]
    batch: TensorBatch


@dataclass(frozen=True)
class Embedding:
    """One vector per text, pooled over its tokens in float32."""

    recipe: Recipe
    size: int
    left_out: int = 0
    """Tokens at the beginning of each text that aren't pooled."""
    model_class: ClassVar[str] = "AutoModel"

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """`embedding`: fixed-size lists of the model's hidden size, or what its recipe makes of that."""
        return {"embedding": pa.list_(pa.float32(), self.size)}

    def compute(self, outputs: Any, mask: Any) -> Mapping[str, Any]:
        """Vectors of shape (rows, size)."""
        import torch

        hidden = outputs.last_hidden_state.float()
        parts = [pooled(mode, hidden, mask, self.left_out) for mode in self.recipe.pooling]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        for layer in self.recipe.layers:
            vectors = layer.compute(vectors)
        return {"embedding": vectors}

    def columns(self, values: Mapping[str, NDArray[Any]], batch: TensorBatch) -> Mapping[str, pa.Array]:  # noqa: ARG002
        """The vectors, without a copy."""
        return {"embedding": fixed_size_lists(values["embedding"])}


@dataclass(frozen=True)
class Classification:
    """A label for each text, pair or image: softmax over the labels, a sigmoid each where they don't exclude one another."""

    labels: tuple[str, ...]
    """By id."""
    activation: str
    """`softmax`, `sigmoid`, or `none` for a regression."""
    model_class: str

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """`label` and `score` of the best label; `scores` of all labels in the order of their ids."""
        scores = pa.list_(pa.float32(), len(self.labels))
        return {"label": pa.string(), "score": pa.float32(), "scores": scores}

    def compute(self, outputs: Any, mask: Any) -> Mapping[str, Any]:  # noqa: ARG002 - the model pools by itself
        """Scores of shape (rows, labels)."""
        logits = outputs.logits.float()
        functions = {"softmax": lambda: logits.softmax(-1), "sigmoid": logits.sigmoid, "none": lambda: logits}
        return {"scores": functions[self.activation]()}

    def columns(self, values: Mapping[str, NDArray[Any]], batch: TensorBatch) -> Mapping[str, pa.Array]:  # noqa: ARG002
        """The best label by name, its score, and all scores."""
        scores = values["scores"]
        best = scores.argmax(axis=1)
        return {
            "label": pa.array(self.labels, pa.string()).take(pa.array(best)),
            "score": pa.array(scores[np.arange(len(scores)), best]),
            "scores": fixed_size_lists(scores),
        }


@dataclass(frozen=True)
class TokenClassification:
    """Entities in each text: neighbouring tokens of one tag, joined as by the pipeline's strategy "simple"."""

    labels: tuple[str, ...]
    """By id; `B-` begins an entity, `I-` and a label without prefix go on with one, `O` is outside of any."""
    model_class: ClassVar[str] = "AutoModelForTokenClassification"

    @property
    def types(self) -> Mapping[str, pa.DataType]:
        """`entities`: a list of structs, in the order of the text."""
        return {"entities": pa.list_(ENTITY)}

    def compute(self, outputs: Any, mask: Any) -> Mapping[str, Any]:  # noqa: ARG002 - padding is left out on the CPU
        """Each token's best label and its probability, both of shape (rows, width)."""
        scores, ids = outputs.logits.float().softmax(-1).max(-1)
        return {"scores": scores, "ids": ids}

    def columns(self, values: Mapping[str, NDArray[Any]], batch: TensorBatch) -> Mapping[str, pa.Array]:
        """The entities of each text: label without its prefix, mean probability of its tokens, place in the text."""
        assert isinstance(batch, TextBatch)
        assert batch.spans is not None
        assert batch.real is not None
        tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in self.labels]
        tag_ids = np.array([tags.index(tag) for tag in tags])
        begins = np.array([label.startswith("B-") for label in self.labels])
        rows = np.nonzero(batch.real)[0]
        ids = values["ids"][batch.real]
        tag = tag_ids[ids]
        first = np.ones(len(ids), bool)
        first[1:] = (rows[1:] != rows[:-1]) | (tag[1:] != tag[:-1]) | begins[ids[1:]]
        starts = np.flatnonzero(first)
        ends = np.append(starts[1:], len(ids)) - 1 if len(starts) else starts
        scores = values["scores"][batch.real]
        sums = np.add.reduceat(scores, starts) if len(starts) else scores[:0]
        names = np.array([label.split("-", 1)[-1] for label in self.labels], dtype=object)[ids[starts]]
        kept = names != "O"
        starts, ends = starts[kept], ends[kept]
        spans = batch.spans[batch.real]
        structs = pa.StructArray.from_arrays(
            [
                pa.array(names[kept], pa.string()),
                pa.array((sums[kept] / (ends - starts + 1)).astype(np.float32)),
                pa.array(np.ascontiguousarray(spans[starts, 0])),
                pa.array(np.ascontiguousarray(spans[ends, 1])),
            ],
            fields=list(ENTITY),
        )
        counts = np.bincount(rows[starts], minlength=batch.rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return {"entities": pa.ListArray.from_arrays(pa.array(offsets), structs)}


def head_for(step: Step, config: Mapping[str, Any], made: Recipe | None, size: int | None, where: str) -> Head:
    """The head of the step's task for the model that `config`, its config.json, describes.

    `size` is that of the last axis of what the head is put on, None where it isn't known; `made` the recipe of embeddings.
    Raises ModelError where the recipe doesn't fit, the config lacks what the task needs, or the model gives scores of another number of labels.
    """
    if made is not None:
        width = size or config.get("hidden_size")
        if not isinstance(width, int):
            raise ModelError(
                f"{where}: config.json has no hidden_size, and the model doesn't tell the size of its vectors"
            )
        return Embedding(made, made.size(width, where))
    names = config.get("id2label") or {}
    count = size or len(names)
    if names and len(names) != count:
        raise ModelError(f"{where}: config.json names {len(names)} labels, and the model scores {count}")
    if not count:
        raise ModelError(f"{where}: config.json has no id2label, and the model doesn't tell how many labels it scores")
    # The keys of JSON are texts; a model without names has those of transformers.
    labels = tuple(str(names.get(str(n), names.get(n, f"LABEL_{n}"))) for n in range(count))
    if step.task == "token-classification":
        return TokenClassification(labels)
    problem = config.get("problem_type")
    several = problem == "multi_label_classification" or count == 1
    activation = "none" if problem == "regression" else "sigmoid" if several else "softmax"
    kind = "Image" if step.task == "image-classification" else "Sequence"
    return Classification(labels, activation, f"AutoModelFor{kind}Classification")


def ready(head: Head, tokenizer: Any) -> Head:
    """The head to be computed with what this tokenizer (tokenizers.Tokenizer) gives, which is made one for it. Raises ModelError."""
    if not isinstance(head, Embedding):
        return head
    for layer in head.recipe.layers:
        layer.load()
    return replace(head, left_out=head.recipe.ready(tokenizer))
