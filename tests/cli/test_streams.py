from __future__ import annotations

import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from fcntl import ioctl

import pytest


def in_a_terminal(workplace, *arguments, env=None):
    """Run with stderr on a terminal of 80 columns: exit code, stdout, and all that the terminal got."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    run = subprocess.Popen(
        [*workplace.command, *arguments],
        cwd=workplace.folder,
        env={k: v for k, v in {**workplace.environment(), **(env or {})}.items() if k != "COLUMNS"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    out, _ = run.communicate(timeout=60)
    return run.returncode, out, seen.decode()


def test_stdout_holds_the_result_alone_even_when_the_model_prints(workplace):
    workplace.write_job(model="Talker")
    done = workplace.program("run", "job.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("doubling: succeeded")
    assert "the model says hello" in done.stderr
    assert "the model says hello" not in done.stdout


def test_json_is_one_line_last_on_stdout(workplace):
    workplace.write_job(model="Talker")
    done = workplace.batchinfer("run", "job.yaml", "--json")
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["state"] == "SUCCEEDED"
    assert result["exit_code"] == 0
    assert result["rows"] == {"planned": 100, "succeeded": 100, "dead": 0, "filtered": 0, "not_attempted": 0}
    for verb in (
        ["plan", "job.yaml"],
        ["validate", "job.yaml"],
        ["status", "out"],
        ["errors", "out"],
        ["clean", "out"],
    ):
        said = workplace.batchinfer(*verb, "--json").stdout
        assert said.count("\n") == 1
        assert isinstance(json.loads(said), dict)


def test_an_error_under_json_is_a_line_of_json_too(workplace):
    done = workplace.batchinfer("run", "nothing.yaml", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"exit_code": 2, "errors": [done.stderr.rstrip().removeprefix("error: ")]}


@pytest.mark.parametrize("verb", [["schema"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(workplace, verb):
    run = workplace.start(*verb)
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    assert run.stderr.read() == ""
    run.wait(timeout=20)


def test_a_run_whose_reader_goes_away_keeps_its_exit_code(workplace):
    workplace.write_job(bad=[3])
    run = workplace.start("run", "job.yaml")
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    errors = run.stderr.read()
    assert run.wait(timeout=60) == 3
    assert "BrokenPipe" not in errors


def test_without_a_terminal_progress_is_plain_lines(workplace):
    workplace.write_job(rows=400, batch=10, seconds=0.05)
    done = workplace.batchinfer("run", "job.yaml")
    assert re.search(
        r"^batchinfer: [\d,]+ of 400 rows \(\d+ %\), [\d.]+ rows/s, ETA \d+ s( to \d+ s)?$", done.stderr, re.M
    ), done.stderr
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_progress_none_says_nothing_of_a_run_that_goes_well(workplace):
    workplace.write_job()
    assert workplace.batchinfer("run", "job.yaml", "--progress", "none").stderr == ""


def test_on_a_terminal_progress_is_a_bar_with_a_line_for_each_worker(workplace):
    workplace.write_job(rows=200, batch=10, seconds=0.05)
    code, out, seen = in_a_terminal(workplace, "run", "job.yaml")
    assert code == 0
    assert "━" in seen
    assert re.search(r"of 200 rows · [\d.]+ rows/s", seen)
    assert re.search(r"worker 0 +shard \d+ +model +\d+ % busy, +\d+ % waiting +\d+ rows", seen)
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h"), (
        "the cursor is hidden while the bar lasts, and shown again"
    )
    assert "\x1b" not in out


def test_no_line_of_the_bar_is_wider_than_the_terminal(workplace):
    workplace.write_job(rows=200, batch=10, seconds=0.05)
    name = "a-very-long-name-of-a-job-that-would-not-leave-any-room-for-a-bar"
    _, _, seen = in_a_terminal(workplace, "run", "job.yaml", "--set", f"name={name}")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 80


def test_no_color_is_honoured(workplace):
    workplace.write_job(rows=100, batch=10, seconds=0.05)
    colours = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|38|9[0-7])[;m]")
    _, _, seen = in_a_terminal(workplace, "run", "job.yaml")
    assert colours.search(seen)
    _, _, seen = in_a_terminal(workplace, "run", "job.yaml", "--restart", env={"NO_COLOR": "1"})
    assert "━" in seen
    assert not colours.search(seen)


def test_a_dumb_terminal_gets_plain_lines(workplace):
    workplace.write_job()
    _, _, seen = in_a_terminal(workplace, "run", "job.yaml", env={"TERM": "dumb"})
    assert "batchinfer: running with 1 worker" in seen
    assert "\x1b" not in seen


def test_a_stopped_run_says_that_it_is_saving(workplace):
    workplace.write_job(rows=400, batch=10, seconds=0.1)
    run = workplace.start("run", "job.yaml")
    assert run.stderr is not None
    for line in run.stderr:
        if "rows (" in line:
            break
    run.send_signal(signal.SIGINT)
    out, errors = run.communicate(timeout=20)
    assert "interrupted: finishing the batches in hand and saving them; once more to exit at once" in errors
    assert "run the same command to go on" in out
