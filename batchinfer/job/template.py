"""The job file that `batchinfer init` writes: complete, commented, and loading as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from batchinfer.job.locations import is_class
from batchinfer.job.scalar import typed
from batchinfer.job.schema import SCHEMA_ID

_TORCH_FILES = {".pt2", ".pt", ".ts"}
_PARAM = re.compile(r"\$\{params\.([A-Za-z_][A-Za-z0-9_-]*)\}")
_PLAIN = re.compile(r"[A-Za-z0-9_./~$][A-Za-z0-9_./~@=+*${}-]*(:[A-Za-z0-9_./~@=+*${}-]+)*")

_ENGINES = {
    "python": """\
  engine: python                  # python | torch | transformers
  uri: {uri}
                                  # module:Class; __init__(**options) once a worker, __call__(batch) for each batch
  input_format: dict              # what __call__ gets: dict | arrow | polars
""",
    "torch": """\
  engine: torch                   # python | torch | transformers
  uri: {uri}
                                  # a .pt2, .pt or .ts file here or on a store, or module:Class
""",
    "transformers": """\
  engine: transformers            # python | torch | transformers
  uri: {uri}
                                  # hf:org/name@revision, package:name/path, or a folder
  task: embedding                 # embedding | text-, token- or image-classification | text-generation
""",
}

_TEXT_COLUMNS = ({"text": "text"}, {"embedding": "embedding"})
_NUMBER_COLUMNS = ({"x": "x"}, {"y": "y"})

_OPTIONS = {
    "python": "{}                     # given to __init__",
    "torch": "{}",
    "transformers": "{pooling: mean, normalize: true}   # the engine's own; max_length defaults to the model's",
}

_FILE = """\
# yaml-language-server: $schema={schema}
#
# A batchinfer job. Check it with  batchinfer validate, run it with  batchinfer run; running again resumes.
# ${{VAR}} and ${{VAR:-default}} come from the environment, ${{params.name}} from --param name=value.
# What stands here beside name, input, model and output are the defaults: delete what you don't change.

version: 1
name: {name}
{params}
code: [.]                         # folders where module:Class may be imported from, relative to this file

input:
  path: {input}
                                  # a Parquet file, a directory, a glob, or a list of them
  columns: null                   # null: what the model and the output need
  where: null                     # SQL, such as "lang = 'en' AND text IS NOT NULL"
  key: {key:<27}# a column that names a row, for errors; null: file and row number
  limit: null                     # only the first N rows, for a try

model:
{engine}  inputs: {inputs}
                                  # the model's name: the column
  outputs: {outputs}
                                  # the model's name: the new column, or {{column: y, type: float32}}
  precision: auto                 # auto: the fastest that agrees with fp32 | fp32 | tf32 | bf16 | fp16
                                  # | int8 | int8-weight | int4-weight | fp8
  gate:                           # off, or how a precision below 16 bits must agree with fp32 before the job runs
    sample: 512                   # rows of the job that are compared
    metric: auto                  # auto | cosine | agreement | relative_error
    min: null                     # null: 0.995 cosine, 0.97 agreement, 0.99 = 1 - relative error
    label: null                   # column with the truth, of which the metric may lose a point
    on_fail: refuse               # refuse | fallback: take the next precision that passes
  options: {options}

batching:
  rows: auto                      # rows a batch, at most
  tokens: auto                    # tokens a batch, padding included, at most
  window: auto                    # rows that are sorted by length together
  shard: auto                     # rows that become one output file

resources:                        # of each worker
  executor: auto                  # auto | inline: in this process | ray
  workers: auto
  cpus: auto
  gpus: auto
  address: null                   # of a running Ray cluster
  price_per_hour: null            # of a GPU, or without GPUs of a worker: reports tell the cost then

retry:
  max_retries: 3                  # replacements of a worker for one shard
  timeout: null                   # one model call; null: ten times the measured pace, a minute at least

errors:
  threshold: 0                    # dead rows that are fine: a number, "0.1%", or -1 for any
  on_exceed: finish               # finish: try every row first | abort
  on_invalid_output: dead         # NaN or infinite: dead | keep | fail

checkpoint:
  interval: 5s                    # the most work that a crash can cost

output:
  path: {output}
                                  # a directory or URL prefix of its own
  carry: {carry:<25}# input columns to carry through: none | key | all | a list
  compression: zstd               # zstd | snappy | gzip | lz4 | none
  mode: error                     # another job's output there: error | overwrite

run:
  max_runtime: null               # such as 6h; then it stops, and the same command resumes
  max_cost: null                  # of all runs together, with resources.price_per_hour; then it stops too

# report:                         # who else is told of each run
#   openlineage: {{url: "https://marquez.example.com"}}   # default: as OPENLINEAGE_URL has it
#   mlflow: {{experiment: nightly}}                       # where MLFLOW_TRACKING_URI says; default: off

# storage:                        # fsspec options by URL prefix; secrets only by ${{VAR}}
#   "s3://my-bucket/": {{endpoint_url: "${{S3_ENDPOINT}}", key: "${{S3_KEY}}", secret: "${{S3_SECRET}}"}}
"""


def render(
    input: str,  # noqa: A002 - the word of the job file
    model: str,
    output: str,
    *,
    name: str = "my-job",
    key: str | None = None,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
) -> str:
    """A commented job file for this input path, model and output path.

    The engine follows from the model: `module:Class` is python, a .pt2, .pt or .ts file torch, the rest transformers.
    `inputs` and `outputs` map the model's names to columns. Parameters in the paths are declared as required.
    """
    engine = _engine(model)
    default_inputs, default_outputs = _TEXT_COLUMNS if engine == "transformers" else _NUMBER_COLUMNS
    return _FILE.format(
        schema=SCHEMA_ID,
        name=_scalar(name),
        params=_params(input, model, output),
        input=_scalar(input),
        key="null" if key is None else _scalar(key),
        engine=_ENGINES[engine].format(uri=_scalar(model)),
        inputs=_flow(default_inputs if inputs is None else inputs),
        outputs=_flow(default_outputs if outputs is None else outputs),
        options=_OPTIONS[engine],
        output=_scalar(output),
        carry="all" if key is None else "key",
    )


def _engine(model: str) -> str:
    if is_class(model):
        return "python"
    return "torch" if PurePosixPath(model).suffix in _TORCH_FILES else "transformers"


def _params(*texts: str) -> str:
    names = dict.fromkeys(name for text in texts for name in _PARAM.findall(text))
    declared = ", ".join(f"{name}: null" for name in names)
    about = (
        "# null: must be given with --param" if names else "# such as {date: null}; null: must be given with --param"
    )
    return f"params: {{{declared}}}".ljust(34) + about


def _flow(columns: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{_quoted_in_flow(name)}: {_quoted_in_flow(column)}' for name, column in columns.items())}}}"


def _quoted_in_flow(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) and isinstance(typed(text), str) else _quoted(text)


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and isinstance(typed(text), str) else _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes; control characters escaped as YAML does it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
