"""Prompts from columns: a template with places for the texts of the step's inputs, and what may stand in these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchinfer.engines.inputs import contiguous, is_number
from batchinfer.engines.json_texts import problem
from batchinfer.engines.options import GenerationOptions, nearest, parse
from batchinfer.errors import ModelError
from batchinfer.job.steps import Step

SEED = "seed"
"""The input that is no text: a number or name of the row's own, by which its tokens are drawn."""
OUTPUTS = ("text", "finish_reason", "tokens", "json")
_PLACE = re.compile(r"\\?\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Template:
    """A text with places: `{name}`. A backslash before one makes it plain text; braces around anything else are that anyway."""

    pieces: tuple[str, ...]
    """Texts and names by turns, a text first and last."""

    @classmethod
    def read(cls, text: str) -> Template:
        """The template that is written so."""
        pieces, plain, end = [], "", 0
        for found in _PLACE.finditer(text):
            plain, end = plain + text[end : found.start()], found.end()
            if found[0].startswith("\\"):
                plain += found[0][1:]
            else:
                pieces += [plain, found[1]]
                plain = ""
        return cls((*pieces, plain + text[end:]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the places, in their order."""
        return self.pieces[1::2]

    def filled(self, texts: Mapping[str, str]) -> str:
        """The text with these in its places; places inside of them are none."""
        return "".join(texts[piece] if n % 2 else piece for n, piece in enumerate(self.pieces))


class Prompts:
    """The step's prompts, by its templates and the model's tokenizer (of transformers, a fast one)."""

    def __init__(self, step: Step, options: GenerationOptions, tokenizer: Any) -> None:
        """Raises ModelError where the tokenizer has no chat template, or one that refuses such messages."""
        self._step, self._options, self._tokenizer = step, options, tokenizer
        self._user = Template.read(options.template if options.template is not None else "{text}")
        self._system = Template.read(options.system) if options.system is not None else None
        tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        marked = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        # A text that is the whole prompt may mark it up by itself.
        places = options.template is not None or options.chat
        self._control = re.compile(marked) if marked and places else None
        if options.chat:
            self._check_chat()

    def texts(self, rows: pa.Table) -> tuple[list[str], list[bool]]:
        """The prompt of each row, and whether a text of it was cut.

        Raises TypeError naming the input for a null or for what is no text or number, and ValueError for a text with a control token.
        """
        columns = {name: _strings(rows.column(str(self._step.inputs[name])), name) for name in self._names}
        cut = [False] * len(rows)
        for name, texts in columns.items():
            self._check_texts(name, texts)
            if self._options.max_length is not None:
                columns[name] = self._cut(texts, self._options.max_length, cut)
        given = [dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)]
        return [self._prompt(texts) for texts in given or [{}] * len(rows)], cut

    def seeds(self, rows: pa.Table) -> list[str]:
        """The row's own seed, empty where the step has no input for it. Raises TypeError for a null, a list or a struct."""
        if SEED not in self._step.inputs:
            return [""] * len(rows)
        return _strings(rows.column(str(self._step.inputs[SEED])), SEED)

    @property
    def _names(self) -> list[str]:
        return [name for name in self._step.inputs if name != SEED]

    def _prompt(self, texts: Mapping[str, str]) -> str:
        user = self._user.filled(texts)
        if not self._options.chat:
            return user
        messages = [{"role": "user", "content": user}]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system.filled(texts)})
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _check_chat(self) -> None:
        where, uri = f"{self._step.name}.options.chat", self._step.uri
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"{where}: {uri} has no chat template: remove chat, and write all of the prompt into options.template"
            )
        try:
            self._prompt(dict.fromkeys(self._names, "a"))
        except Exception as error:
            raise ModelError(f"{where}: the chat template of {uri} refuses such messages: {error}") from error

    def _check_texts(self, name: str, texts: Sequence[str]) -> None:
        if self._control is None:
            return
        for text in texts:
            if found := self._control.search(text):
                raise ValueError(
                    f"input {name} holds {found[0]}, which the model takes for a mark between the parts of a prompt"
                )

    def _cut(self, texts: Sequence[str], most: int, cut: list[bool]) -> list[str]:
        """The texts up to the end of their last token that may stay."""
        kept = []
        for row, encoding in enumerate(
            self._tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ):
            long = len(encoding.ids) > most
            cut[row] |= long
            kept.append(texts[row][: encoding.offsets[most - 1][1]] if long else texts[row])
        return kept


def wrong_generation(step: Step) -> list[str]:
    """What is wrong with the inputs, outputs and options of a step that writes texts, one message each.

    Raises ModelError where the options can't be read.
    """
    options, name = parse(GenerationOptions, step), step.name
    wrong = [
        f"{name}.inputs.{model}: is text, so give one column, not a list"
        for model, column in step.inputs.items()
        if not isinstance(column, str)
    ]
    wrong += _wrong_places(step, options)
    wrong += [
        f"{name}.outputs.{output}: text-generation has no such output; {nearest(output, OUTPUTS)}"
        for output in step.outputs
        if output not in OUTPUTS
    ]
    if options.json_schema is None and "json" in step.outputs:
        wrong.append(f"{name}.outputs.json: is what keeps to a schema: write options.schema, or take the output text")
    if options.json_schema is not None and (found := problem(options.json_schema)) is not None:
        wrong.append(f"{name}.options.schema: {found}")
    if options.system is not None and not options.chat:
        wrong.append(f"{name}.options.system: is a message of a chat: write chat: true, or put it into the template")
    if options.attempts > 1 and options.json_schema is None:
        wrong.append(
            f"{name}.options.attempts: are for answers that must keep to a schema: write options.schema, or remove it"
        )
    if options.temperature == 0:
        drawn = ("top_k", "top_p", "seed", *(("attempts",) if options.attempts > 1 else ()))
        keys = [f"options.{key}" for key in drawn if key in step.options] + ["inputs.seed"] * (SEED in step.inputs)
        wrong += [
            f"{name}.{key}: nothing is drawn at temperature 0: write a temperature above it, or remove this"
            for key in keys
        ]
    return wrong


def _wrong_places(step: Step, options: GenerationOptions) -> list[str]:
    """Every input must have a place, and every place an input: a prompt without its text is answered all the same."""
    name, inputs = step.name, [name for name in step.inputs if name != SEED]
    templates = {"template": Template.read("{text}" if options.template is None else options.template)}
    if options.system is not None:
        templates["system"] = Template.read(options.system)
    wrong, filled = [], set()
    for key, template in templates.items():
        for place in dict.fromkeys(template.names):
            filled.add(place)
            if place == SEED:
                wrong.append(
                    f"{name}.options.{key}: {{seed}} is how the row is drawn, and no text: call the input otherwise"
                )
            elif place not in inputs:
                where = (
                    f"{name}.inputs: need text"
                    if options.template is None and key == "template"
                    else f"{name}.options.{key}"
                )
                wrong.append(
                    f"{where}: {{{place}}} has no input; {nearest(place, inputs)}. Braces that are meant are written \\{{{place}}}"
                )
    wrong += [
        f"{name}.inputs.{each}: has no place in options.template: write {{{each}}} there, in letters, digits and _, or remove the input"
        for each in inputs
        if each not in filled
    ]
    return wrong


def _strings(column: pa.ChunkedArray, name: str) -> list[str]:
    """Texts as they are, numbers and the like as Arrow writes them. Raises TypeError."""
    array = contiguous(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if array.null_count:
        raise TypeError(f"input {name} is null")
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (
        is_text
        or is_number(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_temporal(kind)
    ):
        raise TypeError(f"input {name} is {kind}, neither a text nor a number")
    texts: list[str] = (array if is_text else array.cast(pa.string())).to_pylist()
    return texts
