"""Rules: columns that are derived from others by SQL expressions."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from batchinfer.data.expressions import Expression
from batchinfer.engines.derived import DerivedEngine
from batchinfer.errors import InputError
from batchinfer.job.steps import RulesStep


def rules_engine(step: RulesStep) -> DerivedEngine:
    """The engine of a step of rules. Raises InputError for a rule that is no expression."""
    rules = {name: Expression(sql, f"{step.name}.rules.{name}") for name, sql in step.rules.items()}
    columns = tuple(dict.fromkeys(column for rule in rules.values() for column in rule.columns))

    def answer(rows: pa.Table) -> Mapping[str, pa.Array]:
        if not len(rows):
            return {name: pa.nulls(0, rule.type(rows.schema)) for name, rule in rules.items()}
        return {name: _stored(rule.values(rows), step, name) for name, rule in rules.items()}

    return DerivedEngine(columns, tuple(rules), answer)


def _stored(values: pa.Array, step: RulesStep, name: str) -> pa.Array:
    if pa.types.is_null(values.type):
        raise InputError(
            f"{step.name}.rules.{name}: it gives nothing but null, of no type: write CAST(NULL AS VARCHAR), or of another type"
        )
    return values
