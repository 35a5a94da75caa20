"""What makes two runs the same job: everything that may change a result, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from batchinfer.data.inputs import InputFile
from batchinfer.engines.protocol import Identity
from batchinfer.job.credentials import is_secret_name
from batchinfer.job.place import Place
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import OTHERWISE, AnyStep, RulesStep

HIDDEN = "sha256:"
"""What a `where` begins with of which only the digest is recorded, since a piece of it came from the environment."""


@dataclass(frozen=True)
class Fingerprint:
    """The digest, and what went into it as nested JSON values."""

    digest: str
    material: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads."""
        return {"digest": self.digest, "material": dict(self.material)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(value["digest"], value["material"])


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys (hexadecimal)."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    ).hexdigest()


def fingerprint(spec: JobSpec, files: Sequence[InputFile], identities: Mapping[str, Identity]) -> Fingerprint:
    """What counts of a job, its pinned files, and its models' identities by step name."""
    secret = spec.written.secret if spec.written is not None else frozenset()
    chosen = spec.input.model_dump(mode="json", include={"where", "limit", "columns", "key"})
    if ("input", "where") in secret:
        chosen["where"] = HIDDEN + digest_of(chosen["where"])
    material: dict[str, Any] = {
        "input": {"files": _files(files), **chosen},
        "steps": {s.name: _step(s, identities.get(s.name), ("steps", n), secret) for n, s in enumerate(spec.steps)},
        "expressions": _expressions(spec),
        "batching": spec.batching.model_dump(mode="json"),
        "errors": {"on_invalid_output": spec.errors.on_invalid_output},
        "output": {
            "carry": list(spec.carry) if isinstance(spec.carry, tuple) else spec.carry,
            "columns": None if spec.output.columns is None else sorted(spec.output.columns),
            "step_used": spec.output.step_used,
            "compression": spec.output.compression,
        },
    }
    return Fingerprint(digest_of(material), material)


def _expressions(spec: JobSpec) -> dict[str, str]:
    """The version of what evaluates the job's SQL; empty where it has none."""
    derived = any(isinstance(step, RulesStep) or step.when not in (None, OTHERWISE) for step in spec.steps)
    return {"polars": metadata.version("polars")} if derived or spec.input.where is not None else {}


def _files(files: Sequence[InputFile]) -> dict[str, Any]:
    return {
        "count": len(files),
        "rows": sum(f.rows for f in files),
        "digest": digest_of([[f.path, f.size, f.version, f.footer] for f in files]),
    }


def with_files(mark: Fingerprint, files: Sequence[InputFile]) -> Fingerprint:
    """The fingerprint of the same over other files."""
    material = {**mark.material, "input": {**mark.material["input"], "files": _files(files)}}
    return Fingerprint(digest_of(material), material)


def fixed(mark: Fingerprint) -> Fingerprint:
    """What no retry may change: which rows there are, and the columns of the output."""
    material = {
        "input": {k: v for k, v in mark.material["input"].items() if k != "files"},
        "output": mark.material["output"],
        "outputs": sorted(column for step in mark.material["steps"].values() for column in step["computed"]),
    }
    return Fingerprint(digest_of(material), material)


def _step(step: AnyStep, identity: Identity | None, place: Place, secret: Collection[Place]) -> dict[str, Any]:
    """`identity`: of its model; None for a step without one."""
    values = {k: v for k, v in step.model_dump(mode="json").items() if k != "name"}
    values["computed"] = sorted(step.computed)
    for key in ("when", "rules"):
        if any(one[: len(place) + 1] == (*place, key) for one in secret):
            values[key] = HIDDEN + digest_of(values[key])
    if identity is None:
        return values
    for key in ("uri", "workers", "cpus", "gpus", "timeout", "cache"):
        del values[
            key
        ]  # the digest says what the model is, wherever it lies; nor does it matter where it runs, and how long it may take
    options = {k: v for k, v in values.pop("options").items() if k not in ("weights", "calibration")}
    return {
        **values,
        "options": _without_secrets(options, (*place, "options"), secret),
        "digest": identity.digest,
        "files": dict(identity.files),
        "packages": dict(identity.packages),
    }


def _without_secrets(value: Any, place: Place, secret: Collection[Place], *, named: bool = False) -> Any:
    """Options as they are recorded and shown: of texts under a name such as `api_key`, or from the environment, only the digest."""
    if isinstance(value, Mapping):
        return {k: _without_secrets(v, (*place, k), secret, named=named or is_secret_name(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_secrets(v, (*place, n), secret, named=named) for n, v in enumerate(value)]
    return digest_of(value) if isinstance(value, str) and (named or place in secret) else value


def model_digest(mark: Fingerprint, step: str) -> str:
    """Of what says which model a step runs: files, code, options and library versions, and not what it is called with."""
    kept = {
        k: v
        for k, v in mark.material["steps"][step].items()
        if k not in ("gate", "precision", "outputs", "inputs", "computed", "when", "cascade", "errors", "batching")
    }
    return digest_of(kept)


def rows_digest(mark: Fingerprint) -> str:
    """Of what says which rows a job has, and what a step sees of them."""
    inputs = {name: step.get("inputs") for name, step in mark.material["steps"].items()}
    return digest_of([mark.material["input"], inputs])


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """One line for each value that differs: where, what it was, what it is."""
    before, after = dict(_flat(old.material)), dict(_flat(new.material))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, "(none)"), after.get(key, "(none)")
        if was != now and not (key.endswith(".digest") and _explained(key, before, after)):
            lines.append(f"{key}: {_short(was)} → {_short(now)}")
    return lines or ["(nothing by name: the record was written by another version)"]


def _explained(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """A model's digest says nothing that its files, which are listed too, don't say better."""
    files = key.removesuffix("digest") + "files."
    return any(before.get(k) != after.get(k) for k in before.keys() | after.keys() if k.startswith(files))


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] + "…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
