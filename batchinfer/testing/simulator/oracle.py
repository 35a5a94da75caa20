"""What must hold, after every change of the bucket and at the end of a history."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.data import part
from batchinfer.ledger.manifests import Manifest
from batchinfer.ledger.parts import Counts, Decision
from batchinfer.plan.extension import standing_shards
from batchinfer.plan.generation import Generation
from batchinfer.storage import paths
from batchinfer.storage.paths import JobPaths, job8_of
from batchinfer.testing.simulator.bucket import Bucket
from batchinfer.testing.simulator.judged import Judged
from batchinfer.testing.simulator.model import file_of, rows_of
from batchinfer.testing.simulator.output import Output
from batchinfer.testing.simulator.shape import File, Shape


def _read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data), use_threads=False)  # so small a file is read sooner without others


class Oracle:
    """Looks at the bucket itself, past clients, listings and their delays."""

    def __init__(
        self,
        bucket: Bucket,
        output: Output,
        failed: Callable[[str], None],
        ended: Callable[[str], bool],
        present: Callable[[], tuple[File, ...]],
        *,
        noisy: bool,
        forgiving: bool,
    ) -> None:
        self._bucket, self._output, self._failed, self._ended = bucket, output, failed, ended
        self._present, self._noisy, self._forgiving = present, noisy, forgiving
        self._epochs: dict[tuple[str, str], str] = {}
        self._late: dict[str, str] = {}
        """Parts of replaced jobs and shards that came after their replacement, and who created them."""
        self._known: dict[str, tuple[int, int]] = {}
        """The newest job and generation when each runner began."""
        self._begun_by: dict[tuple[int, int], str] = {}
        """Who began them."""
        self._marked_by: str | None = None
        """Who put the _SUCCESS that stands."""
        self._lost_mark = False
        """Whether it was taken away by the request of a runner that had ended: the next run puts it again."""
        self._cleared: set[str] = set()
        """Who has deleted _SUCCESS, or found none to delete."""
        self._stray: str | None = None
        """Who put the _SUCCESS that stands, where what it vouched for was replaced since that runner began."""

    # Who comes and goes.

    def began(self, who: str) -> None:
        """A runner starts."""
        self._known[who] = self._output.newest()

    def left(self, who: str) -> None:
        """A runner has ended by itself, and so had the time to look whether it was replaced."""
        if self._stray == who and self._wrong_success() is not None:
            self._failed(f"{who} left a _SUCCESS over a job or generation that began after it")
        if self._forgiving:  # it looks with a listing, and one that is out of date hides them until the next run
            return
        if late := [path for path, creator in self._late.items() if creator.partition(".")[0] == who]:
            self._failed(f"{who}, whose job or shard was replaced, left {late}")

    # What changes.

    def changed(self, who: str, path: str, old: bytes | None, new: bytes | None) -> None:
        """Judge a change."""
        if path.startswith(paths.PROBES):
            return
        if path == paths.SUCCESS:
            self._success(who, marked=new is not None)
            return
        if old is None and new is None:
            return
        if path.startswith(f"{paths.DATA}/"):
            self._part(who, path, old, new)
        elif path.startswith(paths.DEAD_LETTERS):
            self._dead_letters(path, old, new)
        elif path.endswith(".json") and not path.endswith("run_results.json") and "/heartbeats/" not in path:
            self._record(who, path, old, new)
        if self._stray is None and (wrong := self._wrong_success()) is not None:
            self._failed(f"_SUCCESS stands over {wrong} since {who} changed {path}")

    def _record(self, who: str, path: str, old: bytes | None, new: bytes | None) -> None:
        if old is not None and new != old and "/closed/" not in path:
            self._failed(f"{path}: a record was changed by {who}")
        if "/epochs/" in path and new is not None:
            owner = json.loads(new)["name"], path.rpartition("/")[0]
            if self._epochs.setdefault(owner, path) != path:
                self._failed(f"{path}: {owner[0]} took its own record {self._epochs[owner]} for another's")
        if "/plans/" in path or path.startswith(paths.JOBS):
            self._begun_by[self._output.newest()] = who
        if path.startswith(paths.JOBS) and who in self._cleared and self._marked_by not in (None, who):
            self._stray = self._marked_by  # put between another's deletion of it and that one's new job; it looks again
        if "/manifests/" in path and new is not None:
            self._manifest(path, Manifest.from_json(json.loads(new)))

    def _part(self, who: str, path: str, old: bytes | None, new: bytes | None) -> None:
        job8 = job8_of(path)
        current = self._output.current()
        if job8 is None or current is None:
            self._failed(f"{path}: no name of a part")
        elif new is None:
            self._late.pop(path, None)
            if job8 == current[1] and not self._output.is_replaced(path):
                self._failed(f"{path}: a part of the current job was removed by {who}")
        elif old is not None:
            if old != new:
                self._failed(f"{path}: the part was changed by {who}")
        else:
            if job8 != current[1] or self._output.is_replaced(path):
                self._late[path] = who
            else:
                self._sound(path, new, job8)

    def _sound(self, path: str, data: bytes, job8: str) -> None:
        """Every row of the shard exactly once, in the part or among its dead, with the right values."""
        number = JobPaths(job8).shard_of_part(path)
        found = [(g, s) for g in self._output.generations(job8) for s in g.shards if s.number == number]
        if len(found) != 1:
            self._failed(f"{path}: a part of no shard that is planned")
            return
        generation, shard = found[0]
        decision = Decision.from_metadata(part.read_footer(data).metadata, path)
        table = _read(data)
        job = self._output.shape_of(generation)
        may_give_up = generation.kind == "retry" or job.on_removed is not None
        if may_give_up and decision.counts == Counts(shard.rows, not_attempted=shard.rows):
            if len(table):
                self._failed(f"{path}: attempted nothing and holds rows")
            return
        judged = Judged(job, shard, noisy=self._noisy)
        for wrong in judged.wrong(table, decision):
            self._failed(f"{path}: {wrong}")
        if decision.dead_letters is not None:
            name = JobPaths(job8).dead_letters(shard.number, decision.dead_letters[:12])
            self._letters(name, decision.dead_letters, judged.letters)

    def _letters(self, path: str, sha256: str, dead: list[tuple[int, str]]) -> None:
        data = self._bucket.objects.get(path)
        if data is None:
            self._failed(f"{path}: the part that names these dead letters was created before them")
        elif hashlib.sha256(data).hexdigest() != sha256:
            self._failed(f"{path}: not the dead letters that the part names")
        else:
            table = _read(data)
            if list(zip(table["row"].to_pylist(), table["step"].to_pylist(), strict=True)) != dead:
                self._failed(f"{path}: other rows than {dead}, or other steps")

    def _dead_letters(self, path: str, old: bytes | None, new: bytes | None) -> None:
        if old is not None and new is not None and old != new:
            self._failed(f"{path}: dead letters were changed")
        if new is None and path in self._named():
            self._failed(f"{path}: dead letters were removed that a part names")

    def _named(self) -> set[str]:
        """Dead letters that parts of the current job name."""
        current = self._output.current()
        named: set[str] = set()
        for path in self._output.parts():
            job8 = job8_of(path)
            if job8 is None or current is None or job8 != current[1] or self._output.is_replaced(path):
                continue
            decision = Decision.from_metadata(part.read_footer(self._bucket.objects[path]).metadata, path)
            if decision.dead_letters is not None:
                named.add(JobPaths(job8).dead_letters(decision.shard, decision.dead_letters[:12]))
        return named

    def _manifest(self, path: str, manifest: Manifest) -> None:
        job8 = job8_of(path)
        assert job8 is not None
        ended = [g for g in self._output.generations(job8) if g.number <= manifest.generation]
        if sorted(p.shard for p in manifest.parts) != sorted(standing_shards(ended)):
            self._failed(f"{path}: lists the shards {[p.shard for p in manifest.parts]}")
            return
        current = self._output.current()
        if current is None or current[1] != job8:
            return
        self._listed(path, manifest)
        right, first = self._rows(manifest, ended), self._output.shape_of(ended[0])
        if manifest.counts != right:
            self._failed(f"{path}: counts {manifest.counts}, the rows {right}")
        if manifest.verdict != (0 if first.threshold < 0 or right.dead <= first.threshold else 3):
            self._failed(f"{path}: the verdict is {manifest.verdict}")

    def _rows(self, manifest: Manifest, ended: list[Generation]) -> Counts:
        """What became of the rows, after looking each one up in all listed parts."""
        shards = {number: rows_of(shard.ranges) for number, shard in standing_shards(ended).items()}
        retried = {s.number for g in ended if g.kind == "retry" for s in g.shards}
        predicted: Counter[int] = Counter()
        dead: set[int] = set()
        filtered: set[int] = set()
        missing: set[int] = set()
        for listed in manifest.parts:
            data, span = self._bucket.objects.get(listed.path), shards[listed.shard]
            if data is None:
                continue  # said already
            decision = Decision.from_metadata(part.read_footer(data).metadata, listed.path)
            predicted.update(_read(data)["x"].to_pylist())
            if decision.counts.not_attempted == 0:
                dead -= set(span)
            elif listed.shard not in retried:
                missing |= set(span)
            dead |= {span[n] for n in decision.dead.tolist()}
            filtered |= {span[n] for n in decision.filtered.tolist()}
        every = {row for number, span in shards.items() if number not in retried for row in span}
        others = dead | filtered | missing
        if set(predicted.values()) - {1} or predicted.keys() | others != every or predicted.keys() & others:
            self._failed(f"the manifest's parts hold {sorted(predicted.elements())}, with {sorted(dead)} dead")
        return Counts(len(every), len(every - others), len(dead), len(filtered), len(missing))

    def _listed(self, path: str, manifest: Manifest) -> None:
        for listed in manifest.parts:
            data = self._bucket.objects.get(listed.path)
            if data is None or hashlib.sha256(data).hexdigest() != listed.sha256 or len(data) != listed.bytes:
                self._failed(f"{path}: lists {listed.path} with a digest that isn't the part's")
            if listed.dead_letters is not None and listed.dead_letters not in self._bucket.objects:
                self._failed(f"{path}: names {listed.dead_letters}, which is gone")

    def _success(self, who: str, *, marked: bool) -> None:
        # A request of a runner that has ended and was told that it failed: whoever ends the generation sets it right.
        self._stray = who if marked and self._ended(who) else None
        self._lost_mark = not marked and self._marked_by not in (None, who) and self._ended(who)
        self._marked_by = who if marked else None
        if not marked:
            self._cleared.add(who)
        wrong = self._wrong_success()
        if wrong is None or self._stray is not None:
            return
        if self._known.get(who) != self._output.newest() and self._begun_by.get(self._output.newest()) != who:
            self._stray = who  # replaced between its look and its mark; it looks again
        else:
            self._failed(f"{who} put _SUCCESS over {wrong}")

    def _wrong_success(self) -> str | None:
        """What _SUCCESS stands over and must not."""
        if paths.SUCCESS not in self._bucket.objects:
            return None
        current = self._output.current()
        manifest = None if current is None else self._output.manifest(current[1])
        if current is None or manifest is None:
            return "no manifest"
        if manifest.verdict != 0:
            return f"the verdict {manifest.verdict}"
        if manifest.counts.not_attempted:
            return "rows that were not attempted"
        # Parts of a replaced job can only be found by listing, and a listing may be late.
        replaced = {p for p in self._output.parts() if job8_of(p) != current[1]} if self._forgiving else set()
        if self._output.parts() - self._late.keys() - replaced != {p.path for p in manifest.parts}:
            return "other parts than the manifest's"
        return None

    # What came of it.

    def end(self, exit_code: int | None) -> None:
        """Judge the output of a job that has ended."""
        current = self._output.current()
        manifest = None if current is None else self._output.manifest(current[1])
        if current is None or manifest is None:
            self._failed("a job that has ended has no manifest")
            return
        self._listed("the last manifest", manifest)
        self._up_to_date(manifest, current[1], current[2])
        if self._output.parts() != {p.path for p in manifest.parts}:
            self._failed(f"data/ holds {sorted(self._output.parts())}, other than the manifest")
        if exit_code != manifest.verdict:
            self._failed(f"the exit code is {exit_code}, the verdict {manifest.verdict}")
        if (paths.SUCCESS in self._bucket.objects) != (manifest.verdict == 0) and not self._lost_mark:
            self._failed(
                f"_SUCCESS {'stands' if paths.SUCCESS in self._bucket.objects else 'is missing'} with {exit_code}"
            )

    def _up_to_date(self, manifest: Manifest, job8: str, job: Shape) -> None:
        """Every row of the input as it is now, and of files that are gone none, or those of one revision where they are kept."""
        if manifest.counts.not_attempted:
            self._failed(f"{manifest.counts.not_attempted} rows of a job that has ended are not attempted")
        known = self._output.generations(job8)
        planned = {file_of(r.file) for s in standing_shards(known).values() for r in s.ranges}
        present, paths_now = set(self._present()), {f.path for f in self._present()}
        gone = planned - present
        if not present <= planned or any(f.path in paths_now for f in gone) or len({f.path for f in gone}) < len(gone):
            self._failed(f"the input is {sorted(present, key=str)}, and the job has {sorted(planned, key=str)}")
        elif gone and job.on_removed != "keep":
            self._failed(f"rows of {sorted(gone, key=str)} are there, which are gone")
