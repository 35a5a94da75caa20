"""Which job an output belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from batchinfer.errors import FingerprintError, LockedError, OutputError
from batchinfer.ledger import jobs, records
from batchinfer.ledger.jobs import Job
from batchinfer.plan.fingerprint import Fingerprint, digest_of
from batchinfer.run.judge import refuse_superseded
from batchinfer.storage import paths


def mark(**values: Any) -> Fingerprint:
    material = {"input": {"limit": 10, "where": None}, "steps": {"model": {"precision": "fp32"}}, **values}
    return Fingerprint(digest_of(material), material)


def take(store: Any, fingerprint: Fingerprint | None = None, *, fresh: bool = False, overwrite: bool = False) -> Job:
    return jobs.find_or_create(
        store, "reviews", fingerprint or mark(), {"host": "here"}, fresh=fresh, overwrite=overwrite
    )


def test_an_empty_output_has_no_job(store: Any) -> None:
    assert jobs.current(store) is None


def test_a_job_is_created_once_and_found_again(store: Any) -> None:
    first = take(store)
    assert first.number == 1
    assert len(first.paths.job8) == 8
    assert take(store) == first == jobs.current(store)
    assert [p for p in store.paths if p.startswith(paths.JOBS)] == ["_batchinfer/jobs/0001.json"]
    record = records.read(store, "_batchinfer/jobs/0001.json")
    assert (record["name"], record["started_by"]) == ("reviews", {"host": "here"})


def test_the_name_is_no_part_of_what_a_job_is(store: Any) -> None:
    first = take(store)
    assert jobs.find_or_create(store, "other", mark(), {}, fresh=False, overwrite=False).paths == first.paths


def test_what_changed_is_said_line_by_line(store: Any) -> None:
    take(store)
    changed = mark(input={"limit": 20, "where": "a > 1"}, errors={"on_invalid_output": "keep"})
    with pytest.raises(FingerprintError) as refusal:
        take(store, changed)
    text = str(refusal.value)
    assert "  input.limit: 10 → 20\n" in text
    assert "  input.where: null → a > 1\n" in text
    assert "  errors.on_invalid_output: (none) → keep\n" in text
    assert "precision" not in text
    assert "--restart" in text


def test_a_refused_job_changes_nothing(store: Any) -> None:
    take(store)
    store.put(paths.SUCCESS, b"")
    before = store.paths
    with pytest.raises(FingerprintError):
        take(store, mark(input={}))
    assert store.paths == before


def test_a_foreign_directory_is_refused_naming_a_file(store: Any) -> None:
    store.put("thesis/chapter1.tex", b"")
    store.put("thesis/chapter2.tex", b"")
    for fresh in (False, True):
        with pytest.raises(OutputError, match=r"thesis/chapter1.tex and 1 more"):
            take(store, fresh=fresh, overwrite=fresh)
    assert store.paths == ["thesis/chapter1.tex", "thesis/chapter2.tex"]


def finished(store: Any) -> Job:
    job = take(store)
    for shard in (0, 1):
        store.put(job.paths.part(shard), b"part")
    store.put(job.paths.dead_letters(1, "0" * 12), b"dead")
    store.put(paths.SUCCESS, b"")
    store.put("README.md", b"a user's")
    store.put("_dead_letter/notes.txt", b"a user's")
    return job


@pytest.mark.parametrize("kind", ["restart", "overwrite"])
def test_a_fresh_start_removes_success_first_and_then_the_former_parts_and_nothing_of_others(
    store: Any, kind: str
) -> None:
    former = finished(store)
    new = take(store, fresh=True) if kind == "restart" else take(store, mark(output={}), overwrite=True)
    assert new.number == 2
    assert new.paths != former.paths
    store.put(new.paths.part(0), b"new")
    jobs.remove_former(store, new)
    assert store.paths == sorted(
        [
            "README.md",
            "_batchinfer/jobs/0001.json",
            "_batchinfer/jobs/0002.json",
            "_dead_letter/notes.txt",
            new.paths.part(0),
        ]
    )
    removed = [c for c in store.changes if c.startswith("delete")]
    assert removed[0] == "delete data/_SUCCESS"
    assert store.changes.index("delete data/_SUCCESS") < store.changes.index("create _batchinfer/jobs/0002.json")


def test_overwriting_by_the_same_job_goes_on_with_it(store: Any) -> None:
    former = finished(store)
    assert take(store, overwrite=True) == former
    jobs.remove_former(store, former)
    assert "data/_SUCCESS" in store.paths


def test_a_restart_that_was_cut_off_is_finished_by_the_next_start(store: Any) -> None:
    finished(store)
    new = take(store, fresh=True)  # and the process dies before it removes anything
    again = take(store)
    assert again == new
    jobs.remove_former(store, again)
    assert [p for p in store.paths if p.startswith("data/")] == []


def test_a_new_job_is_refused_beside_a_file_in_data_that_is_nobodys_and_nothing_changes(store: Any) -> None:
    finished(store)
    store.put("data/part-0000000-ffffffff.parquet", b"looks like ours")
    before = store.paths
    with pytest.raises(OutputError, match=r"data/part-0000000-ffffffff.parquet: no job of batchinfer wrote this file"):
        take(store, fresh=True)
    assert store.paths == before


def test_files_that_are_no_records_do_not_disturb(store: Any) -> None:
    first = take(store)
    for name in ("0001.json.bak", ".0002.json.swp", "x.json", "+009.json", "notes"):
        store.put(f"{paths.JOBS}/{name}", b"")
    assert take(store) == first


def test_a_record_that_was_edited_is_refused_by_its_path(store: Any) -> None:
    take(store)
    for data in (b"", b'{"job8": ', b"[]", b"{}", b"\xff\xfe"):
        store.put("_batchinfer/jobs/0001.json", data)
        with pytest.raises(OutputError, match=r"_batchinfer/jobs/0001.json: this record isn't as batchinfer wrote it"):
            take(store)


def race(store: Any, other: Fingerprint) -> None:
    """Another runner creates the record at the moment in which we try to."""

    def before(verb: str, path: str) -> None:
        if verb == "create" and path.startswith(paths.JOBS):
            store.before = lambda _verb, _path: None
            take(store, other)

    store.before = before


def test_of_two_racers_with_one_job_both_get_the_winners(store: Any) -> None:
    race(store, mark())
    mine = take(store)
    assert mine == jobs.current(store)
    assert [p for p in store.paths if p.startswith(paths.JOBS)] == ["_batchinfer/jobs/0001.json"]


def test_of_two_racers_with_different_jobs_the_loser_is_refused(store: Any) -> None:
    race(store, mark(input={"limit": 1}))
    with pytest.raises(FingerprintError, match="another job was started on this output at the same moment"):
        take(store)


class Late:
    """A store whose listings miss what came last."""

    def __init__(self, store: Any, hidden: set[str]) -> None:
        self._store, self._hidden, self.root = store, hidden, store.root

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str = "") -> Any:
        return [e for e in self._store.list(prefix) if e.path not in self._hidden]


@pytest.mark.parametrize("hidden", [{2}, {3}, {2, 3}, {1, 2, 3}])
def test_a_late_listing_does_not_hide_the_job_that_counts(store: Any, hidden: set[int]) -> None:
    take(store)
    take(store, fresh=True)
    third = take(store, fresh=True)
    late = Late(store, {paths.job_record(n) for n in hidden})
    assert jobs.current(late) == third
    assert take(late) == third


def test_a_runner_of_a_replaced_job_takes_with_it_what_it_put_since(store: Any) -> None:
    former = finished(store)
    new = take(store, fresh=True)
    for job in (former, new):
        store.put(job.paths.part(0), b"part")
        store.put(job.paths.dead_letters(0, "0" * 12), b"dead")
    store.put(paths.SUCCESS, b"")
    with pytest.raises(LockedError, match="another job has been started"):
        refuse_superseded(store, former, 1)
    left = [p for p in store.paths if p.startswith((paths.DATA, paths.DEAD_LETTERS))]
    assert left == sorted(
        [new.paths.dead_letters(0, "0" * 12), new.paths.part(0), paths.SUCCESS, "_dead_letter/notes.txt"]
    )
