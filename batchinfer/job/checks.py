"""What pydantic can't see: keys of a job file that don't go together, and values that mean something forbidden.

Every check looks at the plain values, so that it also runs where another key is wrong: one reading of the file finds
all mistakes. A value of a wrong shape counts as absent here; validation reports it. No message repeats a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from batchinfer.job.interpolate import Reference
from batchinfer.job.locations import comparable, is_class
from batchinfer.job.place import Finding, Place

_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9._=-]{1,128}")
_SQL_TEXT = re.compile(r"'(?:[^']|'')*'")
COMBINED = {
    "mean": ("value", "votes"),
    "max": ("value", "votes"),
    "vote": ("value", "share", "votes"),
    "soft_vote": ("value", "index", "label", "share", "votes"),
}
"""What a step that combines can give, by its method."""
_GLOB = re.compile(r"[*?\[]")


def check(data: dict[str, Any]) -> Iterator[Finding]:
    """Every finding about the job's values, in which references are filled in and local paths are absolute."""
    yield from _carry(data)
    yield from _steps(data)
    yield from _pools(data)
    yield from _columns(data)
    yield from _where(data)
    yield from _repeated_inputs(data)
    yield from _output_beside_input(data)
    yield from _cache_beside_others(data)
    yield from _extension(data)
    yield from _cost(data)
    yield from _templates(data, ())


def output_parameters(params: Any, references: dict[Place, tuple[Reference, ...]]) -> Iterator[Finding]:
    """A parameter must not lead the output elsewhere: inside `output.path` it is a piece of one name, never a way."""
    place = ("output", "path")
    for reference in references.get(place, ()):
        value = params.get(reference.name) if reference.is_param and isinstance(params, dict) else None
        if value is None:
            continue
        text = str(value)
        if not _SAFE_SEGMENT.fullmatch(text) or not text.strip("."):
            yield Finding(
                place,
                f"the parameter {reference.name} is used in a path, where it may hold letters, digits and . _ = - only,"
                " at most 128 of them and not only dots",
            )


def _carry(data: dict[str, Any]) -> Iterator[Finding]:
    if _at(data, "output", "carry") == "key" and _at(data, "input", "key") is None:
        yield Finding(("output", "carry"), "is key, but there is no key: add input.key, or write none, all or a list")
    seen: set[str] = set()
    for index, column in _texts(_at(data, "output", "carry")):
        if column in seen:
            yield Finding(("output", "carry", index), "is listed twice: keep one of them")
        seen.add(column)


def _steps(data: dict[str, Any]) -> Iterator[Finding]:
    steps = _at(data, "steps")
    names: set[str] = set()
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        name = name_of(step)
        if name in names:
            yield Finding(("steps", index, "name"), f"another step is called {name} too: give each a name of its own")
        names.add(name)
        yield from _engine(step, ("steps", index))
        yield from _combine(step, ("steps", index))


def _combine(step: Any, place: Place) -> Iterator[Finding]:
    method, inputs = _at(step, "combine"), _at(step, "inputs")
    if method not in COMBINED:
        return
    members = len(inputs) if isinstance(inputs, list) else 0
    if members == 1:
        yield Finding((*place, "inputs"), "has one column, and nothing to combine it with: list those of all members")
    weights = _at(step, "weights")
    if isinstance(weights, list) and members and len(weights) != members:
        yield Finding((*place, "weights"), f"are {len(weights)} for {members} inputs: give each one its weight")
    outputs = _at(step, "outputs")
    for name in outputs if isinstance(outputs, dict) else ():
        if name not in COMBINED[method]:
            message = f"is no output of {method}, which has {', '.join(COMBINED[method])}"
            yield Finding((*place, "outputs", name), message)
        elif name == "label" and _at(step, "labels") is None:
            yield Finding((*place, "outputs", name), "needs the names of the places: add labels")


def _pools(data: dict[str, Any]) -> Iterator[Finding]:
    """A step with a pool has its model in other processes than its rows are prepared in."""
    steps = _at(data, "steps")
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        given = [key for key in ("workers", "cpus", "gpus") if _at(step, key) is not None]
        if not given:
            continue
        if _at(data, "resources", "executor") == "inline":
            message = "gives the step a pool of its own, which needs Ray: remove it, or set resources.executor to ray"
            yield Finding(("steps", index, given[0]), message)
        devices = _at(data, "resources", "gpus")
        if isinstance(devices, int | float) and devices > 0 and not any(_is_held(other) for other in steps):
            message = f"is for workers that hold a model, and here the step's own pool does: write {name_of(step)}.gpus"
            yield Finding(("resources", "gpus"), message)


def _is_held(step: Any) -> bool:
    """Whether the workers hold the step's model themselves."""
    return _at(step, "uri") is not None and all(_at(step, key) is None for key in ("workers", "cpus", "gpus"))


def name_of(step: Any) -> str:
    """What messages call a step."""
    name = _at(step, "name")
    return name if isinstance(name, str) else "model"


def _engine(step: Any, place: Place) -> Iterator[Finding]:
    engine, uri = _at(step, "engine"), _at(step, "uri")
    if engine == "python" and isinstance(uri, str) and uri and not is_class(uri):
        yield Finding(
            (*place, "uri"), "the python engine takes a class or a function: write module:Class, such as my_model:Model"
        )
    if engine == "transformers" and isinstance(step, dict) and step.get("task") is None:
        message = "is missing: write embedding, text-classification, token-classification, image-classification or text-generation"
        yield Finding((*place, "task"), message)
    if engine in ("onnx", "openvino") and _at(step, "task") == "text-generation":
        yield Finding((*place, "task"), "is for the transformers engine: write engine: transformers")
    if engine in ("python", "torch", "sklearn", "mlflow") and _at(step, "task") is not None:
        yield Finding((*place, "task"), f"the {engine} engine takes no task: remove it, or write engine: transformers")
    if engine in ("torch", "transformers", "onnx", "openvino", "sklearn", "mlflow") and _at(step, "input_format") in (
        "arrow",
        "polars",
    ):
        yield Finding((*place, "input_format"), f"is for the python engine: remove it, {engine} prepares its own input")


def _columns(data: dict[str, Any]) -> Iterator[Finding]:
    taken = {column: f"output.carry.{index}" for index, column in _texts(_at(data, "output", "carry"))}
    key = _at(data, "input", "key")
    if isinstance(key, str) and _at(data, "output", "carry") in ("key", None):
        taken[key] = "input.key, which is carried through"
    steps = _at(data, "steps")
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        own = dict(taken)  # what other steps write, too, is looked at when the job is planned
        for place, column in _computed(step):
            if column in own:
                message = f"writes the same column as {own[column]}: give each its own name"
                yield Finding(("steps", index, *place), message)
            own.setdefault(column, f"the output {place[-1]}")


def _computed(step: Any) -> Iterator[tuple[tuple[str, str], str]]:
    """The columns that a step computes, and their places in it."""
    rules, outputs = _at(step, "rules"), _at(step, "outputs")
    if isinstance(rules, dict):
        yield from ((("rules", name), name) for name in rules if isinstance(name, str))
    for name, output in (outputs if isinstance(outputs, dict) else {}).items():
        column = _at(output, "column") if isinstance(output, dict) else output
        if isinstance(name, str) and isinstance(column, str):
            yield ("outputs", name), column


def _where(data: dict[str, Any]) -> Iterator[Finding]:
    where = _at(data, "input", "where")
    if not isinstance(where, str):
        return
    if not where.strip():
        yield Finding(("input", "where"), "is empty: write a condition, or remove the key to read every row")
    elif ";" in _SQL_TEXT.sub("", where):
        yield Finding(("input", "where"), "holds a ; but is one condition: remove the semicolon")


def _repeated_inputs(data: dict[str, Any]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, path in _texts(_at(data, "input", "path")):
        first = seen.setdefault(comparable(path), index)
        if first != index:
            yield Finding(("input", "path", index), f"is the same as input.path.{first}: its rows would come twice")


def _output_beside_input(data: dict[str, Any]) -> Iterator[Finding]:
    output = _at(data, "output", "path")
    paths = _at(data, "input", "path")
    if not isinstance(output, str) or not output:
        return
    for path in [paths] if isinstance(paths, str) else [path for _, path in _texts(paths)]:
        if path and not _GLOB.search(path) and _overlap(comparable(path), comparable(output)):
            message = (
                "and input.path lie inside each other: a run would read its own output; write to another directory"
            )
            yield Finding(("output", "path"), message)
            return


def _extension(data: dict[str, Any]) -> Iterator[Finding]:
    extends = _at(data, "run", "inputs_changed") == "extend"
    if extends and _at(data, "input", "limit") is not None:
        message = (
            "and input.limit don't go together, as the first rows may be others after each change: remove one of them"
        )
        yield Finding(("run", "inputs_changed"), message)
    if not extends and _at(data, "run", "on_removed") in ("keep", "drop"):
        yield Finding(
            ("run", "on_removed"), "needs inputs_changed: extend: without it no change of the input is taken over"
        )


def _cost(data: dict[str, Any]) -> Iterator[Finding]:
    if _at(data, "run", "max_cost") is not None and _at(data, "resources", "price_per_hour") is None:
        message = "needs a price to count by: add resources.price_per_hour, what a GPU (or, without GPUs, a worker) costs an hour"
        yield Finding(("run", "max_cost"), message)


def _cache_beside_others(data: dict[str, Any]) -> Iterator[Finding]:
    """Whoever reads a folder would take what the cache has for data of theirs."""
    cache = _at(data, "cache", "path")
    if not isinstance(cache, str) or not cache:
        return
    paths = _at(data, "input", "path")
    read = [paths] if isinstance(paths, str) else [path for _, path in _texts(paths)]
    for key, path in [*(("input.path", path) for path in read), ("output.path", _at(data, "output", "path"))]:
        if isinstance(path, str) and path and not _GLOB.search(path) and _overlap(comparable(path), comparable(cache)):
            message = f"and {key} lie inside each other: give the cache a directory of its own"
            yield Finding(("cache", "path"), message)
            return


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other.rstrip('/')}/") or other.startswith(f"{one.rstrip('/')}/")


def _templates(value: Any, place: Place) -> Iterator[Finding]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _templates(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _templates(inner, (*place, index))
    elif isinstance(value, str) and "{{" in value:
        yield Finding(place, "holds {{, which is no template here: write ${VAR} or ${params.name}")
    elif isinstance(value, str) and "\0" in value:
        yield Finding(place, "holds a NUL character: remove it")


def _at(value: Any, *keys: str) -> Any:
    """The value under the keys; None where there is none or the way there isn't made of mappings."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _texts(value: Any) -> list[tuple[int, str]]:
    """The texts of a list with their indices; none of what isn't a list."""
    return [(i, item) for i, item in enumerate(value) if isinstance(item, str)] if isinstance(value, list) else []
