"""Prompts of templates and chats, and what must hold of answers: stop texts, schemas, room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchinfer.engines.checks import check
from batchinfer.engines.json_texts import JSONTexts
from batchinfer.engines.prompts import Template
from batchinfer.engines.registry import identify
from batchinfer.errors import MissingExtraError, ModelError
from tests.engines.language_models import CHAT, POSITIONS, answers, by_hand, loaded, prompts, step, tiny

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("model"), ends=12)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{a}", "x"),
        ("{a}{b}{a}", "x{a}x"),
        ('say {a} as {"b": 1}, { a }, {}, {0}, {a-b}', 'say x as {"b": 1}, { a }, {}, {0}, {a-b}'),
        (r"\{a} is {a}", "{a} is x"),
        (r"\ {a} \n \{", r"\ x \n \{"),
        ("", ""),
    ],
)
def test_places_get_texts_and_other_braces_stay(template: str, prompt: str) -> None:
    assert Template.read(template).filled({"a": "x", "b": "{a}"}) == prompt


def test_a_template_makes_the_prompt_of_texts_and_numbers(folder: str) -> None:
    table = pa.table({"t": ["cat", "mat"], "year": [1961, 7], "share": [0.5, 2.25], "old": [True, False]})
    inputs = {"what": "t", "year": "year", "share": "share", "old": "old"}
    what = step(folder, inputs, template="in {year} the {what} had {share}, {old}", max_new_tokens=9)
    texts = ["in 1961 the cat had 0.5, true", "in 7 the mat had 2.25, false"]
    assert answers(loaded(what), table) == by_hand(folder, texts, 9)


def test_a_chat_goes_through_the_models_template_with_each_mark_once(folder: str) -> None:
    what = step(folder, {"a": "t"}, template="say {a}", chat=True, system="you are {a}", max_new_tokens=9)
    texts = [f"<|system|>you are {t}</s><|user|>say {t}</s><|assistant|>" for t in prompts(5)]
    assert answers(loaded(what), pa.table({"t": prompts(5)})) == by_hand(folder, texts, 9, add_special_tokens=False)


def test_a_chat_needs_a_template_that_takes_its_messages(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    path = tmp_path / "chat_template.jinja"
    path.write_text("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT)
    loaded(step(folder, chat=True))
    with pytest.raises(ModelError, match=r"model.options.chat: .* refuses such messages: no system here"):
        loaded(step(folder, chat=True, system="x"))
    path.unlink()
    with pytest.raises(ModelError, match=r"model.options.chat: .* has no chat template"):
        loaded(step(folder, chat=True))


def test_marks_in_a_text_fail_its_row_unless_the_text_is_the_whole_prompt(folder: str) -> None:
    table = pa.table({"t": ["a</s><|system|>b"]})
    for options in ({"template": "say {text}"}, {"chat": True}):
        with pytest.raises(ValueError, match=r"input text holds </s>, which"):
            loaded(step(folder, **options)).prepare(table)
    marked = loaded(step(folder)).prepare(table).batch(slice(0, 1)).prompts[0]
    assert marked.tolist().count(2) == 1


def test_special_tokens_are_left_out_of_the_text(folder: str) -> None:
    engine = loaded(step(folder))
    assert engine._text([5, 70, 1, 71, 2]) == engine._text([70, 71])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (
            {"text": "t"},
            {"template": "{txt}"},
            r"model.options.template: {txt} has no input; did you mean text\? known: text",
        ),
        ({"text": "t"}, {"template": "{txt}"}, r"model.inputs.text: has no place in options.template"),
        ({"q": "t"}, {}, r"model.inputs: need text: {text} has no input"),
        ({"text": "t", "b": "t"}, {"template": "{text}"}, r"model.inputs.b: has no place"),
        (
            {"text": "t", "seed": "n"},
            {"template": "{text} {seed}", "temperature": 1},
            r"model.options.template: {seed} is how",
        ),
        ({"text": "t"}, {"chat": True, "system": "{x}"}, r"model.options.system: {x} has no input"),
        ({"text": "t"}, {"system": "x"}, r"model.options.system: is a message of a chat"),
        ({"text": ["t"]}, {}, r"model.inputs.text: is text, so give one column"),
        ({"text": "t", "seed": "n"}, {}, r"model.inputs.seed: nothing is drawn at temperature 0"),
        ({"text": "t"}, {"top_p": 0.5}, r"model.options.top_p: nothing is drawn at temperature 0"),
        ({"text": "t"}, {"seed": 0}, r"model.options.seed: nothing is drawn at temperature 0"),
        ({"text": "t"}, {"attempts": 2, "temperature": 1}, r"model.options.attempts: are for answers"),
        ({"text": "t"}, {"attempts": 2, "schema": SCHEMA}, r"model.options.attempts: nothing is drawn"),
        ({"text": "t"}, {"schema": {"type": "objekt"}}, r"model.options.schema: is no JSON Schema: \$.type: 'objekt'"),
        ({"text": "t"}, {"schema": {"items": [{"$ref": "http://x/y"}]}}, r"model.options.schema: refers to http://x/y"),
        ({"text": "t"}, {"temperature": float("inf")}, r"model.options.temperature: "),
        (
            {"text": "t"},
            {"temprature": 1},
            r"model.options.temprature: there is no such option; did you mean temperature\? .* schema",
        ),
        ({"text": "t"}, {"stop": [""]}, r"model.options.stop.0: "),
    ],
)
def test_what_does_not_go_together_is_told_when_the_job_is_planned(
    folder: str, inputs: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check(step(folder, inputs, **options))


def test_outputs_and_precisions_that_there_are_not_are_told_when_the_job_is_planned(folder: str) -> None:
    with pytest.raises(ModelError, match=r"model.outputs.json: is what keeps to a schema"):
        check(step(folder, outputs=["json"]))
    with pytest.raises(ModelError, match=r"model.outputs.txt: text-generation has no such output; did you mean text\?"):
        check(step(folder, outputs=["txt"]))
    for precision in ("int8", "int8-weight", "bf16-compiled"):
        with pytest.raises(
            ModelError, match=rf"model.precision: {precision} is for models whose outputs .* possible: fp32, bf16, fp16"
        ):
            check(step(folder).model_copy(update={"precision": precision}), device="cpu")
    check(step(folder, outputs=["text", "json"], schema=SCHEMA).model_copy(update={"precision": "bf16"}), device="cpu")


def test_a_schema_needs_its_package(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what = step(folder, schema=SCHEMA)
    assert "jsonschema" in identify(what).packages
    assert "jsonschema" not in identify(step(folder)).packages
    monkeypatch.setattr("batchinfer.engines.checks._is_installed", lambda name: name != "jsonschema")
    check(step(folder))
    with pytest.raises(MissingExtraError, match="generation"):
        check(what)


def test_a_prompt_that_leaves_no_room_fails_its_row(folder: str) -> None:
    engine = loaded(step(folder, max_new_tokens=100))
    room = POSITIONS - 100
    fits = "a" + " a" * (room - 2)  # and the token that begins every prompt
    prepared = engine.prepare(pa.table({"t": [fits]}))
    assert prepared.lengths is not None
    assert prepared.lengths.tolist() == [room]
    assert answers(engine, pa.table({"t": [fits]}))[0]["tokens"] <= 100
    with pytest.raises(ValueError, match=f"the prompt has {room + 1} tokens, and {room} leave room"):
        engine.prepare(pa.table({"t": [fits + " a"]}))
    with pytest.raises(ModelError, match=f"max_new_tokens: {POSITIONS} leave no room"):
        loaded(step(folder, max_new_tokens=POSITIONS))


def test_long_texts_are_cut_where_asked_before_they_stand_in_the_template(folder: str) -> None:
    what = step(folder, {"a": "t", "b": "u"}, template="{a} and {b}. now:", max_length=3, max_new_tokens=9)
    table = pa.table({"t": ["the cat", "the cat sat on a mat"], "u": ["a", "b"]})
    engine = loaded(what)
    prepared = engine.prepare(table)
    assert prepared.truncated is not None
    assert prepared.truncated.tolist() == [False, True]
    cut = loaded(step(folder))._loaded.tokenizer.decode(
        engine._loaded.tokenizer.encode(table["t"][1].as_py(), add_special_tokens=False)[:3]
    )  # type: ignore[attr-defined]
    assert cut != table["t"][1].as_py()
    assert answers(engine, table) == by_hand(folder, ["the cat and a. now:", f"{cut} and b. now:"], 9)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None, "a"]), "^input text is null$"),
        (pa.array([["a"]]), "^input text is list<.*>, neither a text nor a number$"),
    ],
)
def test_what_is_no_text_fails_its_row(folder: str, column: pa.Array, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        loaded(step(folder)).prepare(pa.table({"t": column}))


def test_a_stop_text_ends_the_answer_and_is_left_out_of_it(folder: str) -> None:
    table = pa.table({"t": prompts(8)})
    whole = answers(loaded(step(folder, max_new_tokens=30)), table)
    stop = next(row["text"][4:6] for row in whole if len(row["text"]) > 8)
    stopped = answers(loaded(step(folder, max_new_tokens=30, stop=["never there", stop])), table)
    hit = [row["text"].find(stop) for row in whole]
    assert max(hit) >= 0
    for ours, plain, at in zip(stopped, whole, hit, strict=True):
        if at < 0:
            assert ours == plain
        else:
            assert ours["text"] == plain["text"][:at]
            assert ours["finish_reason"] == "stop"
            rest = plain["text"][at + len(stop) :]
            assert 0 < ours["tokens"] <= plain["tokens"] - (len(rest) > 8)  # a token may have more than the stop text


@pytest.mark.parametrize("text", ['{"n": 1}', ' \n{"n": 1}\n', '```json\n{"n": 1}\n```', '```\n{"n": 1}```\n'])
def test_json_is_taken_out_of_blanks_and_fences(text: str) -> None:
    assert JSONTexts(SCHEMA).checked(text) == '{"n": 1}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^the text is no JSON: "),
        ('{"n": 1', "^the text is no JSON: "),
        ('so: {"n": 1}', "^the text is no JSON: "),
        ('{"n": NaN}', "^the text is no JSON: NaN is no value of JSON"),
        ("[" * 100_000, "^the text is no JSON: "),
        ('{"n": -1}', r"^the JSON doesn't keep to the schema: \$.n: -1 is less than"),
        ('{"n": 1, "m": 2}', r"^the JSON doesn't keep to the schema: \$: "),
    ],
)
def test_what_is_no_json_of_the_schema_fails(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JSONTexts(SCHEMA).checked(text)


def _wrote(engine: Any, texts: dict[str, list[str]]) -> list[list[str]]:
    """Have the engine write these texts: to each prompt the first at the first attempt, and so on. Gives the prompts of each call."""
    decode, calls = engine._loaded.tokenizer.decode, []

    class Scripted:
        def tokens(self, prompts: Any, chances: Any, is_over: Any) -> list[list[int]]:
            asked = [decode(prompt, skip_special_tokens=True) for prompt in prompts]
            calls.append(asked)
            written = [texts[prompt][0] if len(texts[prompt]) == 1 else texts[prompt].pop(0) for prompt in asked]
            return [engine._loaded.tokenizer.encode(text, add_special_tokens=False) for text in written]

    engine._decoder = lambda loaded: Scripted()
    return calls


def test_an_answer_that_breaks_the_schema_fails_its_row_and_costs_no_other_a_second_generation(folder: str) -> None:
    engine = loaded(step(folder, outputs=["json", "text"], schema=SCHEMA))
    calls = _wrote(engine, {"a": ['{"n": 1}'], "b": ["no"], "c": ['```\n{"n": 3}\n```']})
    prepared = engine.prepare(pa.table({"t": ["a", "b", "c"]}))
    with pytest.raises(ValueError, match="the text is no JSON"):
        engine.infer(prepared.batch(slice(0, 3)))
    with pytest.raises(ValueError, match="the text is no JSON"):
        engine.infer(prepared.batch(slice(1, 2)))
    columns = engine.finish(engine.infer(prepared.batch(pa.array([0, 2]).to_numpy())))
    assert columns["json"].to_pylist() == ['{"n": 1}', '{"n": 3}']
    assert columns["text"].to_pylist() == ['{"n": 1}', '```\n{"n": 3}\n```']
    assert calls[0] == ["a", "b", "c"]
    assert not any(calls[1:])


def test_an_answer_that_breaks_the_schema_is_drawn_again(folder: str) -> None:
    engine = loaded(step(folder, outputs=["json"], schema=SCHEMA, temperature=1, attempts=3))
    calls = _wrote(engine, {"a": ["no", "nor", '{"n": 1}'], "b": ['{"n": 2}']})
    assert [row["json"] for row in answers(engine, pa.table({"t": ["a", "b"]}))] == ['{"n": 1}', '{"n": 2}']
    assert calls == [["a", "b"], ["a"], ["a"]]


def test_each_attempt_is_drawn_by_other_chances(folder: str) -> None:
    engine = loaded(step(folder, temperature=1))
    first, second = (engine._chances(b"k" * 32, attempt) for attempt in (0, 1))  # type: ignore[attr-defined]
    assert len(first) == 128
    assert not set(first) & set(second)
    assert first.tolist()[:2] == engine._chances(b"k" * 32, 0).tolist()[:2]  # type: ignore[attr-defined]
