"""Jobs over images from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer import Job
from batchinfer.errors import RefusedError
from tests.engines.pictures import MODULE, encoded, means, picture, pictures

COUNT = 60
MISSING, NOTHING, CUT, ELSEWHERE = 3, 17, 18, 40


def image(number: int) -> bytes:
    data = pictures(7)[number % 7] if number % 3 else encoded(picture(30 + number, 30, number))
    return data[: len(data) // 2] if number == CUT else data


def write(folder: Path, kind: str) -> None:
    """60 rows of which some have no image, as bytes or as paths below `photos`."""
    (folder / "photos" / "deep").mkdir(parents=True)
    photos: list[Any] = []
    for number in range(COUNT):
        if kind == "bytes":
            photos.append({NOTHING: None, MISSING: b"", ELSEWHERE: b"a text"}.get(number, image(number)))
            continue
        name = f"deep/{number}.img"
        if number != MISSING:
            (folder / "photos" / name).write_bytes(image(number))
        photos.append({NOTHING: None, ELSEWHERE: "/etc/passwd"}.get(number, name))
    pq.write_table(pa.table({"id": range(COUNT), "photo": photos}), folder / "in.parquet")


def job_file(folder: Path, engine: str, uri: str) -> Path:
    """Its paths are relative to the folder."""
    (folder / "job.yaml").write_text(f"""
version: 1
name: photos
code: [.]
input: {{path: in.parquet, key: id}}
model:
  engine: {engine}
  uri: {uri}
  inputs: {{pixels: photo}}
  outputs: {{means: means}}
  options: {{images: {{size: [12, 16], scale: 1.0, root: photos}}}}
errors: {{threshold: 4}}
output: {{path: out}}
resources: {{executor: inline}}
""")
    return folder / "job.yaml"


@pytest.mark.parametrize("kind", ["bytes", "paths"])
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_each_bad_image_is_one_dead_row_with_its_reason(tmp_path: Path, kind: str, engine: str) -> None:
    write(tmp_path, kind)
    (tmp_path / "nets.py").write_text(MODULE)
    means(tmp_path / "net.onnx", [3, 12, 16])
    run = Job.from_yaml(job_file(tmp_path, engine, "nets:Plain" if engine == "torch" else "net.onnx")).run()
    assert run.exit_code == 0
    letters = {row["source_row"]: row for row in run.errors().to_dicts()}
    assert letters.keys() == {MISSING, NOTHING, CUT, ELSEWHERE}
    assert letters[NOTHING]["error_type"] == "TypeError"
    assert all(letters[row]["error_type"] == "ValueError" for row in (MISSING, CUT, ELSEWHERE))
    assert all("input pixels" in letter["message"] for letter in letters.values())
    rows = run.results().collect().to_dicts()
    assert [row["id"] for row in rows] == [n for n in range(COUNT) if n not in letters]
    from PIL import Image

    for row in rows:
        file = tmp_path / "upright"
        file.write_bytes(image(row["id"]))
        want = np.asarray(Image.open(file).convert("RGB").resize((16, 12), Image.Resampling.BILINEAR)).mean((0, 1))
        np.testing.assert_allclose(row["means"], want, rtol=1e-4)


def test_the_jobs_storage_options_are_those_of_the_store_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that nobody is at: what is said of its address shows that the options came there."""
    monkeypatch.setenv("SECRET", "not to be told")
    write(tmp_path, "paths")
    means(tmp_path / "net.onnx", [3, 12, 16])
    file = job_file(tmp_path, "onnx", "net.onnx")
    options = 'storage: {"s3://bucket/": {key: "${SECRET}", secret: "${SECRET}", endpoint_url: "no address"}}'
    file.write_text(file.read_text().replace("root: photos", "root: s3://bucket/photos") + options)
    with pytest.raises(RefusedError, match="no address"):
        Job.from_yaml(file).run()


@pytest.mark.parametrize("kind", ["bytes", "paths"])
def test_answers_are_not_kept_for_files_which_may_change(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    means(tmp_path / "net.onnx", [3, 12, 16])
    file = job_file(tmp_path, "onnx", "net.onnx")
    text = file.read_text() + "cache: {path: kept}\n"
    if kind == "bytes":
        text = text.replace(", root: photos", "")
    file.write_text(text)
    before = Job.from_yaml(file).run().results().collect()["means"].to_list()
    (tmp_path / "photos/deep/0.img").write_bytes(encoded(picture(seed=77)))
    file.write_text(text.replace("path: out", "path: other"))
    run = Job.from_yaml(file).run()
    after = run.results().collect()["means"].to_list()
    assert (tmp_path / "kept").exists()
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) == (kind == "paths")
    reused = run.record["usage"]["steps"]["model"]["reused"]
    assert reused == (len(after) if kind == "bytes" else 0)
