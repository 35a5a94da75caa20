"""The steps of a job as a graph: order, what is written, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from batchinfer.job.spec import JobSpec
from batchinfer.pipeline.graph import graph_of, problems


def model(name: str, reads: str, *writes: str, **more: Any) -> dict[str, Any]:
    outputs = {column: column for column in writes}
    return {"name": name, "engine": "python", "uri": "m:C", "inputs": {"x": reads}, "outputs": outputs, **more}


def rules(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


def job(*steps: dict[str, Any], **output: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"version": 1, "name": "n", "input": {"path": "/in"}, "steps": steps, "output": {"path": "/out", **output}}
    )


def found(*steps: dict[str, Any], **output: Any) -> list[tuple[str, str]]:
    return [(p.where, p.message) for p in problems(job(*steps, **output))]


def test_steps_run_in_the_order_of_their_columns_whatever_the_order_of_the_file() -> None:
    last, first = model("last", "b", "c"), model("first", "a", "b")
    graph = graph_of(job(last, rules("derived", rules={"d": "c || a"}), first))
    assert [node.name for node in graph.nodes] == ["first", "last", "derived"]
    assert graph.needed == ("a",)
    assert graph.written == ("d",)


def test_columns_that_no_other_step_reads_are_written_or_those_that_are_asked_for() -> None:
    steps = model("one", "a", "b", "left"), model("two", "b", "c")
    assert graph_of(job(*steps)).written == ("left", "c")
    assert graph_of(job(*steps, columns=["c", "b"])).written == ("b", "c")


def test_steps_of_one_column_are_alternatives_in_the_order_of_the_file() -> None:
    small, big = model("small", "a", "s", "sure"), model("big", "a", "y", when="sure < 0.5")
    rest = rules("rest", when="otherwise", rules={"y": "s"})
    graph = graph_of(job(rules("after", rules={"z": "y"}), small, big, rest, step_used="used"))
    assert [node.name for node in graph.nodes] == ["small", "big", "rest", "after"]
    assert graph.node("rest").before == ("big",)
    assert graph.node("big").before == ()
    assert graph.columns == ("z", "used")


def test_a_column_that_two_steps_write_without_saying_who_for_which_rows_is_refused() -> None:
    one, two = model("one", "a", "y"), model("two", "a", "y")
    ((where, message),) = found(one, two)
    assert where == "two.outputs"
    assert "one computes the column 'y' too" in message
    assert "otherwise" in message
    assert found({**one, "when": "a > 1"}, two)[0][0] == "two.outputs"
    assert found(one, {**two, "when": "a > 1"})[0][0] == "two.outputs"
    assert found({**one, "when": "a > 1"}, {**two, "when": "a < 0"}) == []
    assert found({**one, "when": "a > 1"}, {**two, "when": "otherwise"}) == []


def test_otherwise_needs_something_that_it_is_other_than() -> None:
    assert found(model("one", "a", "y", when="otherwise")) == [
        ("one.when", "is otherwise, but no step before it writes the same columns: write a condition")
    ]


def test_a_circle_is_told_by_its_steps_and_columns() -> None:
    circle = found(model("one", "z", "x"), model("two", "x", "y"), model("three", "y", "z"), model("four", "a", "b"))
    ((where, message),) = circle
    assert where in ("one", "two", "three")
    for part in ("one needs 'z' of three", "three needs 'y' of two", "two needs 'x' of one"):
        assert part in message


def test_a_circle_through_a_condition_is_one_too() -> None:
    one, two = model("one", "a", "x", when="y > 1"), model("two", "x", "y")
    assert "circle" in found(one, two)[0][1]


def test_a_step_that_nothing_comes_of_is_named() -> None:
    steps = model("used", "a", "b"), model("idle", "a", "c")
    assert found(*steps) == []
    ((where, message),) = found(*steps, columns=["b"])
    assert where == "idle"
    assert "nothing comes of this step: 'c'" in message


def test_a_column_that_no_step_computes_is_refused_with_what_may_have_been_meant() -> None:
    assert found(model("one", "a", "label"), columns=["lable"])[0] == (
        "output.columns",
        "no step computes the column 'lable'; did you mean 'label'?",
    )


def test_a_column_for_the_steps_that_were_used_needs_a_step_that_may_not_be() -> None:
    assert found(model("one", "a", "y"), step_used="used")[0][0] == "output.step_used"


@pytest.mark.parametrize("sql", ["SUM(x)", "x >", "a > (SELECT 1)"])
def test_a_rule_that_is_no_expression_of_a_row_is_refused(sql: str) -> None:
    with pytest.raises(Exception, match=r"one\.rules\.y: "):
        found(rules("one", rules={"y": sql}))
