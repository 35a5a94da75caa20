"""What follows from a run's figures, in words: where time went that it needn't, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batchinfer.plan.describe import count
from batchinfer.report.figures import duration
from batchinfer.report.record import Advice, Pool, RunRecord, Segment
from batchinfer.worker.context import Served

LEAST_SECONDS = 5.0
"""Of work, below which shares of time say nothing."""
WAITING, CAUSE, READING, PADDING, COMMITTING, STARTING, IDLE_AT_END, ONE_CAUSE = (
    0.25,
    0.3,
    0.25,
    0.2,
    0.15,
    0.5,
    0.2,
    0.5,
)
"""Shares from which on something is said: of a device's time without work, and of what it waited for in that time; of the time that
reading took; of padding among tokens; of checkpoints and parts; of the start in the whole run; of workers' time after the first of them
had nothing left; of one error among the dead rows."""


def advice(record: RunRecord) -> list[Advice]:
    """The findings that are worth a line, those about rows first."""
    return [found for rule in _RULES for found in rule(record)]


def waiting(pool: Pool | Served, waited: float) -> str:
    """Which side of a step with a pool of its own waited for the other, and what would help.

    Args:
        pool: what the step's model actors did.
        waited: seconds that the preparing workers waited for one of them to take a batch.

    """
    share = pool.idle / (pool.idle + pool.busy) if pool.busy else 1.0
    told = (
        f"the pool {duration(pool.idle)} for batches ({share * 100:.0f} % of its time), "
        f"the preparing workers {duration(waited)} for the pool"
    )
    if pool.idle > waited:
        return f"{told}: more of resources.workers would help"
    return f"{told}: more model actors (the step's workers) would help"


def _dead(record: RunRecord) -> Iterator[Advice]:
    letters = record.dead_letters
    if not letters.groups or not letters.looked_at:
        return
    first = letters.groups[0]
    if first.rows >= ONE_CAUSE * letters.looked_at:
        share = "all" if first.rows == letters.looked_at else f"{100 * first.rows / letters.looked_at:.0f} %"
        yield Advice(
            topic="errors",
            text=f"{share} of the dead rows have one cause, {first.error_type}: mend it and predict them alone with "
            f"batchinfer retry {record.output}",
        )


def _truncated(record: RunRecord) -> Iterator[Advice]:
    if record.truncated:
        yield Advice(
            topic="length",
            text=f"of {count(record.truncated, 'row')} the model saw only the beginning: raise options.max_length, where the model can "
            "take more, or shorten the texts before",
        )


def _waiting(record: RunRecord) -> Iterator[Advice]:
    seconds = record.usage.seconds
    for step, pool in record.pools.items():
        if pool.batches and pool.busy + pool.idle > LEAST_SECONDS:
            yield Advice(topic="waiting", text=f"in step {step}, {waiting(pool, seconds.wait)}")
    device = seconds.wait + seconds.infer
    if record.pools or device < LEAST_SECONDS or seconds.wait < WAITING * device:
        return
    told = f"the device waited {100 * seconds.wait / device:.0f} % of the time"
    before = max((("reading", seconds.read), ("preparation", seconds.prepare), ("writing", seconds.write)), key=_second)
    if before[1] < CAUSE * seconds.wait:  # it waited for something else, such as the other workers' loading
        return
    if before[0] == "preparation" and any(worker.device_memory for worker in record.crew):
        text = "add preparing workers: give the step workers of its own (workers: 1), and raise resources.workers"
    elif before[0] == "preparation":
        text = "the model and preparing share the cores here: prepare in an earlier job, or keep what was prepared for the next run (cache.data)"
    elif before[0] == "reading":
        text = "run nearer to the input, keep remote files on the machine (cache.data), or read fewer columns"
    else:
        text = "write fewer or smaller columns, or nearer to where the run is"
    yield Advice(topic="waiting", text=f"{told}, mostly for {before[0]} ({duration(before[1])}): {text}")


def _reading(record: RunRecord) -> Iterator[Advice]:
    seconds = record.usage.seconds
    work = seconds.infer + seconds.prepare + seconds.write
    if seconds.read > LEAST_SECONDS and seconds.read > READING * (seconds.read + work) and seconds.read > seconds.infer:
        yield Advice(
            topic="reading",
            text=f"reading took longer ({duration(seconds.read)}) than the model ({duration(seconds.infer)}): more workers read side by "
            "side, and columns that nothing uses can be left out (input.columns, output.carry)",
        )


def _padding(record: RunRecord) -> Iterator[Advice]:
    for name, step in record.usage.steps.items():
        if step.padded_tokens and 1 - step.tokens / step.padded_tokens > PADDING and step.infer > LEAST_SECONDS:
            share = 100 * (1 - step.tokens / step.padded_tokens)
            yield Advice(
                topic="padding",
                text=f"{share:.0f} % of the tokens of {name} were padding: sort more rows together (batching.window), or make batches "
                "smaller (batching.rows)",
            )


def _memory(record: RunRecord) -> Iterator[Advice]:
    for name, step in record.usage.steps.items():
        if step.halved:
            yield Advice(
                topic="memory",
                text=f"a batch of {name} did not fit into memory and was cut in two, {count(step.halved, 'time')}: a smaller "
                "batching.rows or batching.tokens avoids it",
            )


def _committing(record: RunRecord) -> Iterator[Advice]:
    seconds = record.usage.seconds
    whole = (record.seconds - record.settled) * max(1, record.workers)
    if seconds.commit > LEAST_SECONDS and seconds.commit > COMMITTING * whole:
        yield Advice(
            topic="storage",
            text=f"checkpoints and parts took {duration(seconds.commit)} of the workers' {duration(whole)}: a longer checkpoint.interval, "
            "or an output nearer to the run, would help",
        )


def _starting(record: RunRecord) -> Iterator[Advice]:
    if record.settled > STARTING * record.seconds and record.seconds > 4 * LEAST_SECONDS:
        yield Advice(
            topic="start",
            text=f"loading and measuring took {duration(record.settled)} of {duration(record.seconds)}: where it recurs, name the precision "
            "(precision: …), or keep what was measured (cache.path)",
        )


def _stragglers(record: RunRecord) -> Iterator[Advice]:
    lanes = [_running(worker.segments) for worker in record.crew]
    ends = sorted(running[-1].end for running in lanes if running)
    if len(ends) < 2:
        return
    begin = min(running[0].begin for running in lanes if running)
    idle, whole = sum(ends[-1] - end for end in ends), (ends[-1] - begin) * len(ends)
    if whole > LEAST_SECONDS and idle > IDLE_AT_END * whole:
        yield Advice(
            topic="balance",
            text=f"workers were without a shard for {100 * idle / whole:.0f} % of the time, since the others had longer ones at the end: "
            "smaller shards (batching.shard) share the rest out better",
        )


def _running(segments: list[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.state == "running"]


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


_RULES: tuple[Callable[[RunRecord], Iterator[Advice]], ...] = (
    _dead,
    _truncated,
    _waiting,
    _reading,
    _padding,
    _memory,
    _committing,
    _starting,
    _stragglers,
)
