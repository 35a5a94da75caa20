"""`batchinfer clean`: remove what is left over."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from batchinfer.cli.exits import guarded
from batchinfer.cli.options import Json, Output, Params
from batchinfer.cli.status import opened
from batchinfer.cli.streams import show, show_json
from batchinfer.errors import RefusedError


@guarded
def clean(
    output: Output,
    param: Params = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only listed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them, as without --yes.")] = False,
    as_json: Json = False,
) -> int:
    """Remove what abandoned jobs and dead runners left behind.

    Predictions that count are never among it.

    Examples:
        batchinfer clean out/predictions  # lists it
        batchinfer clean out/predictions --yes
    """
    from batchinfer.plan.describe import count, size

    if yes and dry_run:
        raise RefusedError("--yes removes and --dry-run only lists: give one of them")
    with opened(output, param) as run:
        found = run.clean(remove=yes)
    total = sum(f.size for f in found)
    if as_json:
        show_json({"removed": yes, "bytes": total, "files": [f.path for f in found]})
    elif not found:
        show("nothing to clean")
    else:
        if not yes:
            show("\n".join(f.path for f in found) + "\n")
        for why, number in Counter(f.why for f in found).items():
            show(f"{count(number, 'file'):>12}  {why}")
        show(
            f"{'removed' if yes else 'would remove'} {count(len(found), 'file')}, {size(total)}{'' if yes else '; --yes removes them'}"
        )
    return 0
