"""A job over a range of days: `--param date=2026-11-01..2026-11-07`, each day an output of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from batchinfer.cli.exits import outcome
from batchinfer.cli.follow import Telling, followed
from batchinfer.cli.options import IfLocked
from batchinfer.cli.outcome import deliver
from batchinfer.cli.render import table
from batchinfer.cli.streams import show, tell
from batchinfer.errors import RefusedError

if TYPE_CHECKING:
    from batchinfer.cli.follow import Begun
    from batchinfer.run.events import RunResult

_RANGE = re.compile(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})")
_MOST = 3660
_GRAVEST_FIRST = (130, 1, 75, 2, 3, 99)
"""Exit codes: of those of the days, the first of these is that of the whole."""
_ENDS_ALL = (130, 1)
"""What ends the whole: Ctrl-C, and what is not foreseen."""


def days_of(params: Mapping[str, str]) -> list[dict[str, str]] | None:
    """The parameters of each day, where one of them is a range of days, its ends among them; None where none is. Raises RefusedError."""
    ranges = {name: match for name, text in params.items() if (match := _RANGE.fullmatch(text))}
    if not ranges:
        return None
    if len(ranges) > 1:
        raise RefusedError(f"--param {' and '.join(ranges)}: only one of them can be a range")
    ((name, match),) = ranges.items()
    try:
        first, last = (date.fromisoformat(text) for text in match.groups())
    except ValueError as error:
        raise RefusedError(f"--param {name}={params[name]}: {error}") from error
    count = (last - first).days + 1
    if not 1 <= count <= _MOST:
        raise RefusedError(
            f"--param {name}={params[name]}: write the first day, two dots, and the last, {_MOST:,} days at most"
        )
    return [{**params, name: (first + timedelta(n)).isoformat()} for n in range(count)]


def run_each(
    begin: Callable[[dict[str, str]], Begun],
    days: list[dict[str, str]],
    name: str,
    telling: Telling,
    if_locked: IfLocked,
) -> int:
    """Run the job for each day, one after the other; a day that fails doesn't keep the others from running, unless by a signal.

    Args:
        begin: reads the job for a day's parameters, and says how to run it.
        days: the parameters of each.
        name: of the parameter that they differ in.
        telling: where and how.
        if_locked: what to do while another runner works on a day's output.

    """
    ends: dict[str, tuple[int, list[str], RunResult | None]] = {}
    outputs: dict[str, str] = {}
    for day in days:
        results: list[RunResult] = []

        def begun(day: dict[str, str] = day) -> Begun:
            asked = begin(day)
            path = asked[0].output.path
            if path in outputs:
                raise RefusedError(
                    f"output.path: {path} is that of {outputs[path]} too: put ${{params.{name}}} into it, so that each day has its own"
                )
            outputs[path] = day[name]
            return asked

        def work(begun: Callable[[], Begun] = begun, results: list[RunResult] = results) -> int:
            results.append(followed(begun, telling, if_locked)[1])
            return results[0].exit_code

        tell(f"batchinfer: {name} {day[name]}")
        code, errors = outcome(work)
        for error in errors:
            tell(f"error: {day[name]}: {error}")
        ends[day[name]] = code, [*errors, *(results[0].errors if results else ())], results[0] if results else None
        if code in _ENDS_ALL:
            break
    codes = {code for code, _, _ in ends.values()}
    whole = next((code for code in _GRAVEST_FIRST if code in codes), 0)
    if not telling.as_json:
        show(_summary(name, ends, len(days), whole))
    deliver(_to_json(name, ends, whole), as_json=telling.as_json, result_file=telling.result_file)
    return whole


def _summary(name: str, ends: Mapping[str, tuple[int, list[str], RunResult | None]], days: int, whole: int) -> str:
    lines = []
    for day, (code, errors, result) in ends.items():
        words = (
            [f"exit code {code}"]
            if result is None
            else [str(result.state).lower(), f"{result.rows.succeeded:,} of {result.rows.planned:,} rows"]
        )
        if result is not None and result.rows.dead:
            words.append(f"{result.rows.dead:,} dead")
        lines.append((day, ", ".join(words) + (f": {errors[0]}" if errors else "")))
    done = sum(code == 0 for code, _, _ in ends.values())
    return f"{name}: {done:,} of {days:,} days done (exit code {whole})\n{table(lines)}"


def _to_json(name: str, ends: Mapping[str, tuple[int, list[str], RunResult | None]], whole: int) -> dict[str, Any]:
    each = {
        day: {"exit_code": code, "errors": errors} if result is None else result.to_json()
        for day, (code, errors, result) in ends.items()
    }
    errors = [f"{day}: {error}" for day, (_, found, _) in ends.items() for error in found]
    return {"exit_code": whole, "errors": errors, "param": name, "days": each}
