"""What Linux tells of the processor; empty on other systems."""

from __future__ import annotations

from pathlib import Path


def name() -> str:
    """As its maker calls it."""
    return _told("model name")


def flags() -> frozenset[str]:
    """What it can do beyond the least, by Linux's names."""
    return frozenset((_told("flags") or _told("Features")).split())


def _told(field: str) -> str:
    """Of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == field), "")
