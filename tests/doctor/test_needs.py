"""What a job lacks on this machine: each thing by itself, and nothing left behind."""

from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.doctor.examine import JobFile, examine
from batchinfer.doctor.finding import State
from batchinfer.doctor.needs import Needs
from batchinfer.doctor.probe import ask
from batchinfer.job.load import load_text
from batchinfer.storage import store

JOB = """\
version: 1
name: x
code: [code]
input: {path: input.parquet}
model: {engine: python, uri: "models:Double", inputs: {x: x}, outputs: {y: y}}
output: {path: out}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "models.py").write_text("raise SystemExit('imported')\nclass Double: ...\n")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "input.parquet")
    return tmp_path


def asked(folder, *, environ=None, seconds=20.0, text=JOB, **settings):
    """What a job needs, by topic: state, text and advice."""
    spec = load_text(text, "job.yaml", folder, set_values=[f"{k}={v}" for k, v in settings.items()])
    found = [f for told in ask(Needs(spec, environ or {}, seconds).probes()) for f in told]
    return {f.topic: f for f in reversed(found)}  # of several of a topic, the first


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_job_that_can_run_here_is_said_to_and_nothing_is_left_behind(folder):
    before = files(folder)
    found = asked(folder)
    assert {f.state for f in found.values()} == {State.FINE}
    assert list(reversed(found)) == ["steps", "model", "workers", "input", "output"]
    assert found["input"].text.startswith("1 file, ")
    assert files(folder) == before
    (folder / "out" / "data").mkdir(parents=True)
    assert asked(folder)["output"].state is State.FINE
    assert files(folder / "out") == ["data"]


@pytest.mark.parametrize(
    ("settings", "topic", "text"),
    [
        ({"input.path": "none/*.parquet"}, "input", "none"),
        ({"input.path": "code/models.py"}, "input", "models.py"),
        ({"input.path": "ftp://x/y"}, "input", "isn't supported"),
        ({"output.path": "ftp://x/y"}, "output", "isn't supported"),
        ({"model.uri": "models:Duoble"}, "model", "did you mean Double"),
        ({"model.uri": "moduls:Double"}, "model", "there is no module moduls"),
        ({"model.engine": "onnx", "model.uri": "no.onnx"}, "model", "there is no file"),
        ({"model.precision": "fp8"}, "model", "runs a model as it is"),
        ({"output.columns": "[z]"}, "steps", "no step computes"),
        ({"resources.gpus": 1}, "gpus", "the job asks for 1 GPU, and there are 0 here"),
        ({"resources.address": "127.0.0.1:1"}, "cluster", "none answers at resources.address: 127.0.0.1:1"),
        ({"cache.path": "code/models.py"}, "cache", "can't be written"),
    ],
    ids=lambda value: "_".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_each_thing_that_is_lacking_is_told(folder, settings, topic, text):
    found = asked(folder, **settings)
    assert found[topic].state is State.WRONG
    assert text in found[topic].text
    assert "input" in found  # the others are looked at all the same
    assert "output" in found


def test_several_things_are_told_at_once(folder):
    found = asked(folder, **{"input.path": "none", "model.uri": "a:B", "output.path": "ftp://x"})
    assert [t for t, f in found.items() if f.state is State.WRONG] == ["output", "input", "model"]


def test_a_package_that_is_missing_comes_with_the_command(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as where it isn't installed
    found = asked(folder, **{"model.engine": "sklearn", "model.uri": "m.skops"})
    assert found["model"].text == "model.engine: sklearn needs the package sklearn"
    assert found["model"].advice == "pip install 'batchinfer[sklearn]'"
    assert "sklearn" not in found  # what isn't there isn't imported


def test_a_library_that_is_there_and_broken_is_told(folder, monkeypatch):
    broken = folder / "broken"
    broken.mkdir()
    (broken / "onnxruntime.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    found = asked(folder, **{"model.engine": "onnx", "model.uri": "no.onnx"})
    assert "libgomp" in found["onnx"].text
    assert found["onnx"].advice == "pip install --force-reinstall onnxruntime"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_place_that_can_not_be_written_is_told(folder):
    (folder / "closed").mkdir(mode=0o500)
    found = asked(folder, **{"output.path": "closed/out"})
    assert "can't be written" in found["output"].text


def test_a_place_that_is_a_file_is_told(folder):
    found = asked(folder, **{"output.path": "code/models.py"})
    assert found["output"].state is State.WRONG
    assert "can't be written" in found["output"].text


class Forgetful:
    """A store on which the second create of a name succeeds too."""

    root = "a store"

    def create(self, path, data):
        return True

    def delete(self, path):
        pass


def test_a_store_without_conditional_creates_is_refused_unless_the_user_answers_for_it(folder, monkeypatch):
    monkeypatch.setattr("batchinfer.doctor.needs.open_store", lambda *_, **__: Forgetful())
    assert asked(folder)["output"].state is State.WRONG
    assert asked(folder, **{"run.single_writer": "true"})["output"].state is State.WARNING


def test_objects_can_be_listed_and_written(folder, s3_server):
    options = {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": s3_server}}
    text = JOB + 'storage: {"s3://lake": {key: "${K}", secret: "${K}", client_kwargs: {endpoint_url: "${E}"}}}\n'
    text = text.replace("path: input.parquet", "path: s3://lake/doctor/").replace("path: out", "path: s3://lake/out")
    spec = load_text(text, "job.yaml", folder, environ={"K": "testing", "E": s3_server})
    lake = store.open_store("s3://lake", {"s3://lake": options})
    lake.put("doctor/a.parquet", (folder / "input.parquet").read_bytes())
    found = {f.topic: f for told in ask(Needs(spec, {}).probes()) for f in told}
    assert {f.state for f in found.values()} == {State.FINE}
    assert lake.list("out") == []  # the probe took its object away


def test_a_store_that_does_not_answer_is_told_in_time(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = JOB + f'storage: {{"s3://lake": {{key: "${{K}}", secret: "${{K}}", endpoint_url: "{url}"}}}}\n'
        spec = load_text(text.replace("input.parquet", "s3://lake/x"), "job.yaml", folder, environ={"K": "testing"})
        begun = time.monotonic()
        found = {f.topic: f for told in ask(Needs(spec, {}, 1.5).probes()) for f in told}
        assert time.monotonic() - begun < 10
    assert (found["input"].state, found["input"].text) == (State.WRONG, "no answer within 1.5 s")
    assert found["output"].state is State.FINE


def test_a_model_of_the_hub_that_is_not_here_is_not_downloaded(folder):
    model = {"model.engine": "transformers", "model.uri": "hf:no-such-org/model", "model.task": "embedding"}
    model |= {"model.inputs": "{text: x}", "model.outputs": "{embedding: y}"}
    found = asked(folder, environ={"HF_HUB_OFFLINE": "1"}, **model)
    assert "HF_HUB_OFFLINE is set" in found["model"].text
    assert "hf download no-such-org/model" in found["model"].advice
    assert "can't be reached" in asked(folder, environ={"HF_ENDPOINT": "http://127.0.0.1:1"}, **model)["model"].text
    assert "no address" in asked(folder, environ={"HF_ENDPOINT": "file:///etc/passwd"}, **model)["model"].text


class Refusing(http.server.BaseHTTPRequestHandler):
    """An S3 that refuses, and repeats what it was told."""

    def do_GET(self):
        told = f"{self.headers['Authorization']} {self.path}"
        body = f"<Error><Code>AccessDenied</Code><Message>{told} {' '.join(SECRETS)}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_DELETE = do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


SECRETS = (
    "AKIAABCDEFGHIJKLMNOP",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCY",
    "hf_abcdefghijklmnopqrst",
    "p4ss-of-the-database",
    "plainly-named-1",
)


def test_no_secret_is_told_by_an_examination_of_a_job_whose_store_repeats_them(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ = {
        "AWS_ACCESS_KEY_ID": SECRETS[0],
        "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        "HF_TOKEN": SECRETS[2],
        "LAKE": SECRETS[4],  # whose name doesn't tell
        "MLFLOW_TRACKING_URI": f"http://me:{SECRETS[3]}@127.0.0.1:1",
        "RAY_ADDRESS": f"ray://{SECRETS[3]}:1",
        "HF_ENDPOINT": f"http://me:{SECRETS[3]}@127.0.0.1:1",
        "E": f"http://127.0.0.1:{server.server_address[1]}",
    }
    (folder / ".aws").mkdir()
    (folder / ".aws" / "credentials").write_text("\n".join(SECRETS))
    text = JOB.replace("input.parquet", "s3://lake/x").replace("path: out", "path: s3://lake/out")
    text += 'storage: {"s3://lake": {key: "${AWS_ACCESS_KEY_ID}", secret: "${LAKE}", endpoint_url: "${E}"}}\n'
    (folder / "job.yaml").write_text(text)
    found = examine(environ, folder, JobFile(str(folder / "job.yaml")))
    server.shutdown()
    told = str(found.to_json())
    assert not [secret for secret in SECRETS if secret in told]
    assert found.exit_code == 2
    by_topic = {f.topic: f for f in found.findings}
    assert "refused" in by_topic["input"].text
    assert "[hidden]" in by_topic["output"].text  # the store did repeat them
    assert "AWS_SECRET_ACCESS_KEY" in by_topic["AWS"].text
