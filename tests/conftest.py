from __future__ import annotations

import fcntl
import json
import logging
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # a slow one fails no test
hypothesis.settings.load_profile("any machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # The suite was started in the background, which the programs that it starts and interrupts would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "the long run of faults: pytest -m chaos tests/chaos")
    group.addoption("--seed", type=int, default=0, help="of everything random in it")
    group.addoption("--repeat", type=int, default=1, help="how often each of its tests runs")
    group.addoption("--table", metavar="FILE", help="where its results go as JSON")


TRIALS: list[dict[str, Any]] = []
"""What the chaos tests of this session came to, from whichever process they ran in."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        TRIALS.extend(value for name, value in report.user_properties if name == "trial")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not TRIALS:
        return
    from tests.chaos.table import Trial, table

    terminalreporter.section(f"chaos, seed {config.getoption('--seed')}")
    terminalreporter.write_line(table([Trial.from_json(value) for value in TRIALS]))
    if target := config.getoption("--table"):
        Path(target).write_text(json.dumps(TRIALS, indent=1))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test measures is remembered for no other one, nor for the user who runs the tests; what it compiles, which takes long, is."""
    monkeypatch.setenv("BATCHINFER_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), "batchinfer-tests-inductor")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where tests run in several processes (-n), those that start a Ray wait for each other: two that start at once have hung."""
    if item.get_closest_marker("ray") is None:
        return (yield)
    with Path(tempfile.gettempdir(), "batchinfer-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this session's own, with the bucket `lake`."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="lake")
    yield url
    server.stop()
