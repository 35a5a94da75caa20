"""Settings of jobs of one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchinfer.measure.settings import Settings, StepSettings


def of_one(step: StepSettings, memory: Mapping[str, Any] | None = None) -> Settings:
    return Settings({"model": step}, step.outputs, memory)
