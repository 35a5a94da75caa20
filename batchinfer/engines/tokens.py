"""Texts as token ids: a window is tokenised in one go, kept flat, and cut into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchinfer.engines.batches import TensorBatch
from batchinfer.engines.inputs import contiguous, to_numpy
from batchinfer.engines.protocol import Rows
from batchinfer.errors import ModelError

CALL_CHARACTERS = 16 << 20
"""Characters for one call of the tokenizer at most: its own results are many times as large as the text."""

_AFTER_PADDING = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "longformer",
    "mpnet",
    "data2vec-text",
    "esm",
}
"""Model types that number positions from behind the padding id, and so have that many fewer than they say."""


@dataclass(frozen=True)
class Format:
    """How a model wants its tokens."""

    pad_id: int
    type_ids: bool
    """Whether the model takes token_type_ids, which tell the two texts of a pair apart."""
    types_vary: bool = False
    """Whether the tokenizer gives other type ids than 0: reading zeros out of it takes time."""
    spans: bool = False
    """Whether the head needs to know where in the text each token stands."""
    pin: bool = False
    """Whether batches go to page-locked memory, from which a CUDA device copies without waiting."""


@dataclass(frozen=True)
class TextBatch(TensorBatch):
    """Rows of one width, padded on the right: token ids, attention mask and perhaps type ids as int64 tensors of shape (rows, width)."""

    spans: NDArray[np.int32] | None = None
    """First character of each token and the one after its last, shape (rows, width, 2); where the head needs it."""
    real: NDArray[np.bool_] | None = None
    """Which positions are tokens of the text, not special ones or padding, shape (rows, width); with `spans`."""


class TextRows:
    """One window of tokenised texts, as `tokenised` gives them. All tokens lie behind one another, row i from `starts[i]` on for
    `lengths[i]`.
    """

    row_bytes = None

    def __init__(self, tokens: pa.Table, format_: Format) -> None:
        self._format = format_
        self._lengths = to_numpy(pc.list_value_length(tokens["ids"])).astype(np.int64)
        self._truncated = to_numpy(tokens["cut"])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._ids = _values(tokens, "ids")
        self._types = _values(tokens, "types") if format_.types_vary else None
        self._spans = _values(tokens, "spans").reshape(-1, 2) if format_.spans else None
        self._special = _values(tokens, "special").view(np.bool_) if format_.spans else None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row after cutting, special ones too, shape (rows,)."""
        return self._lengths

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """Which rows were cut to the maximum length, shape (rows,)."""
        return self._truncated

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, rows: Rows) -> TextBatch:
        """These rows, padded on the right to their longest."""
        import torch

        lengths, starts = self._lengths[rows], self._starts[rows]
        columns = np.arange(lengths.max(initial=0))
        mask = columns < lengths[:, None]
        positions = np.where(mask, starts[:, None] + columns, 0)
        tensors = {
            "input_ids": np.where(mask, self._ids[positions], self._format.pad_id).astype(np.int64),
            "attention_mask": mask.astype(np.int64),
        }
        if self._format.type_ids:
            types = np.zeros(mask.shape, np.int64) if self._types is None else self._types[positions].astype(np.int64)
            tensors["token_type_ids"] = np.where(mask, types, 0)
        on_host = {name: torch.from_numpy(array) for name, array in tensors.items()}
        if self._format.pin:
            on_host = {name: tensor.pin_memory() for name, tensor in on_host.items()}
        if self._spans is None or self._special is None:
            return TextBatch(len(lengths), on_host)
        return TextBatch(len(lengths), on_host, self._spans[positions], mask & ~self._special[positions])


def tokenised(
    tokenizer: Any, columns: Sequence[pa.ChunkedArray], prefix: str, format_: Format, limit: int = CALL_CHARACTERS
) -> pa.Table:
    """Texts, or pairs of texts, of one window as tokens; `tokenizer` (tokenizers.Tokenizer) cuts and does not pad.

    Columns, of lists but the last: `ids`; `types` and `spans` (two numbers for each token) with `special` (1 where a token is none of the
    text's) as the format has them; `cut`, whether the text was. Raises TypeError "text is null" or "text is … , not a string", and
    ValueError for a text that gives no tokens.
    """
    texts = [_strings(column) for column in columns]
    if prefix:
        texts[0] = [prefix + text for text in texts[0]]
    rows: list[Any] = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
    sizes = [sum(map(len, row)) for row in zip(*texts, strict=True)]
    encode = tokenizer.encode_batch if format_.spans else tokenizer.encode_batch_fast
    tables = [_table(encode(rows[start:stop]), format_) for start, stop in calls(sizes, limit)]
    return pa.concat_tables(tables or [_table([], format_)]).combine_chunks()


def _table(encodings: Sequence[Any], format_: Format) -> pa.Table:
    """What the tokenizer gives for one call."""
    lengths = np.fromiter(map(len, encodings), np.int32, len(encodings))
    if lengths.size and not lengths.min():
        raise ValueError("text gives no tokens")
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = {"ids": _flat((encoding.ids for encoding in encodings), np.int32)}
    if format_.types_vary:
        columns["types"] = _flat((encoding.type_ids for encoding in encodings), np.int32)
    if format_.spans:
        columns["spans"] = _flat((chain.from_iterable(encoding.offsets) for encoding in encodings), np.int32)
        columns["special"] = _flat((encoding.special_tokens_mask for encoding in encodings), np.uint8)
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array(ends * (2 if name == "spans" else 1)), pa.array(flat))
        for name, flat in columns.items()
    }
    return pa.table({**lists, "cut": pa.array([bool(e.overflowing) for e in encodings], pa.bool_())})


def _values(tokens: pa.Table, name: str) -> NDArray[Any]:
    """All values of a column of lists."""
    return to_numpy(contiguous(tokens[name]).flatten())


def longest(config: Mapping[str, Any], bound: float | None, wanted: int | None, asked: str | None) -> int | None:
    """Tokens after which a text is cut; None where nothing bounds it.

    `config` is the model's config.json, `bound` its tokenizer's maximum, `wanted` what the job or the model's other files
    say, and `asked` the job's key where it was the job. Raises ModelError for more than the model has.
    """
    positions = config.get("max_position_embeddings")
    positions = positions if isinstance(positions, int) and positions > 0 else None
    if positions is not None and config.get("model_type") in _AFTER_PADDING:
        positions -= int(config.get("pad_token_id") or 0) + 1
    if wanted is not None and positions is not None and wanted > positions:
        if asked is not None:
            raise ModelError(f"{asked}: {wanted} is more than the model's {positions} positions")
        wanted = positions
    if wanted is not None:
        return wanted
    # A tokenizer that knows no bound says 1e30.
    bounds = [int(most) for most in (positions, bound) if most is not None and most < 1e9]
    return min(bounds, default=None)


def cut_at(tokenizer: Any, length: int | None, where: str, *, pair: bool) -> None:
    """Have a tokenizers.Tokenizer cut at `length` tokens, None for never. Raises ModelError for less than it adds itself."""
    if length is None:
        tokenizer.no_truncation()
        return
    special = tokenizer.num_special_tokens_to_add(pair)
    if length <= special:
        raise ModelError(f"{where}: {length} leaves no room beside {special} special tokens")
    tokenizer.enable_truncation(length)


def calls(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows of at most `limit` characters each, or of one row; one range for ordinary windows."""
    start = characters = 0
    for row, size in enumerate(sizes):
        if row > start and characters + size > limit:
            yield start, row
            start, characters = row, 0
        characters += size
    if start < len(sizes):
        yield start, len(sizes)


def _strings(column: pa.ChunkedArray) -> list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if column.null_count:
        raise TypeError("text is null")
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise TypeError(f"text is {kind}, not a string")
    texts: list[str] = contiguous(column).to_pylist()
    if None in texts:
        raise TypeError("text is null")
    return texts


def _flat(lists: Any, dtype: Any) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(lists), dtype)
