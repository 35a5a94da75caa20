"""What rounds of a benchmark come to, and when they may be put together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.benchmarks import agreement, gpu, rounds, turns
from tests.benchmarks.compare import Comparison
from tests.benchmarks.models import ROOT, Marks
from tests.benchmarks.rounds import Ratio, Round

MACHINE = {"cpu": "one", "cores": 2, "commit": "abc"}


def made(machine: dict[str, Any] = MACHINE, rows: int = 100, **seconds: float) -> Round:
    """A round with the steady seconds of each program."""
    results = {name: {"rows": rows, "steady_s": s, "peak_mb": 10 * s} for name, s in seconds.items()}
    return Round("text", {"rows": rows}, machine, results)


def test_a_ratio_is_of_two_programs_of_one_round_whatever_the_machine_did_between_rounds() -> None:
    found = rounds.ratio([made(loop=10, inline=8), made(loop=100, inline=80)], "inline", "loop", "steady_s")
    assert found == Ratio(1.25, 1.25, 1.25, 2)


def test_the_median_and_the_quartiles_are_those_of_the_rounds() -> None:
    found = rounds.ratio([made(loop=s, inline=10) for s in (8, 9, 10, 11, 12)], "inline", "loop", "steady_s")
    assert found == Ratio(1.0, 0.9, 1.1, 5)
    assert not found.resolved
    assert str(found) == "1.00 (0.90 to 1.10, unresolved)"


def test_a_ratio_is_resolved_where_the_quartiles_are_within_a_twentieth_of_the_median() -> None:
    assert Ratio(1.0, 0.975, 1.025, 9).resolved
    assert not Ratio(1.0, 0.97, 1.03, 9).resolved
    assert Ratio(10.0, 9.8, 10.2, 9).resolved
    assert str(Ratio(1.0, 0.98, 1.02, 9)) == "1.00 (0.98 to 1.02)"


def test_one_round_resolves_nothing() -> None:
    found = rounds.ratio([made(loop=10, inline=10)], "inline", "loop", "steady_s")
    assert found is not None
    assert not found.resolved
    assert str(found) == "1.00 (one round)"


def test_rounds_without_one_of_the_programs_are_left_out_of_a_ratio() -> None:
    some = [made(loop=10, inline=10), made(loop=10), made(inline=1)]
    found = rounds.ratio(some, "inline", "loop", "steady_s")
    assert found is not None
    assert (found.median, found.rounds) == (1.0, 1)
    assert rounds.ratio(some, "inline", "daft", "steady_s") is None


def test_the_summary_compares_each_program_with_the_baseline_and_ours_with_each() -> None:
    summary = rounds.summary([made(loop=10, inline=10, daft=20)] * 3, "loop", "inline", "steady_s")
    programs = summary["programs"]
    assert programs["daft"]["to_baseline"]["median"] == 0.5
    assert programs["daft"]["ours_to_it"]["median"] == 2.0
    assert programs["loop"]["to_baseline"] is None
    assert programs["inline"]["ours_to_it"] is None
    assert summary["commits"] == ["abc"]


def test_figures_are_medians_but_memory_is_the_largest() -> None:
    results = [
        {"rows": 100, "steady_s": s, "steady_cpu_s": 2 * s, "cpu_s": 3 * s, "peak_mb": s, "output_bytes": 2**20}
        for s in (1, 2, 10)
    ]
    assert rounds.figures(results, "steady_s") == {
        "rows_per_s": 50.0,
        "end_to_end_s": None,
        "first_s": None,
        "peak_mb": 10,
        "output_mb": 1.0,
        "cpu_ms_per_row": 40.0,
    }
    assert rounds.figures(results, "end_to_end_s")["cpu_ms_per_row"] == 60.0


def test_rounds_accumulate_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    rounds.add(path, made(loop=10, inline=9))
    both = rounds.add(path, made(loop=11, inline=9))
    assert len(both) == 2
    assert rounds.read(path) == both
    assert len(json.loads(path.read_text())["rounds"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["text.json"]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (made(machine={**MACHINE, "cpu": "two"}, loop=1), "cpu: one there, two now"),
        (made(rows=200, loop=1), "rows: 100 there, 200 now"),
    ],
    ids=["machine", "rows"],
)
def test_a_round_of_another_machine_or_other_conditions_is_refused(
    tmp_path: Path, other: Round, difference: str
) -> None:
    path = tmp_path / "text.json"
    rounds.add(path, made(loop=10))
    with pytest.raises(ValueError, match=difference):
        rounds.add(path, other)
    assert len(rounds.read(path)) == 1


def test_a_round_of_another_commit_is_taken_and_both_are_told(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    rounds.add(path, made(loop=10))
    both = rounds.add(path, made(machine={**MACHINE, "commit": "def"}, loop=10))
    assert rounds.summary(both, "loop", "inline", "steady_s")["commits"] == ["abc", "def"]


def test_the_table_has_a_line_for_each_program_and_a_dash_for_what_is_not_known() -> None:
    text = rounds.markdown(rounds.summary([made(loop=10, inline=8)] * 2, "loop", "inline", "steady_s"))
    lines = text.splitlines()
    assert lines[-2:] == [
        "| loop | 10 | – | 1.25 (1.25 to 1.25) | – | – | 100 | – | – |",
        "| inline | 12 | 1.25 (1.25 to 1.25) | – | – | – | 80 | – | – |",
    ]
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|")


def test_a_program_that_is_not_there_is_refused_with_those_that_are() -> None:
    comparison = Comparison("text", "embedding", {}, {"loop": [], "daft": []}, {}, "loop", "inline")
    assert comparison.choose(["daft"]) == ["daft"]
    with pytest.raises(ValueError, match="no program spark; it has loop, daft"):
        comparison.choose(["spark"])


def output(folder: Path, ids: list[int], **column: Any) -> Path:
    folder.mkdir()
    pq.write_table(pa.table({"id": ids, **column}), folder / "part.parquet")
    return folder


def test_outputs_agree_by_id_in_any_order(tmp_path: Path) -> None:
    left = output(tmp_path / "left", [1, 2], embedding=[[1.0, 0.0], [0.0, 1.0]])
    right = output(tmp_path / "right", [2, 1], embedding=[[0.0, 1.0], [1.0, 0.0]])
    assert agreement.check(left, right, "embedding") == {"cosine_min": 1.0}


def test_programs_that_computed_something_else_are_not_compared(tmp_path: Path) -> None:
    reference = output(tmp_path / "reference", [1, 2], embedding=[[1.0, 0.0], [0.0, 1.0]], score=[1.0, 2.0])
    turned = output(tmp_path / "turned", [1, 2], embedding=[[1.0, 0.0], [1.0, 0.0]], score=[1.0, float("nan")])
    fewer = output(tmp_path / "fewer", [1], embedding=[[1.0, 0.0]], score=[1.0])
    for column in ("embedding", "score"):
        for wrong in (turned, fewer):
            with pytest.raises(ValueError, match="reference"):
                agreement.check(wrong, reference, column)


def test_outputs_of_different_codecs_are_not_compared(tmp_path: Path) -> None:
    mine = output(tmp_path / "mine", [1], score=[1.0])
    other = output(tmp_path / "other", [1], score=[1.0])
    pq.write_table(pq.read_table(other / "part.parquet"), other / "part.parquet", compression="zstd")
    with pytest.raises(ValueError, match=r"mine is written with SNAPPY, and .*other with ZSTD"):
        agreement.check(mine, other, "score")


def test_the_memory_of_a_program_is_that_of_its_children_too() -> None:
    before = turns.family_mb(os.getpid())
    code = "held = bytearray(b'1') * (200 << 20)\nprint('held', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = turns.family_mb(os.getpid())
        child.communicate(b"\n")
    assert after - before >= 180


BURN = "import time\nwhile time.process_time() < 0.5: pass\n"


def test_cpu_seconds_are_those_of_all_processes_running_and_ended(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    before = marks.cpu_seconds()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    ended = marks.cpu_seconds() - before
    code = BURN + "print('burnt', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        both = marks.cpu_seconds() - before
        running.communicate(b"\n")
    assert ended >= 0.4
    assert both >= ended + 0.4


def test_cpu_seconds_of_a_process_that_ended_count_before_it_is_waited_for(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    before = marks.cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        ended.stdout.read()
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert marks.cpu_seconds() - before >= 0.4


def test_cpu_seconds_of_a_worker_whose_end_nobody_waits_for_are_those_that_it_noted(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    worker = BURN + f"from tests.benchmarks.models import Marks; Marks({str(tmp_path)!r}).spent()"
    code = (
        "import signal, subprocess, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        f"subprocess.run([sys.executable, '-c', {worker!r}]); print('ended', flush=True); input()"
    )
    before = marks.cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        own = psutil.Process(parent.pid).cpu_times()
        after = marks.cpu_seconds()
        parent.communicate(b"\n")
    assert own.children_user == 0  # it really is lost without the note
    assert after - before - own.user - own.system >= 0.4


def test_cpu_seconds_of_a_process_that_was_seen_after_a_moment_count_when_it_is_gone(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    code = "import signal, subprocess, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    code += f"subprocess.run([sys.executable, '-c', {BURN + 'time.sleep(1.5)'!r}]); print('ended', flush=True); input()"
    with (
        marks.watched(),
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent,
    ):
        assert parent.stdout is not None
        parent.stdout.readline()
        gained = marks.cpu_seconds(since=0.0) - marks.cpu_seconds()
        parent.communicate(b"\n")
    assert gained >= 0.4


def test_a_program_that_fails_ends_the_round_and_the_programs_that_stand_still(tmp_path: Path) -> None:
    package = tmp_path / "tests" / "benchmarks"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "programs.py").write_text("import sys, time\nif sys.argv[1] == 'fails': sys.exit(3)\ntime.sleep(60)\n")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        turns.run({"slow": ["sleeps"], "bad": ["fails"]}, str(tmp_path))
    assert not [p for p in psutil.Process().children() if p.cwd() == str(tmp_path)]


@pytest.mark.slow
def test_rounds_accumulate_over_calls_and_one_that_failed_does_not_count(tmp_path: Path) -> None:
    into = tmp_path / "table.json"
    command = [sys.executable, "-m", "tests.benchmarks", "table", "--rows", "1000", "--programs", "loop,inline"]
    command += ["--rounds", "1", "--folder", str(tmp_path), "--into", str(into)]
    for count in (1, 2):
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        assert len(rounds.read(into)) == count
    for figures in rounds.read(into)[0].results.values():
        assert figures["rows"] == 1000
        assert all(
            figures[name] > 0
            for name in ("steady_s", "steady_cpu_s", "end_to_end_s", "first_s", "peak_mb", "output_bytes")
        )
    next((tmp_path / "table-1000").glob("*.parquet")).write_bytes(b"no Parquet")
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "the round doesn't count" in failed.stderr
    assert len(rounds.read(into)) == 2


def test_shares_of_a_devices_peak_count_real_tokens_and_its_time_those_with_padding() -> None:
    told = {
        "ready": 0.0,
        "written": 10.0,
        "rows": 5,
        "tokens": 100,
        "padded_tokens": 200,
        "infer_s": 5.0,
        "wait_s": 4.0,
    }
    found = gpu.shares(told, peak=1e5, parameters=1000)
    assert found["tokens_per_s"] == 10.0
    assert found["share_of_peak"] == pytest.approx(2 * 1000 * 100 / 10 / 1e5)
    assert found["share_of_peak_on_device"] == pytest.approx(2 * 1000 * 200 / 5 / 1e5)
    assert (found["on_device"], found["waiting"], found["padding"]) == (0.5, 0.4, 0.5)


def test_a_programs_peak_is_its_own_and_not_that_of_what_started_it() -> None:
    held = bytearray(300 << 20)
    held[::4096] = b"1" * len(held[::4096])
    code = "from tests.benchmarks.programs import peak_mb; print(peak_mb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(told.stdout) < 200
