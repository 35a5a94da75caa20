"""Cascades: which columns tell how sure a smaller model is, and the condition that a threshold makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from batchinfer.job.steps import UNDECIDED, AnyStep, Cascade, Step

_CONFIDENCES = ("confidence", "score")
"""What models call how sure they are, by their own names."""


def with_conditions(steps: Sequence[AnyStep]) -> tuple[AnyStep, ...]:
    """The steps, those with a cascade with its columns named and with the condition of a threshold that isn't found yet.

    Raises ValueError where the columns can't be told.
    """
    return tuple(
        _resolved(step, steps[:n]) if isinstance(step, Step) and step.cascade else step for n, step in enumerate(steps)
    )


def condition(cascade: Cascade, threshold: float) -> str:
    """The SQL condition of rows that are less sure than a threshold; a row that nobody is sure of is."""
    column = str(cascade.confidence).replace('"', '""')
    return f'COALESCE("{column}" < {threshold!r}, TRUE)'


def output_of(step: Step) -> str:
    """Which of a step's outputs, by the model's name, is compared with the smaller model's answer."""
    return next(iter(step.outputs))


def _resolved(step: Step, before: Sequence[AnyStep]) -> Step:
    asked = Cascade() if step.cascade == "auto" or step.cascade is None else step.cascade
    whole = asked if asked.confidence and asked.answer else _found(step, asked, before)
    expected = condition(whole, UNDECIDED)
    if step.when not in (None, expected):
        raise ValueError(f"{step.name}: cascade stands in place of when: remove one of them")
    return step.model_copy(update={"cascade": whole, "when": expected})


def _found(step: Step, asked: Cascade, before: Sequence[AnyStep]) -> Cascade:
    """The columns of the one model before that gives the same output and how sure it is of it."""
    name = output_of(step)
    fitting = [
        (other, sure)
        for other in before
        if isinstance(other, Step) and name in other.outputs
        for sure in _CONFIDENCES
        if sure in other.outputs
    ]
    if len(fitting) != 1:
        which = "no step before has" if not fitting else "several steps before have"
        raise ValueError(
            f"{step.name}.cascade: {which} an output {name} and one called {' or '.join(_CONFIDENCES)}: name the columns, "
            "cascade: {confidence: …, answer: …}"
        )
    other, sure = fitting[0]
    return asked.model_copy(
        update={
            "confidence": asked.confidence or other.outputs[sure].column,
            "answer": asked.answer or other.outputs[name].column,
        }
    )
