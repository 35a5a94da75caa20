"""A record of a run that has something of everything."""

from __future__ import annotations

from typing import Any

from batchinfer.report.record import RunRecord

SEGMENTS = [
    {"begin": 5.0, "end": 30.0, "state": "running", "shard": 0, "shards": 1},
    {"begin": 30.0, "end": 60.0, "state": "running", "shard": 2, "shards": 1},
    {"begin": 60.0, "end": 65.0, "state": "restarting", "shard": None, "shards": 0},
    {"begin": 65.0, "end": 100.0, "state": "running", "shard": 4, "shards": 3},
]
HISTOGRAM = {"width": 0.5, "lefts": [0.0, 0.5, 2.0], "counts": [10, 70, 20]}
NUMBERS = {"of": "value", "mean": 0.7, "std": 0.2, "min": 0.0, "max": 2.4, "quantiles": {}, "histogram": HISTOGRAM}


def profile(**labels: int) -> dict[str, Any]:
    """A profile of a label and a score."""
    columns = [
        {"name": "label", "type": "string", "kind": "label", "rows": 100, "labels": labels},
        {"name": "score", "type": "double", "kind": "number", "rows": 100, "nulls": 3, "numbers": NUMBERS},
    ]
    return {"batchinfer_profile": 1, "rows": 100, "looked_at": 100, "columns": columns}


def record(**facts: Any) -> RunRecord:
    """The record with some of its facts replaced."""
    seconds = {"read": 2.0, "prepare": 20.0, "wait": 8.0, "infer": 150.0, "write": 4.0, "commit": 1.0}
    step = {"rows": 990, "batches": 40, "tokens": 900, "padded_tokens": 1000, "infer": 150.0}
    worker = {"rows": 500, "seconds": seconds, "memory": 2**30, "device_memory": 2**31, "segments": SEGMENTS}
    group = {
        "error_class": "exception",
        "error_type": "ValueError",
        "message": "too long: [hidden]",
        "rows": 6,
        "examples": [{"file": "s3://lake/a.parquet", "row": 17}],
    }
    value: dict[str, Any] = {
        "state": "SUCCEEDED",
        "exit_code": 0,
        "rows": {"planned": 1010, "succeeded": 990, "dead": 10, "filtered": 7, "not_attempted": 3},
        "job": "0123abcd",
        "output": "s3://lake/out",
        "executor": "ray",
        "workers": 2,
        "usage": {"rows": 990, "seconds": seconds, "steps": {"model": {**step, "batch_rows": {"8": 3, "32": 37}}}},
        "seconds": 100.0,
        "devices": 2.0,
        "device_seconds": 198.0,
        "job_device_seconds": 400.0,
        "cost": 0.14,
        "job_cost": 0.28,
        "settled": 5.0,
        "name": "reviews",
        "epoch": 2,
        "began": "2026-11-28T07:00:00+00:00",
        "ended": "2026-11-28T07:01:40+00:00",
        "versions": {"batchinfer": "0.1.0", "torch": "2.13.0"},
        "plan": {
            "input": ["s3://lake/in"],
            "files": 3,
            "bytes": 3000,
            "shards": 6,
            "windows": 6,
            "computed": ["label", "score"],
            "carried": ["id"],
            "fingerprint": "f" * 64,
            "steps": [{"name": "model", "engine": "torch", "uri": "package:m", "precision": "auto"}],
            "notes": ["a note"],
        },
        "models": {"model": "d" * 64},
        "throughput": [[5.0, 0], [30.0, 300], [60.0, 500], [100.0, 990]],
        "crew": [{"worker": 0, **worker}, {"worker": 1, **worker}],
        "dead_letters": {"rows": 10, "looked_at": 10, "kinds": 3, "groups": [group]},
        "predictions": {
            "now": profile(good=60, bad=40),
            "before": profile(good=90, odd=10),
            "before_name": "the run of then",
        },
        "advice": [{"topic": "errors", "text": "mend it"}],
    }
    return RunRecord.model_validate(value | facts)
