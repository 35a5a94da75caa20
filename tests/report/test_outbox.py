"""Work for others beside a run: in order, in another thread, and at no cost to the run."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from batchinfer.job.secrets import Secrets
from batchinfer.report.outbox import Outbox


def test_work_is_done_in_its_order_and_not_in_the_callers_thread() -> None:
    done: list[tuple[int, bool]] = []
    outbox = Outbox("others", Secrets())
    for n in range(100):
        outbox.put(lambda n=n: done.append((n, threading.current_thread() is threading.main_thread())))  # type: ignore[misc]
    outbox.close(30)
    assert done == [(n, False) for n in range(100)]
    assert outbox.is_idle


def test_the_first_failure_is_warned_of_without_secrets_and_the_rest_is_still_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []
    outbox = Outbox("others", Secrets(frozenset({"opaque-7f3a9c"})))

    def fails() -> None:
        logging.getLogger("urllib3.connectionpool").warning("Retrying, as ever")
        raise OSError("https://user:opaque-7f3a9c@there is away")

    with caplog.at_level(logging.WARNING):
        outbox.put(fails)
        outbox.put(fails)
        outbox.put(lambda: done.append(1))
        outbox.close(30)
        logging.getLogger("urllib3.connectionpool").warning("of others")
    assert done == [1]
    assert [r.getMessage() for r in caplog.records] == [
        "others: OSError: https://[hidden]@there is away; the run goes on",
        "of others",
    ]


def test_the_end_waits_as_long_as_is_allowed_and_what_is_left_is_still_done(caplog: pytest.LogCaptureFixture) -> None:
    outbox, free, done = Outbox("others", Secrets()), threading.Event(), threading.Event()
    outbox.put(free.wait)
    outbox.put(done.set)
    began = time.monotonic()
    outbox.close(0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert "not everything has arrived within 0.2 s" in caplog.text
    assert not outbox.is_idle
    free.set()
    assert done.wait(10)


def test_without_work_there_is_no_thread() -> None:
    before = threading.active_count()
    outbox = Outbox("others", Secrets())
    outbox.close(1)
    assert threading.active_count() == before
