"""Labels of images, beside what transformers says when it is used directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from batchinfer.engines.checks import check
from batchinfer.engines.registry import identify, open_engine
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.testing.engines import EngineContract
from tests.engines.models import loaded, vectors
from tests.engines.models import step as model_step
from tests.engines.pictures import decoded_by_pillow, pictures, table

LABELS = ["cat", "dog", "neither"]
OUTPUTS = {"label": "l", "score": "s", "scores": "all"}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "ViT": ({**VIT, "image_size": 24, "patch_size": 8}, "ViT", {"size": {"height": 24, "width": 24}}),
    # It takes the shorter edge to 29 pixels, and crops.
    "ConvNext": (
        {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2},
        "ConvNext",
        {"size": {"shortest_edge": 24}, "crop_pct": 0.8},
    ),
    "ResNet": (
        {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"},
        "Bit",
        {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 20}, "resample": 3},
    ),
}


def tiny(folder: Path, kind: str = "ViT", seed: int = 0, **config: Any) -> str:
    """A small random model of images with a processor of its own, saved to `folder`."""
    sizes, processor, settings = KINDS[kind]
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}Config")(
        **{"initializer_range": 0.6, **sizes},
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        **config,
    )
    model = getattr(transformers, f"{kind}ForImageClassification")(made)
    head = model.classifier if isinstance(model.classifier, torch.nn.Linear) else model.classifier[-1]
    torch.nn.init.normal_(head.weight)  # small at first, so that all images would score alike
    model.save_pretrained(folder)
    name = f"{processor}ImageProcessor"
    (getattr(transformers, f"{name}Pil", None) or getattr(transformers, name))(**settings).save_pretrained(folder)
    return str(folder)


def step(uri: str, outputs: dict[str, Any] | None = None, **options: Any) -> Step:
    return model_step(uri, "image-classification", outputs or OUTPUTS, {"image": "photo"}, **options)


class TestImageClassification(EngineContract):
    def build(self) -> Step:
        return step(tiny(self.folder))

    def rows(self) -> pa.Table:
        return table(pictures())

    def change(self) -> None:
        tiny(self.folder, seed=1)


def directly(folder: Path, images: list[bytes]) -> torch.Tensor:
    """The model's logits."""
    asked = {"backend": "pil"} if transformers.__version__ >= "5" else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **asked)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**processor(images=[decoded_by_pillow(data) for data in images], return_tensors="pt")).logits


def answers(uri: str, images: list[bytes], precision: str = "fp32") -> dict[str, pa.Array]:
    engine = loaded(step(uri), precision)
    return dict(engine.finish(engine.infer(engine.prepare(table(images)).batch(slice(0, len(images))))))


@pytest.mark.parametrize(
    ("config", "function"),
    [
        ({}, lambda logits: logits.softmax(-1)),
        ({"problem_type": "multi_label_classification"}, lambda logits: logits.sigmoid()),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_transformers_used_directly(
    tmp_path: Path, kind: str, config: dict[str, Any], function: Any
) -> None:
    images = pictures(12)
    ours = answers(tiny(tmp_path, kind, **config), images)
    want = function(directly(tmp_path, images)).numpy()
    np.testing.assert_allclose(vectors(ours["scores"]), want, rtol=1e-4, atol=1e-5)
    assert ours["label"].to_pylist() == [LABELS[n] for n in want.argmax(1)]
    np.testing.assert_allclose(ours["score"].to_numpy(), want.max(1), rtol=1e-4, atol=1e-5)
    assert np.ptp(want, axis=0).max() > 0.01


def test_labels_are_those_of_the_pipeline(tmp_path: Path) -> None:
    tiny(tmp_path)
    images = pictures(6)
    asked = {"backend": "pil"} if transformers.__version__ >= "5" else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, **asked)
    pipe = transformers.pipeline("image-classification", model=str(tmp_path), image_processor=processor, device="cpu")
    theirs = pipe([decoded_by_pillow(data) for data in images], top_k=1)
    ours = answers(str(tmp_path), images)
    assert ours["label"].to_pylist() == [found[0]["label"] for found in theirs]
    np.testing.assert_allclose(ours["score"].to_numpy(), [found[0]["score"] for found in theirs], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_come_in_the_precision_of_the_model(tmp_path: Path, kind: str) -> None:
    images = pictures(12)
    ours = answers(tiny(tmp_path, kind), images, "bf16")
    want = directly(tmp_path, images).softmax(-1).numpy()
    assert np.abs(vectors(ours["scores"]) - want).mean() < 0.05


@pytest.mark.slow
def test_a_model_that_is_compiled_is_so_when_it_is_loaded(tmp_path: Path) -> None:
    images, graphs = pictures(5), torch._dynamo.utils.counters["stats"]
    torch.compiler.reset()
    graphs.clear()
    engine = loaded(step(tiny(tmp_path)), "fp32-compiled")
    made = graphs["unique_graphs"]
    assert made
    ours = engine.finish(engine.infer(engine.prepare(table(images)).batch(slice(0, len(images)))))
    assert graphs["unique_graphs"] == made
    np.testing.assert_allclose(vectors(ours["scores"]), directly(tmp_path, images).softmax(-1).numpy(), atol=1e-4)


def test_rows_say_what_their_images_take(tmp_path: Path) -> None:
    engine = loaded(step(tiny(tmp_path)))
    assert engine.prepare(table(pictures())).row_bytes == 3 * 24 * 24 * 4


def test_paths_are_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, data in enumerate(pictures()):
        (tmp_path / "photos" / f"{number}.img").write_bytes(data)
    engine = loaded(step(tiny(tmp_path / "model"), images={"root": str(tmp_path / "photos")}))
    rows = pa.table({"photo": [f"{n}.img" for n in range(7)]})
    got, want = (
        engine.finish(engine.infer(engine.prepare(some).batch(slice(0, 7)))) for some in (rows, table(pictures()))
    )
    assert got["scores"].equals(want["scores"])


def test_a_damaged_image_costs_its_row(tmp_path: Path) -> None:
    prepared = loaded(step(tiny(tmp_path))).prepare(table([pictures()[0], pictures()[1][:-200]]))
    assert prepared.batch(slice(0, 1)).rows == 1
    with pytest.raises(ValueError, match="input image can't be decoded"):
        prepared.batch(slice(0, 2))


@pytest.mark.parametrize(
    ("kind", "error"), [(pa.null(), TypeError), (pa.binary(), TypeError), (pa.int64(), ModelError)]
)
def test_what_can_not_be_an_image_is_told_when_the_window_is_prepared(
    tmp_path: Path, kind: pa.DataType, error: type[Exception]
) -> None:
    with pytest.raises(
        error, match="input image is null" if error is TypeError else "takes a column of encoded images"
    ):
        loaded(step(tiny(tmp_path))).prepare(pa.table({"photo": pa.array([None, None], kind)}))


def test_the_processor_is_part_of_the_identity(tmp_path: Path) -> None:
    before = identify(step(tiny(tmp_path)))
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    assert identify(step(str(tmp_path))).digest != before.digest
    assert "pillow" in before.packages


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": None}, r"model.task: the transformers engine needs one of .*image-classification"),
        ({"inputs": {"text": "photo"}}, "model.inputs.text: image-classification has no such input"),
        ({"inputs": {"image": ["a", "b"]}}, "model.inputs.image: is one column"),
        ({"outputs": {"entities": "e"}}, "model.outputs.entities: image-classification has no such output"),
        ({"options": {"max_length": 5}}, "model.options.max_length: there is no such option"),
        (
            {"options": {"images": {"size": [24, 24]}}},
            r"model.options.images.size: there is no such option; known: root",
        ),
        ({"engine": "onnx"}, "model.task: image-classification is for the transformers engine"),
        ({"engine": "openvino"}, "model.task: image-classification is for the transformers engine"),
    ],
)
def test_wrong_steps_are_told_when_the_job_is_planned(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    what = step(tiny(tmp_path)).model_dump() | change
    with pytest.raises(ModelError, match=words):
        check(Step.model_validate(what))


def test_a_model_without_a_processor_is_refused(tmp_path: Path) -> None:
    what = step(tiny(tmp_path))
    check(what)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"needs preprocessor_config.json"):
        check(what)
    with pytest.raises(ModelError, match="holds no model that transformers can open"):
        open_engine(what).load("cpu", "fp32", 1)


def test_a_processor_of_the_models_own_code_is_not_run(tmp_path: Path) -> None:
    tiny(tmp_path)
    (tmp_path / "reading.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Reader: pass\n")
    file = tmp_path / "preprocessor_config.json"
    file.write_text(
        json.dumps({"image_processor_type": "Reader", "auto_map": {"AutoImageProcessor": "reading.Reader"}})
    )
    with pytest.raises(
        ModelError, match=r"brings code of its own \(reading.Reader\), which is not run unless it is pinned"
    ):
        open_engine(step(str(tmp_path))).load("cpu", "fp32", 1)
    assert not (tmp_path / "ran").exists()
