"""Damaged files: rows, or an error that names the file; never the end of the process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.damage import LAYOUTS, at_random, damaged, footer_of, read_apart, sound, with_footer

EDIT = st.tuples(
    st.sampled_from(["flip", "replace", "insert", "remove"]), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=6)
)


def zigzag(number: int) -> bytes:
    """As Thrift's compact protocol writes an integer."""
    value, out = number * 2, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def lying(old: int, new: int) -> bytes:
    """A file whose footer has another number wherever it had this one."""
    data = sound(compression="none", use_dictionary=False)
    start, stop = footer_of(data)
    changed = data[start:stop].replace(zigzag(old), zigzag(new))
    assert changed != data[start:stop]
    return with_footer(data, changed)


WHOLE = sound(compression="none", use_dictionary=False)
CHECKED = sound(compression="none", use_dictionary=False, write_page_checksum=True)
TEXT = b"text 3"
REFUSED = {
    "nothing": b"",
    "only magic": b"PAR1",
    "twice magic": b"PAR1" * 3,
    "wrong magic": WHOLE[:-4] + b"PAR2",
    "text": b"id,x\n" * 100,
    "no end": WHOLE[:-20],
    "half": WHOLE[: len(WHOLE) // 2],
    "a footer of no length": WHOLE[:-8] + bytes(4) + b"PAR1",
    "a footer longer than the file": WHOLE[:-8] + b"\xff\xff\xff\x7fPAR1",
    "a footer cut at its end": with_footer(WHOLE, WHOLE[slice(*footer_of(WHOLE))][:-30]),
    "a page that isn't there": with_footer(
        WHOLE[: footer_of(WHOLE)[0] // 2] + bytes(8), WHOLE[slice(*footer_of(WHOLE))]
    ),
    "a bit of a page with a checksum": CHECKED.replace(TEXT, b"tfxt 3", 1),
    "more rows than there are": lying(60, 61),
    "as many rows as bytes can't hold": lying(60, 1 << 40),
    "sizes of exabytes": lying(480 + 24, 1 << 60) if zigzag(504) in WHOLE else lying(60, 1 << 62),
}


def test_what_cant_be_read_is_refused_by_name(tmp_path: Path) -> None:
    files = []
    for case, content in REFUSED.items():
        files.append(tmp_path / f"{case}.parquet")
        files[-1].write_bytes(content)
    assert dict(zip(REFUSED, read_apart(files), strict=False)) == dict.fromkeys(REFUSED, "refused")


def test_a_flipped_bit_without_a_checksum_is_another_value(tmp_path: Path) -> None:
    file = tmp_path / "flipped.parquet"
    file.write_bytes(WHOLE.replace(TEXT, b"tfxt 3", 1))
    assert read_apart([file]) == ["rows"]


@pytest.mark.parametrize("seeds", [range(1500), range(1500, 3000)], ids=str)
def test_a_file_damaged_at_random_never_ends_the_process(tmp_path: Path, seeds: range) -> None:
    files = []
    for seed in seeds:
        files.append(tmp_path / f"{seed}.parquet")
        files[-1].write_bytes(at_random(seed))
    outcomes = Counter(read_apart(files))
    assert set(outcomes) == {"rows", "refused"}, outcomes
    assert min(outcomes.values()) > len(seeds) // 20


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batch=st.lists(
        st.tuples(st.sampled_from(LAYOUTS), st.lists(EDIT, min_size=1, max_size=6), st.booleans()),
        min_size=40,
        max_size=60,
    )
)
def test_no_damage_ends_the_process(tmp_path_factory: pytest.TempPathFactory, batch: list) -> None:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("damaged")
    files = []
    for n, (layout, edits, in_footer) in enumerate(batch):
        files.append(folder / f"{n}.parquet")
        files[-1].write_bytes(damaged(sound(**layout), edits, in_footer=in_footer))
    assert set(read_apart(files)) <= {"rows", "refused"}
