"""Two outputs of the same input compared: agreement row by row, drift, and the rows that differ most."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from batchinfer.errors import RefusedError
from batchinfer.job.nearest import nearest
from batchinfer.report.agreement import Agreement, agreement
from batchinfer.report.columns import plain
from batchinfer.report.comparison import Bounds, Comparison, DifferentRow
from batchinfer.report.drift import drift
from batchinfer.report.paired_rows import Pair, Paired, as_text, by_key, by_place
from batchinfer.report.profile import Profile, computed, profile
from batchinfer.report.same_input import Span, matched, spans
from batchinfer.report.standing import StandingOutput

_TOLERANCE = 0.01
_LONGEST = 200
_DEEPEST = 4
_ITEMS = 4


@dataclass(frozen=True)
class Asked:
    """What a comparison is to look at."""

    key: str | None = None
    """By which rows are found; None for their place in the input, or the key of both jobs where their inputs differ."""
    columns: tuple[str, ...] = ()
    """That are compared; none for all that the steps of both jobs computed."""
    top: int = 10
    """Rows that are named, of those that differ."""
    tolerance: float = _TOLERANCE
    """See `agreement`."""
    show: bool = False
    """Whether both predictions of these rows are shown, too."""
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        for name, value in (
            ("min_agreement", self.bounds.min_agreement),
            ("max_drift", self.bounds.max_drift),
            ("tolerance", self.tolerance),
        ):
            if value is not None and not 0 <= value <= 1:
                raise RefusedError(f"{name}: {value} isn't between 0 and 1")


def compare_outputs(first: StandingOutput, second: StandingOutput, asked: Asked) -> Comparison:
    """Compare two outputs of the same input; the first is the reference.

    Rows are found by their place in the input, where one job's input holds the other's files, known by their footers; else by the key that
    both jobs name. Memory holds windows of rows, not outputs.

    Raises:
        RefusedError: there is no way to tell which rows are the same, a column isn't there, or a key names several rows.
        OutputError: a part or record is gone or damaged.
        StorageError, AccessError: a store can't be read.

    """
    names = [list(asked.columns or computed(o.store) or ()) for o in (first, second)]
    common = [name for name in names[0] if name in names[1]]
    if not common and any(names):
        raise RefusedError(
            f"the outputs have no predicted column in common: {', '.join(names[0]) or 'none'} and {', '.join(names[1]) or 'none'}; "
            "name columns that both have by --column"
        )
    profiles = tuple(profile(o.store, o.parts, common) for o in (first, second))
    places = spans(first.generations)
    paired, joined_by = _paired(first, second, asked.key, common, places)
    added = _Added(profiles[0], profiles[1], common, asked, places, first.key if first.key in first.carried else None)
    for pair in paired.pairs:
        added.add(pair)
    return Comparison(
        first.store.root,
        second.store.root,
        joined_by,
        paired.rows,
        tuple(a.result() for a in added.agreements.values()),
        drift(profiles[1], profiles[0]) if all(p.looked_at for p in profiles) else None,
        tuple(added.most_different),
        tuple(name for name in names[0] if name not in common),
        tuple(name for name in names[1] if name not in common),
        tuple(_unfinished(first, second)),
        asked.tolerance,
        asked.bounds,
    )


def _unfinished(first: StandingOutput, second: StandingOutput) -> Iterator[str]:
    for output in (first, second):
        if left := output.not_attempted:
            yield f"{output.store.root} has not come to its end: {left:,} of its rows are not attempted, and are not compared"


def _paired(
    first: StandingOutput, second: StandingOutput, key: str | None, columns: Sequence[str], places: Sequence[Span]
) -> tuple[Paired, str]:
    """The rows side by side, and by what they were found."""
    for output in (first, second) if key is not None else ():
        if key not in output.carried:
            near = nearest(key or "", output.carried)
            raise RefusedError(
                f"{output.store.root}: its rows don't carry the column {key!r}; "
                + (f"did you mean {near!r}?" if near else "output.carry of the job says what they carry")
            )
    others = spans(second.generations)
    same = matched(places, others)
    rows = sum(m.rows for m in same)
    whole = rows in (sum(s.rows for s in places), sum(s.rows for s in others))
    shared = (
        first.key if first.key == second.key and first.key in first.carried and first.key in second.carried else None
    )
    if key is None and not whole:
        key = shared
    if key is not None:
        return by_key(first, second, key, (columns, columns)), f"the key {key!r}"
    if not whole and not same:
        raise RefusedError(
            f"{first.store.root} and {second.store.root} are of different inputs: no file of one is a file of the other, and there is no key "
            "that both jobs name and carry. Give --key with a column that both outputs carry, or compare their distributions: batchinfer drift"
        )
    own = [first.key] if first.key is not None and first.key in first.carried else []
    read = list(dict.fromkeys([*columns, *own]))
    return by_place(first, second, same, (read, columns)), f"place in the input, of which both jobs plan {rows:,} rows"


class _Added:
    """Agreement and the rows that differ most, over all pairs."""

    def __init__(
        self,
        first: Profile,
        second: Profile,
        columns: Sequence[str],
        asked: Asked,
        places: Sequence[Span],
        key: str | None,
    ) -> None:
        self._profiles, self._columns, self._asked = (first, second), columns, asked
        self._places, self._numbers, self._key = places, [s.number for s in places], key
        self._ranked: list[tuple[float, float, DifferentRow]] = []
        self.agreements: dict[str, Agreement] = {}

    @property
    def most_different(self) -> list[DifferentRow]:
        """The largest difference first."""
        return [row for *_, row in self._ranked]

    def add(self, pair: Pair) -> None:
        """Take in rows of both."""
        names, differences, values = [], [], []
        for column in self._columns:
            sides = (
                plain(pair.first.column(column).combine_chunks()),
                plain(pair.second.column(column).combine_chunks()),
            )
            for name, one, two in _leaves(column, *sides):
                if name not in self.agreements:
                    self.agreements[name] = self._agreement(name, one, two)
                names.append(name)
                differences.append(self.agreements[name].add(one, two))
                values.append((one, two))
        if not names or not self._asked.top:
            return
        table = np.stack(differences, axis=1)
        most, total = table.max(axis=1), table.sum(axis=1)
        for n in np.lexsort((-total, -most))[: self._asked.top]:
            if most[n] > 0:
                shown = {
                    name: (_shown(one[n].as_py()), _shown(two[n].as_py()))
                    for name, (one, two) in (zip(names, values, strict=True) if self._asked.show else ())
                }
                row = self._row(pair, int(n), float(most[n]), names[int(table[n].argmax())], shown)
                self._ranked.append((float(most[n]), float(total[n]), row))
        self._ranked = sorted(self._ranked, key=lambda r: (-r[0], -r[1]))[: self._asked.top]

    def _agreement(self, name: str, one: pa.Array, two: pa.Array) -> Agreement:
        profiles = [p.column(name) for p in self._profiles]
        labels = {label for p in profiles if p is not None for label in p.labels or ()}
        return agreement(name, profiles[0], (one.type, two.type), labels, self._asked.tolerance)

    def _row(
        self, pair: Pair, n: int, difference: float, column: str, shown: dict[str, tuple[str, str]]
    ) -> DifferentRow:
        if pair.numbers is None:
            assert pair.keys is not None
            return DifferentRow(difference, column, pair.keys[n].as_py(), None, None, shown)
        number = int(pair.numbers[n])
        span = self._places[bisect_right(self._numbers, number) - 1]
        key = None if self._key is None else as_text(pair.first.column(self._key).slice(n, 1))[0].as_py()
        return DifferentRow(difference, column, key, span.file.path, span.start + number - span.number, shown)


def _leaves(name: str, first: pa.Array, second: pa.Array, depth: int = 0) -> Iterator[tuple[str, pa.Array, pa.Array]]:
    """A column, or the fields of structs that have the same ones, as profiles name them."""
    kinds = (first.type, second.type)
    if depth == _DEEPEST or not all(pt.is_struct(k) and k.num_fields for k in kinds):
        yield name, first, second
        return
    fields = [[k.field(n).name for n in range(k.num_fields)] for k in kinds]
    if set(fields[0]) != set(fields[1]) or len(set(fields[0])) != len(fields[0]):
        yield name, first, second
        return
    for inner in fields[0]:
        sides = (plain(pc.struct_field(first, inner)), plain(pc.struct_field(second, inner)))
        yield from _leaves(f"{name}.{inner}", *sides, depth + 1)


def _shown(value: object) -> str:
    """A prediction in a line."""
    if isinstance(value, list) and len(value) > _ITEMS:
        return f"[{', '.join(map(_shown, value[:_ITEMS]))}, …] ({len(value)})"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
