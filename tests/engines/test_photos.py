"""Real images of many formats and modes, good and damaged ones, beside what Pillow says of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from batchinfer.engines.images import decode
from tests.data.helpers import REAL

PHOTOS: dict[str, dict[str, Any]] = {
    f"{row['id']} {row['name']}": row for row in pq.read_table(REAL / "images" / "photos_encoded.parquet").to_pylist()
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_is_decoded_as_by_pillow_or_refused_as_by_it(name: str) -> None:
    data = PHOTOS[name]["bytes"]
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        image.load()
    except Exception:
        image = None
    if image is None or name.endswith(".psd"):  # a format that is left out
        with pytest.raises(ValueError, match=r"^input photo (is no image|can't be decoded)"):
            decode(data, "photo", "RGB")
        return
    got = np.asarray(decode(data, "photo", "RGB"))
    if image.mode == "I;16":
        want = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, 2)
    else:
        want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(got, want)


def test_most_of_them_are_read() -> None:
    outcomes = [row["expected"] for row in PHOTOS.values()]
    assert outcomes.count("good") > 40
    assert outcomes.count("bad") > 10
