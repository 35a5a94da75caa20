"""Tokens from a causal language model, several rows at a time: a row that is finished leaves, and a waiting one takes its place."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchinfer.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen by the model's scores."""

    temperature: float
    """0: the likeliest."""
    top_k: int | None = None
    top_p: float | None = None

    def chosen(self, scores: Any, chances: Any) -> Any:
        """Tokens, shape (rows,), by scores of shape (rows, vocabulary); each drawn by the row's chance, a number from 0 to 1.

        A row's token depends on its own scores and chance alone. The tokens of equal scores keep their order.
        """
        import torch

        if not self.temperature:
            return scores.argmax(-1)
        scores = scores.float() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        shares, tokens = scores.softmax(-1).sort(descending=True, stable=True)
        if self.top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= self.top_p, 0.0)
        sums = shares.cumsum(-1)
        drawn = (sums <= chances[:, None] * sums[:, -1:]).sum(-1, keepdim=True)
        last = (shares > 0).sum(-1, keepdim=True) - 1  # where rounding makes the chance the whole sum
        return tokens.gather(-1, drawn.minimum(last)).squeeze(-1)


@dataclass(eq=False)
class _Row:
    number: int
    prompt: NDArray[np.int32]
    chances: NDArray[np.float64] | None
    """One for each token that it may get; None where nothing is drawn."""
    tokens: list[int] = field(default_factory=list)
    """Generated so far. The last one is not in the cache yet."""

    @property
    def cached(self) -> int:
        return len(self.prompt) + len(self.tokens) - 1


class Decoder:
    """Generates tokens by a model's cache of keys and values.

    Rows stand one below the other in the cache, with their last tokens in its last column and nothing at the left of shorter ones.

    Args:
        model: a causal language model of transformers.
        device: where it is.
        slots: rows at a time.
        sampling: how tokens are chosen.

    """

    def __init__(self, model: Any, device: str, slots: int, sampling: Sampling) -> None:
        self._model, self._device, self._slots, self._sampling = model, device, slots, sampling
        takes = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in takes else "past_key_values"
        """What the model calls it; by version of transformers."""
        self._positions = "position_ids" in takes
        self._last_scores = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def check(self, where: str) -> None:
        """Raise ModelError for a model that keeps anything but keys and values of every token: then rows can't come and go."""
        from transformers.cache_utils import DynamicLayer

        refusal = ModelError(
            f"{where}: {type(self._model).__name__} keeps another state than the keys and values of attention, and text-generation "
            "needs these: take a model of attention layers alone"
        )
        try:
            cache, _ = self._read([_Row(0, np.zeros(2, np.int32), None)])
            layers = _layers(cache)
            plain = [type(each) is DynamicLayer and each.keys.ndim == 4 and each.keys.shape[2] == 2 for each in layers]
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise refusal from error
        if not plain or not all(plain):
            raise refusal

    def tokens(
        self,
        prompts: Sequence[NDArray[np.int32]],
        chances: Sequence[NDArray[np.float64] | None],
        is_over: Callable[[Sequence[int]], bool],
    ) -> list[list[int]]:
        """The tokens that follow each prompt, until `is_over` says so of them; at least one.

        Raises ValueError where scores are not finite.
        """
        waiting = deque(_Row(n, *each) for n, each in enumerate(zip(prompts, chances, strict=True)))
        found: list[list[int]] = [[]] * len(prompts)
        rows: list[_Row] = []
        cache = None
        while waiting or rows:
            free = min(self._slots - len(rows), len(waiting))
            if free:
                asked = [waiting.popleft() for _ in range(free)]
                fresh, scores = self._read(asked)
                cache = fresh if cache is None else _joined(cache, fresh)
                rows = rows + asked
            else:
                asked, scores = rows, self._next(cache, rows)
            for row, token in zip(asked, self._chosen(scores, asked), strict=True):
                row.tokens.append(token)
            left = []
            for n, row in enumerate(rows):
                if row in asked and is_over(row.tokens):
                    found[row.number] = row.tokens
                else:
                    left.append(n)
            if len(left) < len(rows):
                rows = [rows[n] for n in left]
                cache = _kept(cache, left, max(row.cached for row in rows)) if rows else None
        return found

    def _chosen(self, scores: Any, rows: Sequence[_Row]) -> list[int]:
        import torch

        if not bool(scores.amax(-1).isfinite().all()):
            raise ValueError("the model's scores are NaN or infinite")
        drawn = [0.0 if row.chances is None else row.chances[len(row.tokens)] for row in rows]
        chances = torch.tensor(drawn, dtype=torch.float32, device=scores.device)
        tokens: list[int] = self._sampling.chosen(scores, chances).tolist()
        return tokens

    def _read(self, rows: Sequence[_Row]) -> tuple[Any, Any]:
        """A cache of the rows' prompts, and the scores of what follows."""
        from transformers import DynamicCache

        lengths = np.array([len(row.prompt) for row in rows])
        width = int(lengths.max())
        ids = np.zeros((len(rows), width), np.int64)  # any token may stand where the mask hides it
        for at, row in enumerate(rows):
            ids[at, width - len(row.prompt) :] = row.prompt
        cache = DynamicCache()
        return cache, self._scores(cache, ids, lengths, width)

    def _next(self, cache: Any, rows: Sequence[_Row]) -> Any:
        """The scores of what follows the rows' last tokens, which go into the cache."""
        lengths = np.array([row.cached + 1 for row in rows])
        return self._scores(cache, np.array([[row.tokens[-1]] for row in rows]), lengths, int(lengths.max()))

    def _scores(self, cache: Any, ids: NDArray[np.int64], lengths: NDArray[np.int64], width: int) -> Any:
        """Scores of the next token, shape (rows, vocabulary).

        `ids` are the last tokens of rows of these lengths, `width` columns with those before them.
        """
        import torch

        mask = np.arange(width) >= width - lengths[:, None]
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        given |= {"position_ids": positions} if self._positions else {}
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in given.items()}
        answer = self._model(**tensors, **{self._cache: cache}, use_cache=True, **self._last_scores)
        return answer.logits[:, -1]


def _layers(cache: Any) -> list[Any]:
    """Those that hold something: a model may have layers that use another one's."""
    return [layer for layer in cache.layers if layer.keys is not None]


def _joined(cache: Any, other: Any) -> Any:
    """The cache, with the rows of another below its own."""
    import torch

    def below(upper: Any, lower: Any) -> Any:
        width = max(upper.shape[2], lower.shape[2])
        wide = [torch.nn.functional.pad(part, (0, 0, width - part.shape[2], 0)) for part in (upper, lower)]
        return torch.cat(wide)

    for mine, added in zip(_layers(cache), _layers(other), strict=True):
        mine.keys, mine.values = below(mine.keys, added.keys), below(mine.values, added.values)
    return cache


def _kept(cache: Any, rows: list[int], width: int) -> Any:
    """The cache with these of its rows alone, and no more columns than the longest of them has."""
    for layer in _layers(cache):
        layer.keys, layer.values = (part[rows, :, part.shape[2] - width :] for part in (layer.keys, layer.values))
    return cache
