"""Models by URL: what is fetched and when, and what a machine's cache makes of damage, change, and several processes at once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from batchinfer.engines.checks import check, check_model
from batchinfer.engines.fetched import fetch, path_of
from batchinfer.engines.registry import bring, identify, open_engine, pin, precisions
from batchinfer.errors import AccessError, MissingExtraError, ModelError, RefusedError
from batchinfer.job.steps import Step
from batchinfer.testing.stores import FaultyFileSystem
from tests.chaos.proxy import Rule
from tests.engines.graphs import affine
from tests.engines.models import tiny
from tests.lake import KEYS, Lake, forget, size_of

MODEL = bytes(range(256)) * 100_000
"""More than one piece."""
FETCH = """
import json, sys
from batchinfer.engines.fetched import fetch
print(fetch(sys.argv[1], json.loads(sys.argv[2]), "model.uri"))
"""


@pytest.fixture
def cache() -> Path:
    return Path(os.environ["BATCHINFER_CACHE"])


@pytest.fixture
def lake(s3_server: str, tmp_path: Path) -> Iterator[Lake]:
    with Lake(s3_server, f"{tmp_path.name}-{time.monotonic_ns()}") as made:
        yield made


def in_memory(name: str, data: bytes) -> str:
    """Store an object in this process's memory, and give its URL."""
    fsspec.filesystem("memory").pipe_file(f"/models/{name}", data)
    return f"memory://models/{name}"


def processes(count: int, uri: str, lake: Lake) -> list[subprocess.Popen[str]]:
    import json

    command = [sys.executable, "-c", FETCH, uri, json.dumps(lake.storage)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def content(uri: str) -> bytes:
    return path_of(uri, "model.uri").read_bytes()


def test_a_file_is_fetched_once_whatever_asks_for_it_and_byte_for_byte(lake: Lake, cache: Path) -> None:
    url = lake.put("m.bin", MODEL)
    pinned = fetch(url, lake.storage, "model.uri")
    assert (lake.sent, content(pinned)) == (len(MODEL), MODEL)
    assert path_of(pinned, "model.uri").name == "m.bin"
    assert fetch(url, lake.storage, "model.uri") == pinned  # what is planned again
    asked = lake.requests.total()
    assert fetch(pinned, lake.storage, "model.uri") == pinned  # what a worker loads: asks nothing
    assert (lake.sent, lake.requests.total()) == (len(MODEL), asked)
    forget(cache)  # another machine
    assert fetch(pinned, lake.storage, "model.uri") == pinned
    assert (lake.sent, content(pinned)) == (2 * len(MODEL), MODEL)


def test_a_folder_comes_with_all_that_lies_in_it(lake: Lake, tmp_path: Path) -> None:
    for name, data in {"a.json": b"{}", "deep/er/b.bin": b"12", "empty": b""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    url = lake.put_folder("model", tmp_path)
    lake.put("model-2/beside.bin", b"no")
    lake.put("model/deep", b"")  # what some tools store for a folder
    found = path_of(fetch(url, lake.storage, "model.uri"), "model.uri")
    files = {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}
    assert files == {"a.json": b"{}", "deep/er/b.bin": b"12", "empty": b""}
    assert lake.sent == 4


def test_of_several_processes_one_fetches_and_the_others_have_it_from_the_cache(lake: Lake) -> None:
    url = lake.put("m.bin", MODEL)
    lake.rules.append(Rule("stall", verb="GET", path=r"m\.bin", times=1, seconds=1.5))  # they all come meanwhile
    told = {process.communicate(timeout=120)[0].strip() for process in processes(4, url, lake)}
    assert len(told) == 1
    assert (lake.sent, content(told.pop())) == (len(MODEL), MODEL)


def test_what_a_killed_process_left_is_no_model(lake: Lake, cache: Path) -> None:
    url = lake.put("m.bin", MODEL)
    lake.rules.append(Rule("stall", verb="GET", path=r"m\.bin", seconds=60))
    (process,) = processes(1, url, lake)
    while not lake.struck["stall"]:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert size_of(cache / "fetching") == 0
    lake.rules.clear()
    before = lake.sent
    assert content(fetch(url, lake.storage, "model.uri")) == MODEL
    assert lake.sent - before == len(MODEL)
    assert [path.suffix for path in (cache / "fetching").iterdir()] == [".lock"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(MODEL[:-1] + bytes([MODEL[-1] ^ 1]))


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("planned", [True, False], ids=["by the worker", "by planning"])
def test_what_is_damaged_in_the_cache_is_fetched_again(harm: Callable[[Path], None], planned: bool, lake: Lake) -> None:
    url = lake.put("m.bin", MODEL)
    pinned = fetch(url, lake.storage, "model.uri")
    harm(path_of(pinned, "model.uri"))
    assert fetch(pinned if planned else url, lake.storage, "model.uri") == pinned
    assert (lake.sent, content(pinned)) == (2 * len(MODEL), MODEL)


@pytest.mark.parametrize("note", [b"", b"0" * 63, b"0" * 64, b"\xff"])
def test_a_torn_note_of_what_a_version_held_costs_a_download(note: bytes, lake: Lake, cache: Path) -> None:
    url = lake.put("m.bin", b"1")
    pinned = fetch(url, lake.storage, "model.uri")
    (kept,) = (cache / "fetched").iterdir()
    kept.write_bytes(note)
    assert fetch(url, lake.storage, "model.uri") == pinned
    assert lake.sent == 2


def test_a_model_that_changed_is_another_one_for_a_plan_and_refused_by_name_for_a_worker(
    lake: Lake, cache: Path
) -> None:
    old = fetch(lake.put("m.bin", b"old"), lake.storage, "model.uri")
    new = fetch(lake.put("m.bin", b"new"), lake.storage, "model.uri")
    assert old != new
    assert (content(old), content(new)) == (b"old", b"new")  # as long as the cache has it, the planned one is used
    assert fetch(old, lake.storage, "model.uri") == old
    forget(cache)
    with pytest.raises(ModelError, match=rf"^model\.uri: {lake.root}/m\.bin is not what it was.*plan the job anew"):
        fetch(old, lake.storage, "model.uri")
    assert not list(cache.glob("artefacts/*"))


class Changing(FaultyFileSystem):
    """Whose object is replaced while it is read."""

    cachable = False
    holds: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(self._replace, **options)
        self.store = self.holds

    def _replace(self, verb: str, n: int) -> None:
        if verb == "cat_file":
            self.pipe_file("/m.bin", b"later")


def test_a_model_that_changes_while_it_is_fetched_is_refused() -> None:
    fsspec.register_implementation("memory", Changing, clobber=True)
    try:
        Changing().pipe_file("/m.bin", b"first")
        with pytest.raises(ModelError, match=r"model\.uri: memory://m\.bin changed while it was fetched"):
            fetch("memory://m.bin", {}, "model.uri")
    finally:
        fsspec.register_implementation("memory", "fsspec.implementations.memory.MemoryFileSystem", clobber=True)


@pytest.mark.parametrize("name", ["bad/../../../up", "bad/a//x", "bad/./x"])
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str, cache: Path) -> None:
    fsspec.filesystem("memory").store[f"/models/{name}"] = fsspec.filesystem("memory").open("/models/bad/ok", "wb")
    try:
        with pytest.raises(ModelError, match=r"model\.uri: .* holds an object .*, which can be no file"):
            fetch("memory://models/bad", {}, "model.uri")
    finally:
        fsspec.filesystem("memory").store.clear()
    assert not [path for path in cache.rglob("*") if path.name in ("up", "x")]


def test_what_can_not_be_fetched_is_told_by_its_key(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=rf"^model\.uri: nothing is stored at {lake.root}/none"):
        fetch(f"{lake.root}/none", lake.storage, "model.uri")
    with pytest.raises(RefusedError, match=r"^model\.uri: .*protocol 'http' isn't supported"):
        fetch("http://host/model.onnx", {}, "model.uri")
    lake.rules.append(Rule("403"))
    with pytest.raises(AccessError, match=r"^model\.uri: .*credentials"):
        fetch(f"{lake.root}/m.bin", lake.storage, "model.uri")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        MissingExtraError, match=r"^model\.uri: gs://b/m needs the package gcsfs: pip install 'batchinfer\[gcs\]'"
    ):
        fetch("gs://b/m", {}, "model.uri")
    monkeypatch.setenv("BATCHINFER_CACHE", "/dev/null/x")
    with pytest.raises(ModelError, match=r"^model\.uri: .*can't be kept in /dev/null/x: .*BATCHINFER_CACHE"):
        fetch(in_memory("m.bin", b"1"), {}, "model.uri")


def test_what_was_not_fetched_is_no_path() -> None:
    with pytest.raises(ModelError, match=r"model\.uri: s3://b/m wasn't fetched"):
        path_of("s3://b/m", "model.uri")


# By engine: the same model by a path and by a URL.


def columns(engine: str, uri: str, **keys: Any) -> Step:
    inputs = keys.pop("inputs", {"x": ["a", "b", "c"]})
    return Step.model_validate({"engine": engine, "uri": uri, "inputs": inputs, "outputs": {"y": "y"}, **keys})


def graph(folder: Path, **save: Any) -> Path:
    generator = np.random.default_rng(5)
    path = folder / "affine.onnx"
    affine(path, generator.normal(size=(3, 200)).astype("f4"), generator.normal(size=200).astype("f4"), **save)
    return path


def beside(folder: Path) -> Path:
    """A graph with its weights in another file; the model is the folder."""
    (folder / "split").mkdir()
    graph(folder / "split", save_as_external_data=True, location="weights", size_threshold=0)
    return folder / "split"


def script(folder: Path) -> Path:
    import torch

    torch.manual_seed(1)
    torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)).save(folder / "linear.pt")
    return folder / "linear.pt"


def texts(folder: Path) -> Path:
    return Path(tiny(folder / "bert", "BertModel", ["x"]))


ROWS = pa.table(
    {
        **{name: np.arange(6, dtype="f4") * n for n, name in enumerate("abc", 1)},
        "t": ["cat", "mat in berlin", "a", "sat", "b", "c"],
    }
)
EMBEDDING = {"task": "embedding", "inputs": {"text": "t"}, "outputs": {"embedding": "y"}}


def values(step: Step) -> list[Any]:
    engine = open_engine(step)
    engine.load("cpu", precisions(step, "cpu")[0], 1)
    (column,) = engine.finish(engine.infer(engine.prepare(ROWS).batch(slice(0, 6)))).values()
    found: list[Any] = column.to_pylist()
    return found


@pytest.mark.parametrize(
    ("engine", "make", "keys"),
    [
        ("onnx", graph, {}),
        ("onnx", beside, {}),
        ("openvino", graph, {}),
        ("torch", script, {}),
        ("transformers", texts, EMBEDDING),
        ("openvino", texts, EMBEDDING),
    ],
)
@pytest.mark.slow
def test_an_engine_gives_of_a_url_what_it_gives_of_a_path(
    engine: str, make: Callable[[Path], Path], keys: dict[str, Any], tmp_path: Path, lake: Lake, cache: Path
) -> None:
    model = make(tmp_path)
    local = columns(engine, str(model), **keys)
    url = lake.put_folder("m", model) if model.is_dir() else lake.put(model.name, model.read_bytes())
    step = columns(engine, url, **keys)
    check(step)
    assert lake.sent == 0
    pinned = pin(step, lake.storage)
    check_model(pinned)
    # Wherever it lies it is the same model for the fingerprint.
    assert identify(pinned) == identify(local)
    assert values(pinned) == values(local)
    assert lake.sent == (size_of(model) if model.is_dir() else model.stat().st_size)
    forget(cache)
    bring(pinned, lake.storage)
    assert values(pinned) == values(local)


def test_weights_of_a_class_are_fetched_too(tmp_path: Path, lake: Lake) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "nets.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(3, 2)\n"
    )
    torch.manual_seed(2)
    save_file(dict(torch.nn.Linear(3, 2).state_dict()), tmp_path / "w.safetensors")
    url = lake.put("w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    step = columns("torch", "nets:Net", options={"weights": url})
    code = [str(tmp_path)]
    check(step, code)
    pinned = pin(step, lake.storage)
    check_model(pinned, code)
    local = columns("torch", "nets:Net", options={"weights": str(tmp_path / "w.safetensors")})
    assert pinned.options["weights"].startswith(f"{url}@sha256:")
    assert identify(pinned, code) == identify(local, code)
    with pytest.raises(ModelError, match=r"model\.options\.weights: nothing is stored at"):
        pin(columns("torch", "nets:Net", options={"weights": f"{url}.no"}), lake.storage)


def test_a_file_url_is_a_path(tmp_path: Path, cache: Path) -> None:
    model = graph(tmp_path)
    step = columns("onnx", f"file://{model}")
    assert pin(step, {}) == step
    check(step)
    assert values(step) == values(columns("onnx", str(model)))
    assert not list(cache.glob("artefacts/*"))


def test_what_is_wrong_with_a_fetched_model_is_told_by_its_url(lake: Lake, tmp_path: Path) -> None:
    url = lake.put("m.onnx", b"no graph")
    step = columns("onnx", url)
    check(step)
    pinned = pin(step, lake.storage)
    with pytest.raises(ModelError, match=rf"^model\.uri: {url} is no ONNX file"):
        check_model(pinned)
    with pytest.raises(ModelError, match="options"):
        check(columns("onnx", url, options={"no": 1}))
    fine = lake.put("g.onnx", graph(tmp_path).read_bytes())
    with pytest.raises(ModelError, match=r"model\.precision: .* runs at fp32 or int8 here, not at bf16"):
        check_model(pin(columns("onnx", fine, precision="bf16"), lake.storage))


def test_a_digest_that_the_job_file_has_pins_the_model(lake: Lake) -> None:
    url = lake.put("m.bin", b"1")
    pinned = fetch(url, lake.storage, "model.uri")
    lake.put("m.bin", b"2")
    with pytest.raises(ModelError, match="is not what it was"):
        fetch(f"{url}@sha256:{hashlib.sha256(b'no').hexdigest()}", lake.storage, "model.uri")
    assert fetch(pinned, lake.storage, "model.uri") == pinned


def test_keys_are_those_of_the_storage_section(lake: Lake) -> None:
    url = lake.put("m.bin", b"1")
    with pytest.raises(RefusedError, match=r"^model\.uri: "):
        fetch(url, {"s3://lake/": {**KEYS, "endpoint_url": "no address"}}, "model.uri")
    assert fetch(url, lake.storage, "model.uri")
