"""`batchinfer compare`: two outputs of the same input side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchinfer.cli import complete
from batchinfer.cli.exits import guarded
from batchinfer.cli.options import Columns, Json, Params
from batchinfer.cli.status import opened
from batchinfer.cli.streams import show, show_json

if TYPE_CHECKING:
    from batchinfer.report.agreement import ColumnAgreement
    from batchinfer.report.comparison import Comparison, DifferentRow

_PAIRS = 3
"""Shown of the labels that stand for each other."""


def _output(metavar: str, says: str) -> Any:
    return typer.Argument(metavar=metavar, help=says, show_default=False, autocompletion=complete.outputs)


def _share(says: str, *, shown: bool = False) -> Any:
    return typer.Option(min=0, max=1, metavar="X", help=says, show_default=shown)


First = Annotated[str, _output("A", "The reference: an output, or its job file.")]
Second = Annotated[str, _output("B", "What is compared with it: the same.")]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Find rows by this column, which both carry; by default by their place in the input.",
        show_default=False,
    ),
]
Tolerance = Annotated[float, _share("Of numbers as a share of their spread, of vectors as 1 - cosine.", shown=True)]
MinAgreement = Annotated[float | None, _share("Share of the rows that must agree in each column.")]
MaxDrift = Annotated[float | None, _share("Total variation that no column may exceed.")]


@guarded
def compare(
    first: First,
    second: Second,
    param: Params = None,
    key: Key = None,
    column: Columns = None,
    tolerance: Tolerance = 0.01,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="Name the N rows that differ most.")] = 5,
    show_values: Annotated[bool, typer.Option("--show", help="Show both predictions of these rows.")] = False,
    min_agreement: MinAgreement = None,
    max_drift: MaxDrift = None,
    as_json: Json = False,
) -> int:
    """Compare two outputs of the same input, row by row.

    Shows agreement, drift, and the rows that differ most. Nothing is written.

    Examples:
        batchinfer compare out/fp32 out/bf16
        batchinfer compare out/v1 out/v2 --min-agreement 0.98 --max-drift 0.05
        batchinfer compare out/v1 out/v2 --column label --top 20 --show

    Exit codes:
        0: compared, and within the bounds where there are some
        2: there is no job, no such column, or no way to tell which rows are the same
        3: fewer rows agree than --min-agreement, or drift is beyond --max-drift
    """
    from batchinfer.api.comparing import compare as compared

    with opened(first, param) as one, opened(second, param) as two:
        made = compared(
            one,
            two,
            key=key,
            columns=column or (),
            top=top,
            tolerance=tolerance,
            show=show_values,
            min_agreement=min_agreement,
            max_drift=max_drift,
        )
    if as_json:
        show_json(made.to_json())
    else:
        show(_text(made))
    return made.exit_code


def _text(made: Comparison) -> str:
    from batchinfer.cli.drift import words
    from batchinfer.cli.render import table
    from batchinfer.plan.describe import count

    drifted = {c.column: words(c) for c in made.drift.columns} if made.drift is not None else {}
    judged = made.bounds.min_agreement is not None or made.bounds.max_drift is not None
    verdict = (
        f"{count(len(made.exceeded), 'bound')} not kept"
        if made.exceeded
        else "within the bounds"
        if judged
        else f"{made.rows.both:,} rows compared"
    )
    lines = [
        ("A", made.first),
        ("B", made.second),
        ("rows", _rows(made)),
        ("by", made.joined_by),
        *((c.column, f"{_agreement(made, c)}\n{drifted.pop(c.column, '')}".strip()) for c in made.columns),
        *drifted.items(),
        *(("note", note) for note in made.notes),
        *(("missing", f"{name}: only A has it") for name in made.missing),
        *(("new", f"{name}: only B has it") for name in made.new),
        *((f"{n}.", _different(made, row)) for n, row in enumerate(made.most_different, 1)),
        *(("beyond", line) for line in made.exceeded),
    ]
    return f"{verdict}\n{table(lines)}"


def _rows(made: Comparison) -> str:
    rows = made.rows
    lines = [f"{rows.both:,} in both, {rows.only_first:,} only in A, {rows.only_second:,} only in B"]
    if rows.dead_in_first or rows.dead_in_second or rows.dead_in_both:
        lines.append(
            f"dead in A alone {rows.dead_in_first:,}, in B alone {rows.dead_in_second:,}, in both {rows.dead_in_both:,}"
        )
    return "\n".join(lines)


def _agreement(made: Comparison, column: ColumnAgreement) -> str:
    from batchinfer.report.comparison import percent

    lines = [f"{percent(made.share(column))} of the rows agree"]
    found = column.figures
    if column.kind == "vector" and found:
        lines.append(f"cosine {found['mean_cosine']:.6f} on average, {found['min_cosine']:.6f} at least")
    elif column.kind == "number" and found:
        lines.append(
            f"off by {found['mean_absolute_difference']:.4g} on average, by {found['max_absolute_difference']:.4g} at most; "
            f"mean shift {found['mean_difference']:+.4g}"
        )
    elif "kappa" in found:
        lines.append(f"Cohen's kappa {found['kappa']:.4f}")
    lines += [f"{a} → {b}: {n:,} {'row' if n == 1 else 'rows'}" for a, b, n in column.confusion[:_PAIRS]]
    return "\n".join(lines)


def _different(made: Comparison, row: DifferentRow) -> str:
    place = f"key {row.key}" if row.key is not None else f"{row.file} row {row.row:,}"
    column = f" in {row.column}" if len(made.columns) > 1 else ""
    lines = [f"{place}: {row.difference:.2g}{column}, of at most 1"]
    lines += [f"{name}: {one} → {two}" for name, (one, two) in row.values.items()]
    return "\n".join(lines)
