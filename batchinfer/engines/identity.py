"""What a model is made of, told without loading it: digests of its files and code, versions of what runs it."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from batchinfer.engines import calibration, mlflow, sklearn
from batchinfer.engines.graph_files import find_graph
from batchinfer.engines.location import locate
from batchinfer.engines.modules import file_of, weights_of
from batchinfer.engines.options import TorchOptions, generates, parse, runs_own_code
from batchinfer.engines.protocol import Identity
from batchinfer.engines.quantized import quantized_by
from batchinfer.engines.sources import find_source, is_class, split, trace
from batchinfer.job.steps import Step
from batchinfer.precision.layers import PACKAGE, is_installed
from batchinfer.precision.recipes import recipe

_RUNTIMES = {"onnx": (("onnxruntime", "onnxruntime-gpu"), "onnx"), "openvino": (("openvino",), "nncf")}
"""By engine that runs graphs: the distributions that run one, and the one that makes its weights int8."""


def identify(step: Step, code: Sequence[str] = ()) -> Identity:
    """The identity of a step's model; reads its files, imports neither its libraries nor the user's code.

    `digest` covers the files' names and bytes, and the versions of the installed distributions that the code imports.
    An `hf:` model that isn't in the local cache is downloaded. Raises ModelError where files or code can't be found.
    """
    if step.engine == "transformers":
        location = locate(step.uri, f"{step.name}.uri", code=runs_own_code(step))
        reads = "pillow" if step.task == "image-classification" else "tokenizers"
        checking = ["jsonschema"] if generates(step) and "schema" in step.options else []
        versions = _versions(["torch", "transformers", reads, *checking, *_quantizing(step)])
        return _identity(location.files(), versions, {}, location.revision)
    if step.engine in _RUNTIMES:
        graph, (runtimes, quantizer) = find_graph(step), _RUNTIMES[step.engine]
        names = ["numpy", *runtimes, *([quantizer] if step.precision in ("int8", "int8-weight", "auto") else [])]
        names += ["torch", "tokenizers"] if step.task is not None else []
        names += ["transformers"] if graph.is_folder else []
        names += _decoding(step)
        ranges = calibration.file_of(step)
        rows = {} if ranges is None else {f"calibration/{ranges.name}": ranges}
        return _identity({**graph.files(), **rows}, _versions(names), {})
    if step.engine == "sklearn":
        path = sklearn.file_of(step)
        libraries = ["scikit-learn", "numpy", "scipy", "skops" if path.suffix == sklearn.SKOPS else "joblib"]
        return _identity({path.name: path}, _versions(libraries), {})
    if step.engine == "mlflow":
        folder = mlflow.folder_of(step)
        libraries = ["mlflow", "mlflow-skinny", "numpy", "pandas", *folder.distributions()]
        return _identity(folder.files(), _versions(libraries), {})
    files: dict[str, Path] = {}
    brought: dict[str, str] = {}
    if is_class(step.uri):
        files, brought = _code(step, code)
    libraries = ["numpy"] if step.engine == "python" else ["numpy", "torch"]
    if step.engine == "python":
        libraries += [] if step.input_format != "polars" else ["polars"]
    else:
        weights = weights_of(parse(TorchOptions, step), step)
        if weights is not None:
            files[f"weights/{weights.name}"] = weights
            libraries += ["safetensors"] if weights.suffix == ".safetensors" else []
        libraries += [*_quantizing(step), *_decoding(step)]
        if not is_class(step.uri):
            path = file_of(step.uri, f"{step.name}.uri")
            files[path.name] = path
    return _identity(files, _versions(libraries) | brought, brought)


def _decoding(step: Step) -> list[str]:
    """The distribution that decodes the images of a step on columns."""
    return ["pillow"] if step.options.get("images") is not None else []


def _quantizing(step: Step) -> list[str]:
    """The distribution that quantizes the step's model or runs it quantized, where its precision says so or leaves it open."""
    left_open = step.precision == "auto" and step.gate != "off" and is_installed() and not generates(step)
    asked = left_open or (step.precision != "auto" and recipe(step.precision).quantizes)
    return [PACKAGE] if asked or quantized_by(step) == PACKAGE else []


def _identity(
    paths: Mapping[str, Path], packages: Mapping[str, str], brought: Mapping[str, str], revision: str | None = None
) -> Identity:
    files = {name: _digest(paths[name]) for name in sorted(paths)}
    total = hashlib.sha256()
    for kind, entries in (("file", files), ("package", brought)):
        for name in sorted(entries):
            # NUL ends each part, so that no two lists of names and digests run together to the same bytes.
            total.update(f"{kind}\0{name}\0{entries[name]}\0".encode())
    return Identity(total.hexdigest(), files, dict(sorted(packages.items())), revision)


def _code(step: Step, code: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Source files of a class by path in the code folders, and versions of the installed packages that they import."""
    where = f"{step.name}.uri"
    module, _ = split(step.uri, where)
    path, folder = find_source(module, code, where)
    if path is not None and folder is None:
        # Installed in place (editable), or on PYTHONPATH: no version says what is in it, so its sources are told too.
        root = path.parents[module.count(".") + (path.name == "__init__.py")]
        if root not in {Path(sysconfig.get_path(scheme)) for scheme in ("purelib", "platlib", "stdlib")}:
            code = [*code, str(root)]
    traced = trace(module, code)
    return traced.files, _versions_of_modules(traced.installed)


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _versions_of_modules(modules: Iterable[str]) -> dict[str, str]:
    """Versions by distribution of those that have these top-level modules; a module of no distribution is left out."""
    wanted = sorted(modules)
    if not wanted:
        return {}
    owners = metadata.packages_distributions()
    return _versions(sorted({owner for module in wanted for owner in owners.get(module, ())}))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
