"""A secret that comes from the environment stands in no file of an output, whatever its key is called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchinfer import Job
from batchinfer.errors import BatchinferError, FingerprintError, InputError, ModelError
from batchinfer.job.secrets import Secrets
from tests.run.workplace import Workplace
from tests.terminal import batchinfer

CANARY = "canary-7f3a91c2d4"


@pytest.fixture
def job(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job with the canary in its options and its filter, under names that say nothing of secrets."""
    monkeypatch.setenv("CANARY", CANARY)
    workplace.write(100, bad={5})
    workplace.edit("delay: float = 0.0,", "delay: float = 0.0, auth=None, headers=(), nested=None,")
    return workplace.fields(
        params={"through": "${CANARY}"},
        input={"where": "id < 90 AND '${CANARY}' <> 'x'"},
        model={
            "options": {"auth": "${CANARY}", "headers": ["X ${CANARY}"], "nested": {"a": {"b": "${params.through}"}}}
        },
        metadata={"note": "${CANARY}"},
        storage={"s3://elsewhere/": {"secret": "${CANARY}", "client_kwargs": {"opaque": "${CANARY}"}}},
    )


def holding(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def test_no_file_of_the_output_holds_it(workplace: Workplace, job: dict[str, Any]) -> None:
    run = Job(**job).run()
    assert (run.exit_code, run.counts.succeeded, run.counts.dead) == (3, 89, 1)
    assert holding(workplace.folder / "output") == []
    assert CANARY not in repr(Job(**job)) + repr(run) + repr(Job(**job).spec)
    verification = run.verify(deep=True)
    assert verification.findings == []
    assert "`where` is of the environment" in verification.notes[0]


def test_another_value_is_another_job_and_the_difference_shows_neither(
    workplace: Workplace, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Job(**job).run()
    monkeypatch.setenv("CANARY", "canary-another")
    with pytest.raises(FingerprintError, match=r"steps\.model\.options\.auth") as refused:
        Job(**job).run()
    assert "canary" not in str(refused.value)


def test_the_terminal_shows_it_nowhere(workplace: Workplace, job: dict[str, Any]) -> None:
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(job))
    program = [sys.executable, "-m", "batchinfer", "run", str(path), "--json"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert CANARY not in done.stdout + done.stderr
    verbs = [["run"], ["plan"], ["plan", "--json"], ["status"], ["errors"], ["verify", "--deep"]]
    codes, text = told(workplace, job, *verbs)
    assert codes == [3, 0, 0, 0, 0, 0]
    assert CANARY not in text
    assert holding(workplace.folder / "output") == []


ODD = """s3cr3t p@ss/w\u00f6rd +%7f 'it' "quoted" \\ 0x1234abcd"""
SIGNED = {
    "https://acct.blob.core.windows.net/c/f?sv=2024&sig=Zm9vYmFyYmF6cXV4%3D": "Zm9vYmFyYmF6cXV4",
    "https://b.s3.amazonaws.com/k?X-Amz-Signature=deadbeefcafe0123&x=1": "deadbeefcafe0123",
    "https://someone:correct-horse@host/p": "correct-horse",
}


def told(workplace: Workplace, job: dict[str, Any], *verbs: list[str]) -> tuple[list[int], str]:
    """Exit codes and all that the terminal showed."""
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(job))
    done = [batchinfer(verb, str(path), *options) for verb, *options in verbs]
    return [one.returncode for one in done], "".join(one.stdout + one.stderr for one in done)


def forms(secret: str) -> list[str]:
    return [secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]]


def shown(secret: str, text: str, folder: Path) -> list[str]:
    """Where the secret is found, in any spelling."""
    import pyarrow.parquet as pq

    places = {str(p): p.read_bytes().decode("utf-8", "replace") for p in folder.rglob("*") if p.is_file()}
    places |= {f"{p} decoded": str(pq.read_table(p).to_pylist()) for p in folder.rglob("_dead_letter/*.parquet")}
    return [name for name, held in {**places, "terminal": text}.items() if any(f in held for f in forms(secret))]


@pytest.mark.parametrize("secret", [CANARY, ODD, "x" * 6])
@pytest.mark.parametrize("moment", ["a row", "every row", "loading", "a log line"])
def test_what_a_model_says_of_it_is_hidden(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, secret: str, moment: str
) -> None:
    monkeypatch.setenv("CANARY", secret)
    workplace.write(300, bad={5})
    workplace.edit("delay: float = 0.0,", "delay: float = 0.0, auth=None,")
    workplace.edit("self.delay, self.log = delay, log", "self.delay, self.log, self.auth = delay, log, auth")
    raised = "raise TypeError(f'denied: {self.auth} and {self.auth!r}')"
    match moment:
        case "a row":
            workplace.edit('raise TypeError("x is null")', raised)
        case "every row":
            workplace.edit("time.sleep(self.delay)", raised)
        case "loading":
            workplace.edit("self.auth = delay, log, auth", f"self.auth = delay, log, auth; {raised}")
        case _:
            line = "__import__('logging').getLogger('m').warning('denied: %s', self.auth)"
            workplace.edit("time.sleep(self.delay)", line)
    job = workplace.fields(model={"options": {"auth": "${CANARY}"}})
    codes, text = told(
        workplace, job, ["run", "--json"], ["run"], ["errors"], ["errors", "--json"], ["status", "--json"]
    )
    assert codes[0] == (2 if moment == "loading" else 3)
    assert "denied: [hidden]" in text
    assert shown(secret, text, workplace.folder / "output") == []


@pytest.mark.parametrize("message", sorted(SIGNED))
@pytest.mark.parametrize("moment", ["a row", "loading"])
def test_a_credential_in_an_address_is_hidden_wherever_it_is_from(
    workplace: Workplace, message: str, moment: str
) -> None:
    workplace.write(100, bad={5})
    if moment == "a row":
        workplace.edit('"x is null"', f'"no answer from {message}"')
    else:
        workplace.edit("self.delay, self.log =", f'raise OSError("no answer from {message}"); self.delay, self.log =')
    codes, text = told(workplace, workplace.fields(), ["run", "--json"], ["run"], ["errors"], ["errors", "--json"])
    assert codes[0] == (2 if moment == "loading" else 3)
    assert "no answer from" in text
    assert shown(SIGNED[message], text, workplace.folder / "output") == []


def test_a_wrong_filter_is_told_without_it(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    workplace.write(10)
    for sql in ("id = '${CANARY}' AND nope = 1", "id = = '${CANARY}'", "id > '${CANARY}'"):
        with pytest.raises(InputError, match=r"input\.where") as refused:
            workplace.run(input={"where": sql})
        assert CANARY not in "".join(str(e) for e in (refused.value, refused.value.__cause__))


def test_an_error_of_the_store_is_told_without_it(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    fields = workplace.fields(input={"path": "s3://x/a"}, storage={"s3://x/": {"endpoint_url": "${CANARY}"}})
    codes, text = told(workplace, fields, ["plan"], ["run", "--json"])
    assert codes == [2, 2]
    assert "[hidden]" in text
    assert CANARY not in text


class StubbornError(Exception):
    """Words itself."""

    def __str__(self) -> str:
        return f"again {CANARY}"


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """What comes out of a block that raises the error."""
    with pytest.raises(BaseException) as raised, Secrets(frozenset({CANARY})).kept():
        raise error from cause
    return raised.value


def test_an_exception_that_words_itself_is_replaced() -> None:
    error = caught(StubbornError())
    assert (type(error), str(error)) == (BatchinferError, "StubbornError: again [hidden]")
    assert error.__suppress_context__


def test_an_exception_keeps_its_type_and_what_is_behind_it_is_cleaned() -> None:
    cause = FileNotFoundError(2, f"no {CANARY}", f"/{CANARY}/x")
    cause.add_note(CANARY)
    error = caught(ModelError(f"because of {CANARY}"), cause)
    assert (type(error), str(error)) == (ModelError, "because of [hidden]")
    assert (str(cause), cause.__notes__) == ("[Errno 2] no [hidden]: '/[hidden]/x'", ["[hidden]"])


def test_what_was_handled_before_and_what_a_group_holds_are_cleaned() -> None:
    before, inside = OSError(f"before {CANARY}"), ValueError(f"inside {CANARY}")
    error = ExceptionGroup("two", [inside, TypeError("other")])
    error.__context__ = before
    with pytest.raises(ExceptionGroup), Secrets(frozenset({CANARY})).kept():
        raise error
    assert [str(before), str(inside)] == ["before [hidden]", "inside [hidden]"]


def test_what_an_end_cuts_off_is_hidden_too() -> None:
    assert Secrets(frozenset({CANARY})).hide(f"denied {CANARY[:9]}…") == "denied [hidden]…"


def test_a_value_that_is_shown_in_a_path_stays_readable(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", str(workplace.folder / "elsewhere"))
    with pytest.raises(InputError, match="elsewhere"):
        workplace.run(input={"path": "${FOLDER}"}, metadata={"from": "${FOLDER}"})
