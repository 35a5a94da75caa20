"""Advice: each finding where its figures are, and none where they aren't."""

from __future__ import annotations

from typing import Any

import pytest

from batchinfer.report.advice import advice
from batchinfer.report.record import RunRecord
from tests.report.records import record

CALM = {
    "usage": {
        "rows": 990,
        "seconds": {"infer": 190.0, "wait": 4.0, "prepare": 10.0, "read": 1.0, "write": 2.0, "commit": 1.0},
    },
    "crew": [],
    "dead_letters": {},
    "truncated": 0,
    "settled": 5.0,
    "seconds": 100.0,
}


def told(**facts: Any) -> dict[str, str]:
    return {
        found.topic: found.text for found in advice(RunRecord.model_validate(record(**(CALM | facts)).model_dump()))
    }


def test_a_run_at_its_best_has_no_advice():
    assert told() == {}


def seconds(**stages: float) -> dict[str, Any]:
    return {"rows": 990, "seconds": stages}


DEVICE = [{"worker": 0, "device_memory": 2**30}]


def lanes(*ends: float) -> list[dict[str, Any]]:
    return [{"worker": n, "segments": [{"begin": 0.0, "end": end, "state": "running"}]} for n, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("topic", "words", "facts"),
    [
        ("waiting", ["waited 40 %", "preparation (35 s)", "add preparing workers"],
         {"usage": seconds(infer=60.0, wait=40.0, prepare=35.0), "crew": DEVICE}),
        ("waiting", ["waited 40 %", "preparation", "share the cores"], {"usage": seconds(infer=60.0, wait=40.0, prepare=35.0)}),
        ("waiting", ["reading (35 s)", "cache.data"], {"usage": seconds(infer=60.0, wait=40.0, read=35.0)}),
        ("waiting", ["writing (35 s)"], {"usage": seconds(infer=60.0, wait=40.0, write=35.0)}),
        ("waiting", ["step big", "more of resources.workers"], {"pools": {"big": {"batches": 3, "busy": 5.0, "idle": 20.0}}}),
        ("waiting", ["step big", "more model actors"],
         {"pools": {"big": {"batches": 3, "busy": 50.0, "idle": 2.0}}, "usage": seconds(infer=50.0, wait=30.0)}),
        ("reading", ["reading took longer (50 s) than the model (20 s)"], {"usage": seconds(infer=20.0, read=50.0)}),
        ("padding", ["30 % of the tokens of model were padding"],
         {"usage": {"steps": {"model": {"tokens": 70, "padded_tokens": 100, "infer": 60.0}}}}),
        ("memory", ["cut in two, 3 times"], {"usage": {"steps": {"model": {"halved": 3}}}}),
        ("storage", ["checkpoints and parts took 1 min 0 s of the workers' 3 min 10 s"], {"usage": seconds(infer=60.0, commit=60.0)}),
        ("start", ["loading and measuring took 1 min 20 s of 1 min 40 s"], {"settled": 80.0}),
        ("balance", ["40 % of the time", "batching.shard"], {"crew": lanes(100.0, 20.0)}),
        ("length", ["of 7 rows the model saw only the beginning"], {"truncated": 7}),
        ("errors", ["60 % of the dead rows have one cause, ValueError", "batchinfer retry s3://lake/out"],
         {"dead_letters": {"rows": 10, "looked_at": 10, "kinds": 3, "groups": [
             {"error_class": "exception", "error_type": "ValueError", "message": "", "rows": 6}]}}),
    ],
)  # fmt: skip
def test_a_finding_is_told_with_its_figures_and_what_to_do(topic: str, words: list[str], facts: dict[str, Any]):
    found = told(**facts)
    assert list(found) == [topic]
    for word in words:
        assert word in found[topic]


@pytest.mark.parametrize(
    "facts",
    [
        {"usage": seconds(infer=0.6, wait=0.4, prepare=0.35)},
        {"usage": seconds(infer=60.0, wait=40.0, prepare=2.0)},
        {"usage": {"steps": {"model": {"tokens": 70, "padded_tokens": 100, "infer": 0.6}}}},
        {"seconds": 4.0, "settled": 3.9},
        {"crew": lanes(100.0, 95.0)},
        {"crew": lanes(1.0, 0.1)},
        {"dead_letters": {"rows": 10, "looked_at": 10, "kinds": 3, "groups": [
            {"error_class": "exception", "error_type": "ValueError", "message": "", "rows": 4}]}},
    ],
    ids=["a second", "another cause", "a second of padding", "a short run", "an even end", "a short end", "several causes"],
)  # fmt: skip
def test_what_is_small_or_has_another_cause_is_not_worth_a_line(facts: dict[str, Any]):
    assert told(**facts) == {}
