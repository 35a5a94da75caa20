"""How jobs, plans and runs show themselves, and a run in the cell of a real kernel."""

from __future__ import annotations

import io
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from batchinfer import Job, open_run
from batchinfer.api.notebook import EVERY_SECONDS, Widget, publisher
from batchinfer.api.progress import Lines, display
from batchinfer.errors import InputError
from batchinfer.plan.table import Table
from batchinfer.report.tally import Tally
from batchinfer.run.events import Event, State
from batchinfer.run.stop import StopRequest
from tests.run.workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


class Texts(HTMLParser):
    """What HTML shows, and what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_tables_escape_what_they_show_and_fix_no_colour() -> None:
    table = Table("<b>x", "& y", (("<i>", "one\n<script>alert(1)</script>"),))
    html = Texts(table.html())
    assert "script" not in html.tags
    assert "i" not in html.tags
    assert html.shown == ["<b>x", " & y", "<i>", "one\n<script>alert(1)</script>"]
    assert "#" not in table.html()
    assert "rgb" not in table.html()
    assert table.text() == "<b>x & y\n  <i>  one\n       <script>alert(1)</script>"


def test_jobs_plans_and_runs_are_tables_in_a_notebook_and_one_line_in_a_log(workplace: Workplace) -> None:
    workplace.write(1000, bad={1})
    job = Job(**workplace.fields(input={"where": "id > 10 OR x < 4"}, name="a <b> & c"))
    plan, run = job.plan(), job.run()
    for shown in (job, plan, run):
        assert "\n" not in repr(shown)
        html = Texts(shown._repr_html_())
        assert html.tags == {"div", "b", "table", "tr", "th", "td"}
        assert html.shown[0] == "a <b> & c"
        text = plain(shown)
        assert text.startswith("a <b> & c")
        assert text.count("\n") >= 3
    assert "python doubling:Double" in repr(job)
    assert "id > 10 OR x < 4" in plain(job)
    assert "1,000" in plain(plan)
    assert "1,000 = 992 succeeded + 0 dead + 8 filtered + 0 not attempted" in plain(run)


def test_a_job_shows_nothing_of_the_environment(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    workplace.write(10)
    monkeypatch.setenv("TENANT_TOKEN", "canary-4711-canary")
    where = "id < 5 OR '${TENANT_TOKEN}' = 'x'"
    job = Job(**workplace.fields(input={"where": where}))
    for shown in (job, job.plan(), job.run()):
        assert "canary" not in shown._repr_html_() + plain(shown) + repr(shown)
    assert "(of the environment)" in plain(job)


def plain(shown: Any) -> str:
    """As IPython makes it, which looks for the method in the classes by their order."""
    printer = io.StringIO()
    owner = next(c for c in type(shown).__mro__ if "_repr_pretty_" in vars(c) or "__repr__" in vars(c))
    owner._repr_pretty_(shown, type("Printer", (), {"text": printer.write}), False)
    return printer.getvalue()


def test_a_run_of_a_damaged_output_shows_what_is_wrong(workplace: Workplace) -> None:
    workplace.write(100)
    run = workplace.run()
    (record,) = (workplace.folder / "output/_batchinfer").glob("*/manifests/0001.json")
    record.write_text("{}")
    assert "can't be read" in plain(run)
    assert "0001.json" in run._repr_html_()


class Cell:
    """What a front end gets to see."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.shown: list[tuple[dict[str, str], bool]] = []

    def __call__(self, bundle: dict[str, str], update: bool) -> None:
        self.shown.append((bundle, update))
        if self.fails:
            raise OSError("the front end is gone")


def watched(workplace: Workplace, cell: Cell, **sections: Any) -> list[float]:
    """Run a job with a widget; the times at which it showed something."""
    tally, stop, times = Tally(), StopRequest(), list[float]()

    def publish(bundle: dict[str, str], update: bool) -> None:
        times.append(time.monotonic())
        cell(bundle, update)

    widget = Widget("doubling", tally, stop, publish)

    def told(event: Event) -> None:
        tally(event)
        widget(event)

    with widget:
        Job(**workplace.fields(**sections)).run(listener=told, stop=stop)
    return times


def test_a_widget_is_one_output_that_is_updated_twice_a_second_and_ends_with_the_result(workplace: Workplace) -> None:
    workplace.write(4000, bad={7})
    cell = Cell()
    begin = time.monotonic()
    times = watched(workplace, cell, model={"options": {"delay": 0.02}})
    seconds = time.monotonic() - begin
    assert [update for _, update in cell.shown] == [False] + [True] * (len(cell.shown) - 1)
    assert len(times) <= seconds / EVERY_SECONDS + 5  # at its beginning, when planned, loaded, and at its end
    assert all(set(bundle) == {"text/plain", "text/html"} for bundle, _ in cell.shown)
    texts = [bundle["text/plain"] for bundle, _ in cell.shown]
    assert texts[0] == "doubling planning"
    moving = [text for text in texts if "rows/s, ETA" in text]
    assert len(moving) >= 3
    assert all("1 dead" in text for text in moving)
    assert "finished, with too many dead rows, after" in texts[-1]
    assert "4,000 = 3,999 succeeded + 1 dead" in texts[-1]
    assert "currentColor" in cell.shown[-2][0]["text/html"]  # the bar, in the colour of the theme
    assert "currentColor" not in cell.shown[-1][0]["text/html"]


def test_a_widget_shows_what_ended_the_run(workplace: Workplace) -> None:
    cell = Cell()
    with pytest.raises(InputError):
        watched(workplace, cell, input={"path": str(workplace.folder / "<none>")})
    assert cell.shown[-1][0]["text/plain"].startswith("doubling failed\n  error  input.path: ")
    assert "&lt;none&gt;" in cell.shown[-1][0]["text/html"]


def test_a_front_end_that_is_gone_does_not_end_the_run(workplace: Workplace) -> None:
    workplace.write(1000)
    cell = Cell(fails=True)
    watched(workplace, cell)
    assert len(cell.shown) == 1
    assert open_run(workplace.folder / "output").exit_code == 0


def test_outside_of_a_notebook_only_lines_that_are_asked_for_are_shown(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.write(1000)
    job = Job(**workplace.fields())
    assert publisher() is None
    job.run()
    job.run(restart=True, progress="none")
    assert capsys.readouterr() == ("", "")
    job.run(restart=True, progress="plain")
    out, err = capsys.readouterr()
    assert out == ""
    assert "doubling: running with 1 worker" in err
    assert "doubling: 1,000 of 1,000 rows (100 %)" in err
    assert isinstance(display("bar", "x", Tally(), StopRequest()), Lines)
    with pytest.raises(ValueError, match="progress='loud': write one of 'auto', 'bar', 'plain', 'none'"):
        job.run(progress="loud")  # type: ignore[call-overload]


def test_a_run_imports_no_ipython(workplace: Workplace) -> None:
    import json

    workplace.write(100)
    code = (
        "import json, sys; from batchinfer import Job; "
        "run = Job(**json.loads(sys.argv[1])).run(progress='bar'); run._repr_html_(); run.sample(3); "
        "sys.exit(sorted(m for m in sys.modules if m.split('.')[0] in ('IPython', 'ipykernel', 'ipywidgets', 'ray')))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(workplace.fields())], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


class Kernel:
    """A real kernel, and what its cells show."""

    def __init__(self, client: Any, manager: Any) -> None:
        self._client, self._manager = client, manager

    def run(self, code: str, interrupt: str | None = None) -> list[tuple[str, str]]:
        """Kind and plain text of the outputs of a cell; interrupts it once it has shown what is given."""
        cell, outputs, end = self._client.execute(code), list[tuple[str, str]](), time.monotonic() + 120
        while True:
            assert time.monotonic() < end, outputs
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
            text = content["data"]["text/plain"] if "data" in content else content.get("text", content.get("ename", ""))
            if kind not in ("status", "execute_input"):
                outputs.append((kind, text))
            if interrupt is not None and interrupt in text:
                self._manager.interrupt_kernel()
                interrupt = None


@pytest.fixture
def kernel(workplace: Workplace) -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        kernel = Kernel(client, manager)
        slow = workplace.fields(model={"options": {"delay": 0.02}}, batching={"shard": 500})
        assert kernel.run(f"from batchinfer import Job, open_run\njob = Job(**{slow!r})") == []
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_the_stop_button_drains_a_run_and_running_the_cell_again_goes_on(kernel: Kernel, workplace: Workplace) -> None:
    workplace.write(6000)
    outputs = kernel.run("run = job.run()\nrun.state", interrupt="rows/s")
    kinds = [kind for kind, _ in outputs]
    assert kinds[0] == "display_data"
    assert set(kinds[1:-1]) == {"update_display_data"}
    assert any("interrupted: finishing the batches in hand" in text for _, text in outputs)
    assert outputs[-2][1].startswith("doubling cancelled after")
    assert outputs[-1] == ("execute_result", "<State.CANCELLED: 'CANCELLED'>")
    run = open_run(workplace.folder / "output")
    assert (run.state, run.exit_code) == (State.CANCELLED, 130)
    assert 0 < run.counts.not_attempted < 6000
    outputs = kernel.run("job.run().counts.succeeded")
    assert any("were done before" in text for _, text in outputs)
    assert outputs[-1] == ("execute_result", "6000")


def test_a_background_run_in_a_kernel_outlives_an_interrupt_of_who_waits(kernel: Kernel, workplace: Workplace) -> None:
    workplace.write(3000)
    outputs = kernel.run("handle = job.run(background=True)")
    assert outputs[0] == ("display_data", "doubling planning")
    outputs = kernel.run("print('waiting'); handle.wait()", interrupt="waiting")
    assert outputs[-1] == ("error", "KeyboardInterrupt")
    assert kernel.run("handle.done") == [("execute_result", "False")]
    outputs = kernel.run("await __import__('asyncio').sleep(0); handle.wait().counts.succeeded")
    assert outputs[-1] == ("execute_result", "3000")
    assert outputs[-2][0] == "update_display_data"  # for front ends that follow one cell at a time
    assert outputs[-2][1].startswith("doubling succeeded after")


def test_lines_are_plain_output_in_a_kernel_and_none_is_none(kernel: Kernel, workplace: Workplace) -> None:
    workplace.write(100)
    outputs = kernel.run("run = job.run(progress='plain')")
    assert {kind for kind, _ in outputs} == {"stream"}
    assert "doubling: running with 1 worker" in "".join(text for _, text in outputs)
    assert kernel.run("run = job.run(progress='none', restart=True)") == []
    assert kernel.run("run")[0][1].startswith("doubling succeeded after")
