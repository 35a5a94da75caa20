"""A secret in every input of a job is found in no file, log, report or message."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import open_run
from batchinfer.cli import logs
from batchinfer.errors import AccessError, RefusedError
from batchinfer.job.secrets import Secrets
from tests.run.workplace import Workplace

CANARIES = {
    "OPTION": "canary-option-7f3a91",
    "HEADER": "canary-header-2c4d88",
    "FILTER": "canary-filter-55e0aa",
    "NOTE": "canary-note-90bb12",
    "PARAM": "canary-param-31c7ee",
    "STORE": "canary-store-6d6f02",
    "OPAQUE": "canary-opaque-44aa71",
    "SHORT": "q7x",
    "DB_PASSWORD": "canary-variable-18e4c9",
}
"""By environment variable; the last is not in the job file."""
ROW, CARD, SIGNATURE = "canary-row-0b5f73", 4929123412341234, "canarysignature77"

MODEL = f'''
import logging, os, warnings

class Leaky:
    """Tells what it knows wherever it can."""

    def __init__(self, auth, api_key, headers, nested, mended=False):
        self.known = f"{{auth}} {{api_key!r}} {{headers}} {{nested}} {{os.environ['DB_PASSWORD']}} sig={SIGNATURE}"
        self.mended = mended
        logging.getLogger("leaky").warning("loaded with %s", self.known)
        warnings.warn("made with " + self.known)

    def __call__(self, batch):
        for text, number in zip(batch["text"], batch["card"]):
            if "dies" in text:
                os.abort()
            if "bad" in text and not self.mended:
                logging.getLogger("leaky").warning("denied %s", self.known)
                raise PermissionError(f"denied: {{self.known}}; the row is {{text!r}}, {{number}}")
        return {{"y": [1.0] * len(batch["text"])}}
'''


@pytest.fixture
def job(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    (workplace.folder / "code/leaky.py").write_text(MODEL)
    (workplace.folder / "input").mkdir()
    texts = [f"{'bad' if n in (5, 250) else 'good'} row with {ROW} in it" for n in range(300)]
    columns = {"id": range(300), "text": texts, "card": pa.array([CARD] * 300)}
    pq.write_table(pa.table(columns), workplace.folder / "input/a.parquet")
    return workplace.fields(
        params={"through": "${PARAM}"},
        input={"where": "'${FILTER}' <> 'x' AND id < 290"},
        model={
            "uri": "leaky:Leaky",
            "inputs": {"text": "text", "card": "card"},
            "options": {
                "auth": "${OPTION}",
                "api_key": "${SHORT}",
                "headers": ["Bearer ${HEADER}"],
                "nested": {"deep": "${params.through}"},
            },
        },
        metadata={"note": "${NOTE}"},
        storage={"s3://elsewhere/": {"secret": "${STORE}", "client_kwargs": {"opaque": "${OPAQUE}"}}},
        output={"carry": "key"},
    )


VERBS_IN_TURN = """
import json, sys
from batchinfer.cli.app import app
from batchinfer.cli.exits import leave

codes = []
for verb in json.loads(sys.argv[1]):
    try:
        app(verb)
    except SystemExit as end:
        codes.append(end.code)
with open(sys.argv[2], "w") as file:
    json.dump(codes, file)
leave(0)
"""


def told(*verbs: list[str]) -> tuple[list[int], str]:
    """Exit codes and all that the terminal showed, of verbs in one process."""
    with tempfile.NamedTemporaryFile("r") as codes:
        command = [sys.executable, "-c", VERBS_IN_TURN, json.dumps(verbs), codes.name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.load(codes), done.stdout + done.stderr


def told_alone(*verb: str) -> tuple[int, str]:
    """Exit code and all that the terminal showed."""
    done = subprocess.run([sys.executable, "-m", "batchinfer", *verb], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def found(text: str, *folders: Path) -> list[tuple[str, str]]:
    """Each canary that is shown, and where."""
    places = {"terminal": text}
    for path in (p for folder in folders for p in sorted(folder.rglob("*"))):
        if not path.is_file() or path.is_symlink():
            continue
        places[str(path)] = path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".parquet":
            places[f"{path} decoded"] = str(pq.read_table(path).to_pylist()) + str(pq.read_metadata(path).metadata)
        if path.suffix == ".arrow":
            places[f"{path} decoded"] = str(pa.ipc.open_file(path).read_all().to_pylist())
    known = [*CANARIES.values(), ROW, str(CARD), SIGNATURE]
    hits = [(canary, place) for place, held in places.items() for canary in known if canary in held]
    # Three letters come about by chance in packed bytes.
    return [(c, place) for c, place in hits if len(c) > 3 or not place.endswith((".parquet", ".arrow"))]


@pytest.mark.slow
def test_no_verb_shows_it_and_no_file_holds_it(workplace: Workplace, job: dict[str, Any]) -> None:
    path, output = workplace.folder / "job.json.yaml", str(workplace.folder / "output")
    path.write_text(json.dumps(job))
    codes, text = told(
        ["validate", str(path)],
        ["plan", str(path)],
        ["plan", str(path), "--json"],
        ["run", str(path), "--json", "--log-level", "debug"],
        ["run", str(path)],
        ["retry", str(path)],
    )
    assert codes == [0, 0, 0, 3, 3, 3]
    assert "denied: [hidden]" not in text  # dead letters alone say why
    for place in (str(path), output):
        codes, more = told(
            ["status", place],
            ["status", place, "--json"],
            ["errors", place],
            ["errors", place, "--json", "--resolved"],
            ["verify", place, "--deep"],
            ["verify", place, "--deep", "--json"],
            ["clean", place],
            ["clean", place, "--json"],
        )
        assert codes == [0] * 8
        assert "denied: [hidden] '[hidden]'" in more
        text += more
    codes, more = told(
        ["retry", output, "--json", "--set", "model.options.mended=true"], ["errors", output, "--resolved"]
    )
    assert codes == [0, 0]
    run = open_run(output)
    text += (
        more
        + repr(run)
        + run._repr_html_()
        + repr(run.results().collect())
        + repr(run.errors(resolved=True).to_dicts())
    )
    assert "loaded with [hidden]" in text
    assert "made with [hidden]" in text
    assert found(text, workplace.folder / "output") == []


def test_a_job_that_stops_half_way_leaves_it_in_no_checkpoint_and_no_record(
    workplace: Workplace, job: dict[str, Any]
) -> None:
    table = pq.read_table(workplace.folder / "input/a.parquet")
    pq.write_table(table, workplace.folder / "input/b.parquet")
    (workplace.folder / "input/c.parquet").write_bytes(table.to_string().encode())  # no Parquet, and full of rows
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(job))
    codes, text = told(["run", str(path), "--json"], ["plan", str(path)])
    assert codes == [2, 2]
    (workplace.folder / "input/c.parquet").unlink()
    job = {
        **job,
        "errors": {"on_exceed": "abort"},
        "checkpoint": {"interval": "1ms"},
        "batching": {"rows": 8, "window": 50, "shard": 100},
    }
    path.write_text(json.dumps(job))
    codes, more = told(["run", str(path), "--json"], ["status", str(path), "--json"])
    assert codes == [3, 0]
    assert found(text + more, workplace.folder / "output") == []


@pytest.mark.slow
def test_a_process_that_a_row_ends_tells_it_nowhere(workplace: Workplace, job: dict[str, Any]) -> None:
    table = pq.read_table(workplace.folder / "input/a.parquet")
    texts = [t if n != 9 else f"dies with {ROW}" for n, t in enumerate(table["text"].to_pylist())]
    pq.write_table(table.set_column(1, "text", pa.array(texts)), workplace.folder / "input/a.parquet")
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(job))
    codes, texts = zip(*(told_alone("run", str(path)) for _ in range(3)), strict=True)
    assert codes == (-6, -6, 3)
    text = "".join(texts) + told(["errors", str(path)])[1]
    assert "SIGABRT" in text
    assert "loaded with [hidden]" in text
    assert found(text, workplace.folder / "output") == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("loads", [True, False])
def test_rays_own_files_hold_it_neither(
    workplace: Workplace, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    session = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets lie there: a long path doesn't do
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(session))
        if not loads:
            (workplace.folder / "code/leaky.py").write_text(MODEL.replace("warnings.warn(", "raise OSError("))
        path = workplace.folder / "job.yaml"
        path.write_text(json.dumps({**job, "resources": {"executor": "ray", "workers": 1, "cpus": 1}}))
        codes, text = told(["run", str(path), "--json"], ["errors", str(path)])
        assert codes == [3 if loads else 2, 0]
        assert ("denied: [hidden]" if loads else "made with [hidden]") in text
        logged = "".join(p.read_text(errors="replace") for p in session.rglob("worker-*.err"))
        assert "loaded with [hidden]" in logged
        assert found(text, session, workplace.folder / "output") == []
    finally:
        shutil.rmtree(session)


class Echo(BaseHTTPRequestHandler):
    """A store that refuses every request, and repeats the session's token while it does."""

    def do_GET(self) -> None:
        said = self.headers.get("x-amz-security-token", "")
        body = f"<Error><Code>AccessDenied</Code><Message>denied to {said}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


VERBS = ["status", "errors", "verify", "retry", "clean"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return "canary-token-e1f2a3b4"


def test_a_store_that_repeats_the_jobs_credentials_is_quoted_without_them(
    workplace: Workplace, endpoint: str, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHATEVER", refused)
    options = {
        "endpoint_url": endpoint,
        "key": "${AWS_ACCESS_KEY_ID}",
        "secret": "${AWS_SECRET_ACCESS_KEY}",
        "token": "${WHATEVER}",
    }
    places = {"input": {"path": "s3://lake/in/"}, "output": {"path": "s3://lake/out/"}}
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(workplace.fields(storage={"s3://lake/": options}, **places)))
    codes, text = told(*([verb, str(path)] for verb in [*VERBS, "plan", "run"]))
    assert codes == [2] * 7
    assert text.count("denied to [hidden]") == 7
    assert refused not in text


def test_an_option_of_the_store_is_hidden_whatever_its_key_is_called(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHEREVER", CANARIES["OPAQUE"])
    places = {"input": {"path": "s3://lake/in/"}, "output": {"path": "s3://lake/out/"}}
    path = workplace.folder / "job.yaml"
    path.write_text(json.dumps(workplace.fields(storage={"s3://lake/": {"endpoint_url": "${WHEREVER}"}}, **places)))
    codes, text = told(*([verb, str(path)] for verb in [*VERBS, "plan", "run"]))
    assert codes == [2] * 7
    assert text.count("Invalid endpoint: [hidden]") == 7
    assert CANARIES["OPAQUE"] not in text


def test_a_store_that_repeats_the_environments_credentials_is_quoted_without_them(
    endpoint: str, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", refused)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    codes, text = told(*([verb, "s3://lake/out/"] for verb in VERBS))
    assert codes == [2] * 5
    assert text.count("denied to [hidden]") == 5
    assert refused not in text
    with pytest.raises(AccessError, match=r"denied to \[hidden\]") as raised:
        open_run("s3://lake/out/")
    assert refused not in f"{raised.value} {raised.value.__cause__}"


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    codes, text = told(["status", "s3://someone:canary-in-url@lake/out/"])
    assert codes == [2]
    assert "has a password in it" in text
    assert "canary" not in text
    with pytest.raises(RefusedError, match="password"):
        open_run("s3://someone:canary-in-url@lake/out/")


def test_what_libraries_log_while_a_verb_works_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    import logging
    import warnings

    with logs.kept(Secrets(frozenset({"canary-logged"}))):
        logging.getLogger("some.library").warning("trying again after %s", OSError("denied to canary-logged"))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("canary-logged is old", stacklevel=1)
    shown = capsys.readouterr().err
    assert "trying again after denied to [hidden]" in shown
    assert "[hidden] is old" in shown
    assert "canary-logged" not in shown
