"""The steps of a job as pydantic models: what a row passes, each with the columns that it reads and writes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from batchinfer.job.values import AutoCount, Count, Duration, Model, Share, Switch, Text, Texts

Precision = Literal[
    "auto",
    "fp32",
    "tf32",
    "bf16",
    "fp16",
    "int8",
    "int8-weight",
    "int4-weight",
    "fp8",
    "fp32-compiled",
    "bf16-compiled",
]
EngineName = Literal["python", "torch", "transformers", "onnx", "openvino", "sklearn", "mlflow"]
Task = Literal["embedding", "text-classification", "token-classification", "image-classification", "text-generation"]
OnInvalidOutput = Literal["dead", "keep", "fail"]
UNDECIDED = 1e308
"""A threshold before one is found: every row is below it."""
OTHERWISE = "otherwise"
"""As a step's `when`: the rows that the steps before it, which write the same columns, didn't take."""


class OutputColumn(Model):
    """One output of a model: the new column's name and, if wanted, its type."""

    column: Annotated[Text, Field(description="the new column")]
    type: Annotated[
        Text | None,
        Field(description="Arrow type such as float32, string or fixed_size_list<float32>[384]; default: first seen"),
    ] = None


def _output_column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


class Batching(Model):
    """How many rows and tokens go into a batch, rows into a window, rows into a shard."""

    rows: Annotated[AutoCount, Field(description="rows a batch, at most")] = "auto"
    tokens: Annotated[AutoCount, Field(description="tokens a batch, padding included, at most")] = "auto"
    window: Annotated[AutoCount, Field(description="rows that are sorted by length together")] = "auto"
    shard: Annotated[AutoCount, Field(description="rows that become one output file")] = "auto"


class Gate(Model):
    """How a precision below 16 bits must agree with full precision before the job runs at it; of one above it is reported."""

    sample: Annotated[int, Field(strict=True, ge=32, description="rows of the job that are compared, at least 32")] = (
        512
    )
    metric: Annotated[
        Literal["auto", "cosine", "agreement", "relative_error"],
        Field(description="auto: by the outputs, vectors, labels or numbers"),
    ] = "auto"
    min: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(
            description="least mean cosine, agreement, or 1 - mean relative error; default: 0.995, 0.97, 0.99 in this order"
        ),
    ] = None
    label: Annotated[Text | None, Field(description="column with the truth: the metric may drop by 1 point")] = None
    on_fail: Annotated[
        Literal["refuse", "fallback"],
        Field(description="of a precision that is asked for; fallback: the next one that passes"),
    ] = "refuse"


class Cascade(Model):
    """Which rows of a smaller model come to this one: those that it is least sure of, by a threshold that is found at the start."""

    confidence: Annotated[
        Text | None,
        Field(
            description="column of a step before; default: confidence or score of the one that gives an answer of the same name"
        ),
    ] = None
    answer: Annotated[Text | None, Field(description="column with that step's answer; default: as for confidence")] = (
        None
    )
    agreement: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of rows on which the cascade must at least give this step's answer, with 95 % certainty",
        ),
    ] = 0.99
    sample: Annotated[int, Field(strict=True, ge=64, description="rows of the job that both answer, at least 64")] = (
        1024
    )


def _least_and_most(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError("write the smaller number first: [1, 4]")
    return value


class StepErrors(Model):
    """What becomes of rows that a step fails on."""

    on_failure: Annotated[
        Literal["dead", "skip"],
        Field(description="dead: the row is; skip: it goes on, with nulls for what this step gives"),
    ] = "dead"
    on_invalid_output: Annotated[
        OnInvalidOutput | None,
        Field(description="NaN, infinite, or of another type than pinned; default: as errors has it"),
    ] = None


class StepBatching(Model):
    """How many rows and tokens go into a batch of a step; what is left open is as `batching` has it."""

    rows: Annotated[AutoCount | None, Field(description="rows a batch, at most")] = None
    tokens: Annotated[AutoCount | None, Field(description="tokens a batch, padding included, at most")] = None


Outputs = Annotated[
    dict[
        str,
        Annotated[OutputColumn, BeforeValidator(_output_column, json_schema_input_type=Text | OutputColumn)],
    ],
    Field(min_length=1, description="the model's name: the new column, or {column, type}"),
]


class BaseStep(Model):
    """What all kinds of step have."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", description="letters, digits, _ and -")] = "model"
    when: Annotated[
        Text | None,
        Field(
            description="SQL condition; other rows pass by, with nulls for what this step gives. otherwise: those that no step "
            "before, of the same columns, took"
        ),
    ] = None
    errors: Annotated[StepErrors, Field(description="rows that this step fails on")] = StepErrors()


class Step(BaseStep):
    """A step that is a model."""

    engine: Annotated[EngineName, Field(description="the kind of model")]
    uri: Annotated[
        Text,
        Field(
            description="hf:org/name@revision, package:name/path, a path or URL, module:Class, or of mlflow models:/name@alias"
        ),
    ]
    task: Annotated[
        Task | None,
        Field(
            description="what a transformers model does; onnx and openvino on texts too, all but text-generation; other engines have none"
        ),
    ] = None
    inputs: Annotated[
        dict[str, Text | Texts],
        Field(
            min_length=1, description="the model's name: the column, or a list of numeric columns that form a matrix"
        ),
    ]
    outputs: Outputs
    input_format: Annotated[
        Literal["dict", "arrow", "polars"], Field(description="what a class of the python engine is called with")
    ] = "dict"
    precision: Annotated[Precision, Field(description="auto: the fastest that was timed and agrees with fp32")] = "auto"
    gate: Annotated[
        Literal["off"] | Gate, Field(description="the comparison with full precision; off: no precision is compared")
    ] = Gate()
    options: Annotated[dict[str, Any], Field(description="the engine's own", repr=False)] = Field(default_factory=dict)
    workers: Annotated[
        Count | Annotated[tuple[Count, Count], AfterValidator(_least_and_most)] | None,
        Field(description="model actors of the step's own pool, or [least, most] of them"),
    ] = None
    cpus: Annotated[Count | None, Field(description="of each model actor")] = None
    gpus: Annotated[Share | None, Field(description="of each model actor")] = None
    batching: Annotated[StepBatching, Field(description="batches of this step")] = StepBatching()
    cascade: Annotated[
        Literal["auto"] | Cascade | None,
        Field(
            description="in place of when: rows that a step before isn't sure enough of; auto: as the defaults have it"
        ),
    ] = None
    timeout: Annotated[Duration | None, Field(description="one call of this model; default: as retry has it")] = None
    cache: Annotated[
        Switch,
        Field(description="false: rows of equal content are predicted each for itself, as of a model that draws lots"),
    ] = True

    @property
    def has_pool(self) -> bool:
        """Whether the model runs in actors of its own, apart from the workers that prepare for it."""
        return not (self.workers is None and self.cpus is None and self.gpus is None)

    @property
    def computed(self) -> tuple[str, ...]:
        """The columns that it writes."""
        return tuple(output.column for output in self.outputs.values())


class RulesStep(BaseStep):
    """A step that derives columns from others."""

    rules: Annotated[
        dict[Text, Text], Field(min_length=1, description="the new column: an SQL expression over columns of its row")
    ]

    @property
    def computed(self) -> tuple[str, ...]:
        """The columns that it writes."""
        return tuple(self.rules)

    @property
    def outputs(self) -> dict[str, OutputColumn]:
        """By the names of `rules`."""
        return {name: OutputColumn(column=name) for name in self.rules}


class CombineStep(BaseStep):
    """A step that makes one answer of those of several models, the members of an ensemble. Nulls don't take part."""

    combine: Annotated[
        Literal["mean", "max", "vote", "soft_vote"],
        Field(
            description="mean, max: of numbers or vectors; vote: the most frequent value; soft_vote: the greatest place in the mean of "
            "vectors of probabilities"
        ),
    ]
    inputs: Annotated[Texts, Field(description="the members' columns")]
    outputs: Annotated[
        Outputs,
        Field(
            description="value, votes (members that took part), of votes also share (of the winner), of soft_vote also index and label"
        ),
    ]
    weights: Annotated[
        tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None,
        Field(description="of the members, in their order; default: all alike"),
    ] = None
    labels: Annotated[Texts | None, Field(description="of the places in a vector, for soft_vote's output label")] = None

    @property
    def computed(self) -> tuple[str, ...]:
        """The columns that it writes."""
        return tuple(output.column for output in self.outputs.values())


def _kind(value: Any) -> str:
    for kind, key in (("step: rules", "rules"), ("step: combine", "combine")):
        if (isinstance(value, dict) and key in value) or hasattr(value, key):
            return kind
    return "step: model"


AnyStep = Annotated[
    Annotated[Step, Tag("step: model")]
    | Annotated[RulesStep, Tag("step: rules")]
    | Annotated[CombineStep, Tag("step: combine")],
    Discriminator(_kind),
]
