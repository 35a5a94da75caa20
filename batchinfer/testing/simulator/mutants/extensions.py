"""Wrong ways of bringing a job up to an input that has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from batchinfer.ledger import generations, manifests, parts
from batchinfer.ledger.jobs import Job
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Part
from batchinfer.plan import extension as changes
from batchinfer.plan.generation import Generation
from batchinfer.plan.plan import Plan
from batchinfer.run import extending, generation, judge
from batchinfer.storage.store import Store
from batchinfer.testing.simulator.mutants.registry import mutant
from batchinfer.testing.simulator.mutants.sparing import Sparing


@mutant
def a_replaced_part_stays_listed() -> Iterator[None]:
    """The part of a rewritten file is read beside the one that replaces it."""
    right = judge.end

    def end(
        store: Store, job: Job, ended: Generation, listed: Iterable[Part], own: Iterable[Part], *more: Any
    ) -> Manifest:
        before = manifests.latest(store, job.paths)
        stands = parts.list_shards(store, job.paths)
        listed = [p for p in before.parts if p.shard in stands] if before is not None else listed
        return right(store, job, replace(ended, replaced=()), listed, own, *more)

    with mock.patch.object(generation, "end", end):
        yield


@mutant
def replaced_parts_go_before_the_manifest() -> Iterator[None]:
    """A reader of the manifest that still counts misses them."""
    right = judge.end

    def end(store: Store, job: Job, ended: Generation, *more: Any) -> Manifest:
        for number in ended.replaced:
            store.delete(job.paths.part(number))
        return right(store, job, ended, *more)

    with mock.patch.object(generation, "end", end):
        yield


@mutant
def an_extension_ends_before_its_parts() -> Iterator[None]:
    """Its manifest lists the parts that stand by then, and not those that are missing."""
    right = generations.begin

    def begin(store: Store, job: Any, wanted: Generation) -> Generation:
        begun = right(store, job, wanted)
        before = manifests.latest(store, job)
        if begun.kind == "extension" and before is not None:
            listed = [p for p in before.parts if p.shard not in begun.replaced]
            manifests.create(store, job, listed, begun.number, before.verdict, before.precision, begun.replaced)
        return begun

    with mock.patch.object(generations, "begin", begin):
        yield


@mutant
def an_extension_leaves_success() -> Iterator[None]:
    """_SUCCESS vouches for data/ while parts of the extension come."""
    result = generation.GenerationRun.result

    def sparing(self: generation.GenerationRun) -> Any:
        if self._generation.kind == "extension":
            self._store = Sparing(self._store)
        return result(self)

    with mock.patch.object(generation.GenerationRun, "result", sparing):
        yield


@mutant
def replaced_parts_stay() -> Iterator[None]:
    """Whoever reads data/ itself finds them beside those that replace them."""
    with mock.patch.object(judge, "remove_replaced"):
        yield


@mutant
def a_late_runner_leaves_a_replaced_part() -> Iterator[None]:
    """It puts a part where one was replaced and removed, and goes."""
    with mock.patch.object(judge, "_withdraw_replaced"):
        yield


@mutant
def what_is_gone_stays() -> Iterator[None]:
    """Rows of removed files are kept although they are to be dropped."""
    right = changes.extension

    def extension(plan: Plan, known: Sequence[Generation], on_removed: Any, given_up: Collection[int]) -> Generation:
        return right(plan, known, "keep" if on_removed == "drop" else on_removed, given_up)

    with mock.patch.object(extending, "extension", extension):
        yield


@mutant
def what_was_passed_over_is_forgotten() -> Iterator[None]:
    """Nobody predicts the rows of files that seemed to have changed while a generation was interrupted."""
    with mock.patch.object(extending, "given_up", return_value=set()):
        yield


@mutant
def a_changed_file_is_passed_over_under_success() -> Iterator[None]:
    """The parts without rows come while _SUCCESS vouches for the others."""
    right = extending._pass_over

    def pass_over(store: Store, *more: Any) -> None:
        right(Sparing(store), *more)

    with mock.patch.object(extending, "_pass_over", pass_over):
        yield


@mutant
def an_extension_builds_on_an_open_generation() -> Iterator[None]:
    """One that another runner has just begun, and whose parts no manifest lists yet."""

    def begin(store: Store, job: Job, plan: Plan) -> tuple[Generation, str]:
        known, before = generations.every(store, job.paths), manifests.latest(store, job.paths)
        wanted = changes.extension(plan, known, plan.spec.run.on_removed, extending.given_up(before))
        return generations.begin(store, job.paths, wanted), ""

    with mock.patch.object(extending, "begin", begin):
        yield
