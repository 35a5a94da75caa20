"""What an intermediate representation of OpenVINO's holds, read at planning time without OpenVINO."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from batchinfer.errors import ModelError

_NARROW = frozenset({"i8", "u8", "i4", "u4", "u3", "u2", "u6", "nf4", "f8e4m3", "f8e5m2", "f8e8m0", "f4e2m1"})
"""Types of constants in which weights of fewer than 16 bits are kept."""
_ROUNDS = frozenset({"FakeQuantize", "FakeConvert"})
_SCALES = frozenset({"Multiply", "Subtract"})


def read_ir(path: Path, where: str) -> tuple[bool, frozenset[str]]:
    """Whether nothing in an `.xml` file is quantized, and the name of the file beside it that holds its weights.

    Raises ModelError for what is no such file, and where that other one is missing.
    """
    kinds: dict[str, str] = {}
    narrow: set[str] = set()
    next_: defaultdict[str, list[str]] = defaultdict(list)
    try:
        for _, element in ElementTree.iterparse(path):  # noqa: S314 - expat bounds what entities may grow to
            if element.tag == "layer":
                number, kind, data = element.get("id", ""), element.get("type", ""), element.find("data")
                kinds[number] = kind
                if kind == "Const" and data is not None and data.get("element_type") in _NARROW:
                    narrow.add(number)
                element.clear()
            elif element.tag == "edge":
                next_[element.get("from-layer", "")].append(element.get("to-layer", ""))
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise ModelError(f"{where}: {path} is no model of OpenVINO's: {error}") from error
    if not kinds:
        raise ModelError(f"{where}: {path} is no model of OpenVINO's: it has no layers")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(f"{where}: the weights of {path} are missing: copy {weights.name} to its folder")
    # Weights of few bits are converted, then scaled; other constants of such types, such as masks, are not.
    converted = [after for number in narrow for after in next_[number] if kinds.get(after) == "Convert"]
    scaled = any(kinds.get(after) in _SCALES for number in converted for after in next_[number])
    return not (scaled or _ROUNDS & set(kinds.values())), frozenset({weights.name})
