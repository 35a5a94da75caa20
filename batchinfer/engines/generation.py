"""The transformers engine's task text-generation: causal language models on prompts that are made of columns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchinfer.engines.decoding import Decoder, Sampling
from batchinfer.engines.json_texts import JSONTexts
from batchinfer.engines.location import locate
from batchinfer.engines.options import GenerationOptions, parse
from batchinfer.engines.prepared_columns import PreparedColumns
from batchinfer.engines.prompts import Prompts, wrong_generation
from batchinfer.engines.protocol import Description, Rows
from batchinfer.engines.replicas import Replicas
from batchinfer.engines.tokens import CALL_CHARACTERS, calls
from batchinfer.engines.transformers import load_model, open_folder
from batchinfer.engines.trust import check_code
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step
from batchinfer.precision import recipes
from batchinfer.storage.store import StorageOptions

TYPES = {"text": pa.string(), "finish_reason": pa.string(), "tokens": pa.int32(), "json": pa.string()}


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of some rows as token ids, and for each the key that its tokens are drawn by: a digest of 32 bytes."""

    prompts: list[NDArray[np.int32]]
    keys: list[bytes]


class PromptRows:
    """One window of tokenised prompts."""

    row_bytes = None

    def __init__(
        self, prompts: Sequence[NDArray[np.int32]], seeds: Sequence[str], cut: Sequence[bool], seed: int
    ) -> None:
        self._prompts, self._seeds, self._seed = prompts, seeds, seed
        self.lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        """Tokens of each prompt, shape (rows,)."""
        self.truncated = np.array(cut, np.bool_)
        """Which rows have a text that was cut, shape (rows,)."""

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, rows: Rows) -> PromptBatch:
        """These rows, not padded."""
        at = np.arange(len(self))[rows]
        return PromptBatch([self._prompts[n] for n in at], [self._key(n) for n in at])

    def _key(self, row: int) -> bytes:
        """Of what the row is made of, and nothing else: not its place, its batch or its neighbours."""
        parts = f"{self._seed}\0{len(self._seeds[row])}\0{self._seeds[row]}\0".encode()
        return hashlib.sha256(parts + self._prompts[row].astype("<i4").tobytes()).digest()


@dataclass(frozen=True)
class Answer:
    """What a row got."""

    text: str
    finish_reason: str
    """`stop` at an end token or a stop text, `length` where the tokens that it may have were spent."""
    tokens: int
    """Generated, with the end token or stop text."""
    json: str | None = None


@dataclass(frozen=True)
class _Loaded:
    replicas: Replicas | None
    """None where the model is elsewhere."""
    tokenizer: Any
    prompts: Prompts
    sampling: Sampling
    room: int | None
    """Tokens that a prompt may have; None for any number."""
    ends: frozenset[int]
    device: str


class GenerationEngine:
    """Writes a text for each row, by a causal language model of transformers."""

    def __init__(
        self,
        step: Step,
        code: Sequence[str] = (),  # noqa: ARG002 - such models bring no code
        storage: StorageOptions | None = None,  # noqa: ARG002 - its inputs name no files
        prepared: PreparedColumns | None = None,  # noqa: ARG002 - preparing prompts takes next to nothing of the time
    ) -> None:
        if wrong := wrong_generation(step):
            raise ModelError("\n".join(wrong))
        self._step = step
        self._options = parse(GenerationOptions, step)
        self._json = JSONTexts(self._options.json_schema) if self._options.json_schema is not None else None
        self._loaded: _Loaded | None = None
        self._known: dict[bytes, Answer | str] = {}
        """Of the last batch that had a failed row, answers by key and what failed: isolating the row asks for all others again."""

    def load(self, device: str, precision: str, threads: int) -> Description:
        """Load tokenizer and model.

        Raises ModelError where files, weights or the chat template lack, or the model is no causal language model of attention layers.
        """
        # The tokenizer reads these once, at its first use in the process; later changes do nothing.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        where, options = f"{self._step.name}.uri", self._options
        location = locate(self._step.uri, where, code=bool(options.trust_remote_code))
        trusted = check_code(location, self._step.uri, options.trust_remote_code, self._step.name)
        config, tokenizer = open_folder(location.folder, where, self._step, trusted=trusted)
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        prompts = Prompts(self._step, options, tokenizer)
        room = self._room(config.get_text_config(), tokenizer)
        model = load_model(location, "AutoModelForCausalLM", where, trusted=trusted, as_stored=False)
        ends = _ends(model, tokenizer)
        applied = recipes.apply(precision, model, device)
        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        replicas = Replicas(applied.module, device, threads)
        self._loaded = _Loaded(replicas, tokenizer, prompts, sampling, room, ends, device)
        self._known = {}
        with torch.inference_mode():
            self._decoder(self._loaded).check(where)
        types = {name: TYPES[name] for name in self._step.outputs}
        return Description(types, precision, device, applied=applied.told(), side_by_side=replicas.can_be_several)

    def without_model(self) -> GenerationEngine:
        """See ModelEngine."""
        engine = GenerationEngine(self._step)
        engine._json = None  # what is generated is checked where the model is
        engine._loaded = replace(self._require(), replicas=None, device="cpu")
        return engine

    def prepare(self, rows: pa.Table) -> PromptRows:
        """Make the prompts of one window and tokenise them.

        Raises TypeError "input x is null" or for what is no text or number, and ValueError for a prompt without tokens or with more than
        the model has positions for.
        """
        loaded = self._require()
        texts, cut = loaded.prompts.texts(rows)
        backend = loaded.tokenizer.backend_tokenizer
        prompts: list[NDArray[np.int32]] = []
        for start, stop in calls([len(text) for text in texts], CALL_CHARACTERS):
            # A chat template writes the special tokens itself.
            found = backend.encode_batch_fast(texts[start:stop], add_special_tokens=not self._options.chat)
            prompts.extend(np.array(encoding.ids, np.int32) for encoding in found)
        sizes = [len(prompt) for prompt in prompts]
        if min(sizes, default=1) == 0:
            raise ValueError("the prompt gives no tokens")
        if loaded.room is not None and max(sizes, default=0) > loaded.room:
            raise ValueError(
                f"the prompt has {max(sizes)} tokens, and {loaded.room} leave room for options.max_new_tokens in the model's positions: "
                "shorten the texts, or have options.max_length cut them"
            )
        return PromptRows(prompts, loaded.prompts.seeds(rows), cut, self._options.seed or 0)

    def infer(self, batch: PromptBatch) -> list[Answer]:
        """Generate the answers. Raises ValueError for one that doesn't keep to the schema, and where scores are not finite."""
        import torch

        loaded = self._require()
        assert loaded.replicas is not None
        known = self._known
        answers = {key: known[key] for key in batch.keys if key in known}
        rows = {key: prompt for key, prompt in zip(batch.keys, batch.prompts, strict=True) if key not in answers}
        with torch.inference_mode(), loaded.replicas.stream():
            decoder = self._decoder(loaded)
            for attempt in range(self._options.attempts):
                keys = [key for key in rows if isinstance(answers.get(key, ""), str)]
                chances = [self._chances(key, attempt) for key in keys]
                found = decoder.tokens([rows[key] for key in keys], chances, self._is_over)
                answers |= {key: self._answer(tokens) for key, tokens in zip(keys, found, strict=True)}
        failed = next((answer for key in batch.keys if isinstance(answer := answers[key], str)), None)
        if failed is not None:
            self._known = answers if rows else known
            raise ValueError(failed)
        return [answer for key in batch.keys if isinstance(answer := answers[key], Answer)]

    def finish(self, outputs: Sequence[Answer]) -> Mapping[str, pa.Array]:
        """One Arrow array per output that the step names."""
        return {
            name: pa.array([getattr(answer, name) for answer in outputs], TYPES[name]) for name in self._step.outputs
        }

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("load() comes before prepare(), infer() and finish()")
        return self._loaded

    def _decoder(self, loaded: _Loaded) -> Decoder:
        assert loaded.replicas is not None
        slots = self._options.slots_on(loaded.device)
        return Decoder(loaded.replicas.here(), loaded.device, slots, loaded.sampling)

    def _room(self, config: Any, tokenizer: Any) -> int | None:
        """Tokens that a prompt may have. Raises ModelError where the answer leaves none."""
        positions, bound = getattr(config, "max_position_embeddings", None), tokenizer.model_max_length
        if not isinstance(positions, int) or positions <= 0:
            positions = int(bound) if bound is not None and bound < 1e9 else None  # one that knows no bound says 1e30
        if positions is None:
            return None
        room: int = positions - self._options.max_new_tokens
        if room < 1:
            raise ModelError(
                f"{self._step.name}.options.max_new_tokens: {self._options.max_new_tokens} leave no room for a prompt in the model's "
                f"{positions} positions"
            )
        return room

    def _chances(self, key: bytes, attempt: int) -> NDArray[np.float64] | None:
        """Numbers from 0 to below 1 by which the row's tokens are drawn, one for each; None where nothing is drawn."""
        if not self._options.temperature:
            return None
        # The bits that a generator of this kind gives are the same in every version of numpy.
        generator = np.random.Philox(key=int.from_bytes(key[:16]), counter=attempt << 128)
        bits = np.asarray(generator.random_raw(self._options.max_new_tokens), np.uint64)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _is_over(self, tokens: Sequence[int]) -> bool:
        loaded = self._require()
        if tokens[-1] in loaded.ends or len(tokens) == self._options.max_new_tokens:
            return True
        return bool(self._options.stop) and self._stopped(self._text(tokens)) is not None

    def _answer(self, tokens: Sequence[int]) -> Answer | str:
        """The answer that these tokens are, or what is wrong with it."""
        text = self._text(tokens)
        stopped = self._stopped(text)
        over = stopped is not None or tokens[-1] in self._require().ends
        text = text if stopped is None else text[:stopped]
        try:
            checked = self._json.checked(text) if self._json is not None else None
        except ValueError as error:
            return str(error)
        return Answer(text, "stop" if over else "length", len(tokens), checked)

    def _text(self, tokens: Sequence[int]) -> str:
        loaded = self._require()
        ended = tokens[-1] in loaded.ends  # which the tokenizer need not know for a special token
        text: str = loaded.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        return text

    def _stopped(self, text: str) -> int | None:
        """Where the first stop text begins."""
        found = [at for stop in self._options.stop if (at := text.find(stop)) >= 0]
        return min(found, default=None)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the model's own, else the tokenizer's."""
    named = model.generation_config.eos_token_id
    named = tokenizer.eos_token_id if named is None else named
    return frozenset(named if isinstance(named, list) else [] if named is None else [named])
