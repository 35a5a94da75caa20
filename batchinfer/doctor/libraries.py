"""Which of batchinfer's requirements are installed, and the commands that install the others: read from the package's own metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from types import MappingProxyType

from packaging.requirements import Requirement

from batchinfer.doctor.finding import Finding, State

PURPOSES = MappingProxyType(
    {
        "transformers": "engine transformers",
        "generation": "text-generation with a schema",
        "onnx": "engine onnx",
        "openvino": "engine openvino",
        "sklearn": "engine sklearn",
        "mlflow": "engine mlflow, MLflow's registries, report.mlflow",
        "openlineage": "report.openlineage",
        "quantization": "int8, int4 and fp8 by torchao",
        "images": "columns of images",
        "s3": "s3:// URLs",
        "gcs": "gs:// URLs",
        "azure": "abfs:// and az:// URLs",
        "quickstart": "the model of jobs/quickstart.yaml",
    }
)
"""What extras are for, by their names; one that isn't here stands by its name alone."""
_FOR_DEVELOPERS = frozenset({"bench", "testing", "peers", "peers-beam"})
_PACKAGE = "batchinfer"

Versions = Callable[[str], str | None]
"""The installed version of a distribution; None where it isn't there."""


def installed(name: str) -> str | None:
    """The version of a distribution that is installed; None where it isn't."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def libraries() -> Iterator[Finding]:
    """The core and each extra of the batchinfer that is installed."""
    try:
        required = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        yield Finding("batchinfer", State.WARNING, "runs from a source tree that isn't installed", "pip install -e .")
        return
    yield from judged(map(Requirement, required), installed(_PACKAGE) or "", installed)


def judged(required: Iterable[Requirement], own: str, version: Versions) -> Iterator[Finding]:
    """What to say of these requirements, the version of batchinfer being `own`."""
    core, extras = parted(required)
    lacking = [_lack(each, version) for each in core if _lack(each, version)]
    if lacking:
        advice = f"pip install {' '.join(_quoted(each) for each in core if _lack(each, version))}"
        yield Finding("batchinfer", State.WRONG, f"{own}: {', '.join(lacking)}", advice)
    else:
        yield Finding("batchinfer", State.FINE, f"{own}, with all that it always needs")
    for extra, needs in sorted(extras.items(), key=lambda item: (_order(item[0]), item[0])):
        text = PURPOSES.get(extra, "")
        lacking = [_lack(each, version) for each in needs if _lack(each, version)]
        if lacking:
            lacks = f"{text}: {', '.join(lacking)}" if text else ", ".join(lacking)
            # Some of it there, and wrong, is more than nothing there.
            state = State.WARNING if any("installed is" in each for each in lacking) else State.ABSENT
            yield Finding(extra, state, lacks, f"pip install '{_PACKAGE}[{extra}]'")
        else:
            have = ", ".join(f"{each.name} {version(each.name)}" for each in needs)
            yield Finding(extra, State.FINE, f"{text}: {have}" if text else have)


def parted(required: Iterable[Requirement]) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """The core, and each extra with its own; extras for developers are left out."""
    core: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for each in required:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            core.append(each)
            continue
        for name in _extras_of(each):
            if each.name != _PACKAGE and name not in _FOR_DEVELOPERS and each.marker.evaluate({"extra": name}):
                extras.setdefault(name, []).append(each)
    return core, extras


def _extras_of(requirement: Requirement) -> list[str]:
    """The extras that its marker names."""
    words = str(requirement.marker).replace("'", '"').split('"')
    return [
        after for before, after in zip(words[::2], words[1::2], strict=False) if before.rstrip().endswith("extra ==")
    ]


def _lack(requirement: Requirement, version: Versions) -> str:
    """What is wrong with it; empty where nothing is."""
    found = version(requirement.name)
    if found is None:
        return f"{requirement.name} isn't installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} {requirement.specifier} is needed, and installed is {found}"
    return ""


def _quoted(requirement: Requirement) -> str:
    return f"'{requirement.name}{requirement.specifier}'"


def _order(extra: str) -> int:
    return list(PURPOSES).index(extra) if extra in PURPOSES else len(PURPOSES)
