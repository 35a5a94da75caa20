"""`batchinfer drift`: whether the predictions of an output are distributed as those of a reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from batchinfer.cli import complete
from batchinfer.cli.exits import guarded
from batchinfer.cli.options import JOB_FILES, Columns, Json, Output, Params
from batchinfer.cli.status import located, opened
from batchinfer.cli.streams import show, show_json

if TYPE_CHECKING:
    from batchinfer.api import Run
    from batchinfer.report.drift import ColumnDrift, Drift

_LABELS = 3
"""Shown of a column: those whose share changed most."""


Reference = Annotated[
    str | None,
    typer.Argument(
        metavar="REFERENCE",
        help="What to compare with: another output or its job file, or a profile (.json) that --save wrote.",
        show_default=False,
        autocompletion=complete.outputs,
    ),
]
TotalVariation = Annotated[
    float | None, typer.Option(min=0, max=1, metavar="X", help="That no column may exceed.", show_default=False)
]
Hellinger = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="X", help="Hellinger distance that no column may exceed.", show_default=False),
]
Save = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Save the output's profile, as a reference for later.", show_default=False),
]


@guarded
def drift(
    output: Output,
    reference: Reference = None,
    param: Params = None,
    total_variation: TotalVariation = None,
    hellinger: Hellinger = None,
    column: Columns = None,
    save: Save = None,
    as_json: Json = False,
) -> int:
    """Measure how far predictions have drifted from a reference.

    By the distributions of the columns: the rows need not be the same.

    Examples:
        batchinfer drift out/june --save reference.json
        batchinfer drift out/july reference.json --total-variation 0.1
        batchinfer drift out/july out/june --column label --hellinger 0.1 --json

    Exit codes:
        0: measured, and within the thresholds where there are some
        2: there is no job, reference or column of that name, or no row
        3: beyond a threshold
    """
    from batchinfer.api import open_run
    from batchinfer.api.drifting import drift_of, save_profile
    from batchinfer.errors import RefusedError

    if reference is None and save is None:
        raise RefusedError("drift: give a REFERENCE to compare with, or --save FILE to make one of the output")
    if save is not None and not save.endswith(".json"):
        raise RefusedError(f"--save {save}: a profile's name ends with .json")
    with located(output, param) as (path, storage):
        profile = open_run(path, storage).profile(column or None)
        made = None
        if reference is not None:
            with _reference(reference, param) as known:
                made = drift_of(
                    profile,
                    known,
                    columns=column or (),
                    total_variation=total_variation,
                    hellinger=hellinger,
                    storage=storage,
                )
        if save is not None:
            save_profile(profile, save, storage)
    if as_json:
        show_json({**(made.to_json() if made else {"exit_code": 0}), "output": path, "saved": save})
    else:
        show(text(path, made) if made else f"{path}: profile of {profile.looked_at:,} rows saved to {save}")
    return made.exit_code if made else 0


@contextlib.contextmanager
def _reference(name: str, param: list[str] | None) -> Iterator[Run | str]:
    """What a job file says; anything else as it is."""
    if not name.endswith(JOB_FILES):
        yield name
        return
    with opened(name, param) as run:
        yield run


def text(path: str, made: Drift) -> str:
    """A drift in words."""
    from batchinfer.cli.render import table
    from batchinfer.plan.describe import count

    judged = made.thresholds.total_variation is not None or made.thresholds.hellinger is not None
    verdict = (
        f"{count(len(made.exceeded), 'distance')} beyond the thresholds"
        if made.exceeded
        else "within the thresholds"
        if judged
        else "no threshold given, so nothing is judged"
    )
    lines = [("rows", f"{made.rows:,}, and {made.reference_rows:,} of the reference")]
    lines += [(drifted.column, words(drifted)) for drifted in made.columns]
    lines += [("missing", f"{name}: the reference has it") for name in made.missing]
    lines += [("new", f"{name}: the reference lacks it") for name in made.new]
    lines += [("beyond", line) for line in made.exceeded]
    return f"{path}: {verdict}\n{table(lines)}"


def words(drifted: ColumnDrift) -> str:
    """The drift of one column in a few lines."""
    far = drifted.distance
    chance = " (as by chance)" if far.total_variation <= far.by_chance else f" (by chance {far.by_chance:.3f})"
    lines = [f"total variation {far.total_variation:.3f}{chance}, Hellinger {far.hellinger:.3f}"]
    if drifted.means is not None and not drifted.labels:
        before, now = (f"{mean:.4g}" for mean in drifted.means)
        lines += [f"mean {drifted.means_of} {before} → {now}"] if before != now else []
    lines += [f"{s.label}: {100 * s.before:.1f} % → {100 * s.now:.1f} %" for s in drifted.labels[:_LABELS] if s.change]
    return "\n".join([*lines, *([far.note] if far.note else [])])
