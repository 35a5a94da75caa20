"""Help of the verbs, the reference made of it, and what mistyped words are answered with."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import batchinfer
from batchinfer.cli import reference
from batchinfer.cli.app import app
from batchinfer.cli.sections import sections
from batchinfer.cli.verb import by_panel
from batchinfer.job.nearest import all_near, nearest
from tests.cli.conftest import ROOT

PROGRAM = get_command(app)
EXAMPLES = [(name, line) for name, verb in PROGRAM.commands.items() for line in verb.sections.examples]


def command_of(example: str) -> str:
    """The command of an example, without the comment behind it."""
    return example.partition("  #")[0].strip()


def test_help_names_each_verb_in_its_panel_with_its_whole_first_sentence(workplace):
    shown = workplace.batchinfer("--help").stdout
    panels = by_panel(PROGRAM)
    assert list(panels) == ["Prepare", "Run", "Look"]
    for title, commands in panels.items():
        panel = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0].splitlines()
        firsts = [" ".join(command.sections.text.split("\n\n")[0].split()) for command in commands]
        assert [line.split(maxsplit=1) for line in panel] == [
            [command.name, first.partition(". ")[0].removesuffix(".") + "."]
            for command, first in zip(commands, firsts, strict=True)
        ]


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_every_verb_has_a_line_a_panel_and_examples(name):
    verb = PROGRAM.commands[name]
    first = verb.sections.text.split("\n\n")[0]
    assert first.endswith(".")
    assert len(first) <= 80 - len("  validate  ")
    assert verb.rich_help_panel
    assert verb.sections.examples


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_every_example_is_a_command_that_the_program_takes(name, example):
    program, verb, *arguments = shlex.split(command_of(example).partition(" > ")[0])
    assert (program, verb) == ("batchinfer", name)
    context = PROGRAM.commands[verb].make_context(verb, arguments)
    assert not context.args
    assert len(example) <= 76  # within 80 columns, indented


@pytest.mark.slow
def test_the_examples_do_what_they_say(workplace):
    workplace.write_job()
    job = workplace.folder / "job.yaml"
    job.write_text(job.read_text().replace("path: out}", "path: out/predictions}") + "params: {day: none}\n")
    for verb in ("validate", "plan", "run", "status", "errors", "verify", "retry", "wait", "cancel", "clean", "schema"):
        for example in PROGRAM.commands[verb].sections.examples:
            if ".." not in example:  # a range needs an output for each day
                arguments = shlex.split(command_of(example).partition(" > ")[0])[1:]
                done = workplace.batchinfer(*arguments)
                assert done.returncode == 0, (example, done.stderr)
    (example,) = (e for e in PROGRAM.commands["init"].sections.examples if "--input" in e)
    job.unlink()
    assert workplace.batchinfer(*shlex.split(example)[1:]).returncode == 0
    assert workplace.batchinfer("validate", "job.yaml").returncode == 0


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_help_fits_eighty_columns_and_shows_all_of_it(workplace, name):
    done = workplace.batchinfer(name, "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = " ".join(done.stdout.split())
    parts = PROGRAM.commands[name].sections
    for text in (parts.text, *parts.examples, *(f"{code} {text}" for code, text in parts.exit_codes)):
        assert " ".join(text.split()) in shown


def test_many_options_are_shown_in_panels_and_few_in_one_list(workplace):
    titles = [line for line in workplace.batchinfer("run", "-h").stdout.splitlines() if line and line[0] != " "]
    assert titles[1:] == [
        "Arguments:",
        "Job options:",
        "Run options:",
        "Reporting options:",
        "Options:",
        "Examples:",
        "Exit codes:",
    ]
    assert "Reporting" not in workplace.batchinfer("plan", "-h").stdout


def test_a_docstring_is_taken_apart():
    parts = sections("""Do it.

    Slowly.

    Examples:
        batchinfer do it  # now
        batchinfer do that

    Exit codes:
        0: it is done
            and well
        75: not yet
    """)
    assert parts.text == "Do it.\n\nSlowly."
    assert [command_of(e) for e in parts.examples] == ["batchinfer do it", "batchinfer do that"]
    assert parts.exit_codes == (("0", "it is done and well"), ("75", "not yet"))
    with pytest.raises(ValueError, match="no `code: meaning`"):
        sections("Do it.\n\nExit codes:\n    zero: done")


def test_the_reference_is_what_the_program_says():
    page = (ROOT / "jobs" / "pages" / "cli.md").read_text()
    assert page == reference.reference(), f"jobs/pages/cli.md is stale, make it anew: {reference.COMMAND}"


def test_the_reference_does_not_depend_on_the_terminal(workplace, monkeypatch):
    before = reference.reference()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    assert reference.reference() == before
    for name, verb in PROGRAM.commands.items():
        assert f"### {name}\n" in before
        for param in verb.params:
            assert all(f"`{spelled}" in before for spelled in param.opts if spelled.startswith("--"))


def test_the_reference_is_made_by_its_command(workplace):
    words = shlex.split(reference.COMMAND)[3:]
    assert words == ["jobs/pages/cli.md"]
    done = workplace.python("import sys; sys.argv[1:] = ['page.md']; from batchinfer.cli.reference import main; main()")
    assert done.returncode == 0, done.stderr
    assert (workplace.folder / "page.md").read_text() == reference.reference()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "job.yaml"], "No such command 'rnu'; did you mean 'run'?"),
        (["zzz"], "No such command 'zzz'."),
        (["run", "job.yaml", "--parm", "a=b"], "No such option: --parm; did you mean --param?"),
        (["run", "job.yaml", "--qqqq"], "No such option: --qqqq"),
        (["--versoin"], "No such option: --versoin; did you mean --version?"),
        (["run", "job.yaml", "--if-locked", "wiat"], "'fail', 'wait', 'skip'; did you mean wait?"),
        (["run", "job.yaml", "--progress", "zzz"], "'none'."),
        (["run", "job.yaml", "--param", "dya=1"], "did you mean day?"),
        (["run", "job.yaml", "--set", "retyr.timeout=1"], "did you mean retry?"),
        (["run", "job.yaml", "--set", "model.engine=pyhton"], "did you mean python?"),
        (["run", "job.yaml", "--set", "model.precision=bf61"], "did you mean bf16?"),
        (["run", "job.yaml", "--set", "input.key=idd"], "did you mean 'id'?"),
        (["run", "job.yaml", "--set", "output.columns=[yy]"], "did you mean 'y'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_mistyped_word_is_answered_with_what_was_meant(workplace, arguments, message):
    workplace.write_job()
    with (workplace.folder / "job.yaml").open("a") as file:
        file.write("params: {day: none}\n")
    done = workplace.batchinfer(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert ("did you mean" in done.stderr) == ("did you mean" in message)


def test_one_module_knows_what_was_meant():
    """All that says `did you mean` asks it, so that one word is found near another everywhere or nowhere."""
    asks = []
    for path in Path(batchinfer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            asks += [path.name] if "difflib" in names else []
    assert asks == ["nearest.py"]


def test_words_are_near_that_differ_little_or_in_case_alone():
    assert nearest("presicion", ["precision", "provider"]) == "precision"
    assert nearest("ID", ["name", "id"]) == "id"
    assert nearest("zzz", ["name", "id"]) is None
    assert nearest("n" * 10_000, ["n" * 9_999]) is None
    assert all_near("colum", ["column", "columns", "color", "zzz"])[:2] == ["column", "columns"]
