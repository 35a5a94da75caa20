"""A generation's plan as its record on the store: what a resume works from."""

from __future__ import annotations

from typing import Any

from batchinfer.data.inputs import InputFile, RowRange
from batchinfer.plan.plan import Plan
from batchinfer.plan.shards import Shard


def to_json(plan: Plan) -> dict[str, Any]:
    """The pinned files, the shards and the window of a plan."""
    index = {f.path: n for n, f in enumerate(plan.files)}
    return {
        "fingerprint": plan.fingerprint.digest,
        "window": plan.reading.window,
        "rows": plan.rows,
        "files": [[f.path, f.size, f.version, f.footer, f.rows, list(f.partition)] for f in plan.files],
        "shards": [
            [s.number, s.first, [[index[r.file.path], r.start, r.rows, r.pruned] for r in s.ranges]]
            for s in plan.shards
        ],
    }


def files_from_json(value: dict[str, Any]) -> tuple[InputFile, ...]:
    """The pinned files of a recorded plan."""
    return tuple(
        InputFile(path, size, version, footer, rows, tuple((k, v) for k, v in partition))
        for path, size, version, footer, rows, partition in value["files"]
    )


def shards_from_json(value: dict[str, Any]) -> tuple[Shard, ...]:
    """The shards of a recorded plan."""
    files = files_from_json(value)
    return tuple(
        Shard(number, first, tuple(RowRange(files[n], start, rows, pruned) for n, start, rows, pruned in ranges))
        for number, first, ranges in value["shards"]
    )
