"""Figures with their units, in words. Nothing is imported here: a verb's help needs none of the program."""

from __future__ import annotations

import math


def duration(seconds: float, *, whole_seconds: bool = False) -> str:
    """`0.4 s`, `12 s`, `3 min 34 s`, `2 h 5 min`, `3 d 4 h`."""
    if 0 < seconds < 9.95 and not whole_seconds:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for larger, smaller, unit, rest in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= larger:
            return f"{whole // larger} {unit} {whole % larger // smaller} {rest}"
    return f"{whole} s"


def span(least: float, most: float) -> str:
    """A range of durations: `14 s to 19 s`; one of them where both read alike."""
    words = [duration(seconds, whole_seconds=True) for seconds in (least, most)]
    return " to ".join(dict.fromkeys(words))


def percent(part: float, whole: float) -> str:
    """`12 %`; 100 % only when all is done."""
    return f"{int(100 * part / whole) if whole else 100} %"


def rate(per_second: float) -> str:
    """`3.1 rows/s`, `1,390 rows/s`."""
    return f"{per_second:,.0f} rows/s" if per_second >= 10 else f"{per_second:.1f} rows/s"


def money(amount: float) -> str:
    """`0`, `0.0023`, `0.41`, `1,250.30`: three figures that count, or cents. Of whatever currency the price is in."""
    if not amount or amount >= 1:
        return f"{amount:,.2f}" if amount else "0"
    return f"{amount:.{2 - math.floor(math.log10(amount))}f}".rstrip("0").rstrip(".")
