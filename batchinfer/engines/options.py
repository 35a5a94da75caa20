"""What may stand in a step: options, inputs and outputs by engine and task.

Needs no model library, so planning is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batchinfer.engines.image_options import ImageFiles, ImageOptions
from batchinfer.errors import ModelError
from batchinfer.job import nearest as words
from batchinfer.job.steps import Step


class Options(BaseModel):
    """What the options of every engine have in common: frozen, strict, and an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _digest(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("pin what may be loaded: write its SHA-256, 64 hexadecimal digits, as sha256sum prints it")
    return value


class ColumnOptions(Options):
    """Options of every engine on columns."""

    images: Annotated[
        ImageOptions | None, Field(description="how columns of encoded images, or of paths to them, are read")
    ] = None


class TorchOptions(ColumnOptions):
    """Options of the torch engine; all but `images` for `module:Class` only."""

    weights: Annotated[
        str | None, Field(description="file with the class's state dict: safetensors, or what torch.save wrote")
    ] = None
    allow_pickle: Annotated[
        str | None,
        BeforeValidator(_digest),
        Field(description="SHA-256 of the weights, where they hold more than tensors, which can run any code"),
    ] = None
    init: Annotated[dict[str, Any], Field(description="keyword arguments for the class")] = {}


def _trust(value: object) -> object:
    return value if isinstance(value, bool) else _digest(value)


class MaxLength(Options):
    """Options of every task on texts."""

    max_length: Annotated[
        int | None, Field(ge=1, description="tokens after which a text is cut; default: the model's")
    ] = None


class Pooling(MaxLength):
    """Options of the task embedding. Defaults come from the model's sentence-transformers files, where it has them."""

    pooling: Annotated[
        Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] | None,
        Field(description="default: the model's, else mean"),
    ] = None
    normalize: Annotated[bool | None, Field(description="to unit length; default: the model's, else false")] = None
    prompt: Annotated[str | None, Field(description="put before each text; default: the model's default prompt")] = None


class OwnCode(Options):
    """Options of every task of the transformers engine."""

    trust_remote_code: Annotated[
        bool | str | None,
        BeforeValidator(_trust),
        Field(description="run code that the model brings: true for hf:name@commit, else the code's digest"),
    ] = None


class TextOptions(MaxLength, OwnCode):
    """Options of the transformers engine's tasks on texts."""


class EmbeddingOptions(Pooling, TextOptions):
    """Options of the transformers engine's task embedding."""


class ImageTaskOptions(OwnCode):
    """Options of the transformers engine's task image-classification. How an image is read is in the model's folder."""

    images: Annotated[ImageFiles, Field(description="where the images of a column of paths are")] = ImageFiles()


class SklearnOptions(Options):
    """Options of the sklearn engine."""

    allow_pickle: Annotated[
        str | None,
        BeforeValidator(_digest),
        Field(description="SHA-256 of a joblib or pickle file, which can run any code"),
    ] = None
    trusted: Annotated[
        list[str], Field(description="types in a skops file that neither scikit-learn nor skops brings")
    ] = []
    nulls: Annotated[
        Literal["refuse", "nan"], Field(description="rows with a null fail, or the estimator gets NaN and None")
    ] = "refuse"


class GenerationOptions(TextOptions):
    """Options of the transformers engine's task text-generation."""

    max_length: Annotated[
        int | None,
        Field(
            ge=1, description="tokens after which a text is cut before it is put into the template; default: none is"
        ),
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1, description="tokens that are generated at most")] = 128
    temperature: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="0: always the likeliest token; above: drawn by chance")
    ] = 0.0
    top_k: Annotated[
        int | None, Field(ge=1, description="draw among so many of the likeliest tokens; default: all")
    ] = None
    top_p: Annotated[
        float | None,
        Field(
            gt=0, le=1, description="draw among the likeliest tokens that have this probability together; default: all"
        ),
    ] = None
    seed: Annotated[int | None, Field(description="of what is drawn; default: 0")] = None
    template: Annotated[
        str | None, Field(description="the prompt, with {input} where the text of an input stands; default: {text}")
    ] = None
    chat: Annotated[bool, Field(description="put the prompt into the model's chat template, as the user's message")] = (
        False
    )
    system: Annotated[str | None, Field(description="the system's message before it; a template too")] = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(description="texts that end the answer, and are left out of it"),
    ] = []
    json_schema: Annotated[
        dict[str, Any] | None,
        Field(alias="schema", description="JSON Schema that the answer must keep to; else the row fails"),
    ] = None
    attempts: Annotated[
        int, Field(ge=1, description="at an answer that keeps to the schema, each drawn by another seed")
    ] = 1
    slots: Annotated[
        int | None, Field(ge=1, description="rows that are generated at a time; default: 8 on a CPU, 64 on a GPU")
    ] = None

    def slots_on(self, device: str) -> int:
        """Rows that are generated at a time."""
        return self.slots or (8 if device == "cpu" else 64)


class MlflowOptions(Options):
    """Options of the mlflow engine."""

    allow_pickle: Annotated[
        str | None,
        BeforeValidator(_digest),
        Field(
            description="digest of the model's folder, whose files can run any code; the refusal without it says which"
        ),
    ] = None
    params: Annotated[dict[str, Any], Field(description="the model's parameters, as its signature has them")] = {}
    nulls: Annotated[
        Literal["refuse", "nan"], Field(description="rows with a null fail, or the model gets NaN and None")
    ] = "refuse"


@dataclass(frozen=True)
class Task:
    """What a task takes and gives, and its options in the transformers engine."""

    options: type[OwnCode]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ("text",)


TASKS = {
    "embedding": Task(EmbeddingOptions, ("embedding",)),
    "text-classification": Task(TextOptions, ("label", "score", "scores"), ("text", "text_pair")),
    "token-classification": Task(TextOptions, ("entities",)),
    "image-classification": Task(ImageTaskOptions, ("label", "score", "scores"), ("image",)),
}
"""Of encoders."""

GENERATION = "text-generation"
"""The task whose inputs are named by the job's own template; an engine of its own runs it."""

AnyOptions = TypeVar("AnyOptions", bound=Options)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one, and all of them."""
    names = sorted(known)
    close = words.nearest(name, names)
    meant = f"did you mean {close}? " if close else ""
    return f"{meant}known: {', '.join(names) or 'none'}"


def parse(kind: type[AnyOptions], step: Step) -> AnyOptions:
    """`step.options` as the engine's options.

    Raises ModelError naming each wrong one, what is wrong and what is known.
    """
    try:
        return kind.model_validate(step.options)
    except ValidationError as error:
        lines = []
        for wrong in error.errors():
            name = ".".join(str(part) for part in wrong["loc"])
            message = wrong["msg"].removeprefix("Value error, ")
            if wrong["type"] == "extra_forbidden":
                message = f"there is no such option; {nearest(str(wrong['loc'][-1]), _known(kind, wrong['loc']))}"
            lines.append(f"{step.name}.options.{name}: {message}")
        raise ModelError("\n".join(lines)) from error


def _known(kind: type[Options], place: tuple[int | str, ...]) -> Iterable[str]:
    """The options beside a place."""
    if len(place) > 1:  # of a mapping inside the options, images are the only one with keys of its own
        return (ImageFiles if issubclass(kind, ImageTaskOptions) else ImageOptions).model_fields
    return (field.alias or name for name, field in kind.model_fields.items())


def task_of(step: Step) -> Task:
    """The task of encoders that the step asks for. Raises ModelError where it asks for none."""
    if step.task not in TASKS:
        near = words.nearest(step.task or "", TASKS)
        meant = f"; did you mean {near}?" if near else ""
        raise ModelError(f"{step.name}.task: the {step.engine} engine needs one of {', '.join(TASKS)}{meant}")
    return TASKS[step.task]


def generates(step: Step) -> bool:
    """Whether the step's model writes texts."""
    return step.engine == "transformers" and step.task == GENERATION


def runs_own_code(step: Step) -> bool:
    """Whether a transformers model may run code that it brings, if that is what was pinned."""
    return bool(step.options.get("trust_remote_code"))


def check_names(step: Step, task: Task) -> list[str]:
    """What is wrong with the names of the step's inputs and outputs, one message each."""
    wrong = []
    for name, column in step.inputs.items():
        if name not in task.inputs:
            wrong.append(f"{step.name}.inputs.{name}: {step.task} has no such input; {nearest(name, task.inputs)}")
        elif not isinstance(column, str):
            wrong.append(f"{step.name}.inputs.{name}: is one column: don't give a list")
    if task.inputs[0] not in step.inputs:
        wrong.append(f"{step.name}.inputs: {step.task} needs the input {task.inputs[0]}")
    wrong.extend(
        f"{step.name}.outputs.{name}: {step.task} has no such output; {nearest(name, task.outputs)}"
        for name in step.outputs
        if name not in task.outputs
    )
    return wrong
