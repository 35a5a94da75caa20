"""The reference of the command line as Markdown, from the verbs themselves.

`python -m batchinfer.cli.reference jobs/pages/cli.md` writes the page. It says nothing that depends on the terminal or on the release
of the library that parses the line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from batchinfer.cli.app import app
from batchinfer.cli.sections import sections
from batchinfer.cli.streams import show
from batchinfer.cli.verb import by_panel, choices, panels

COMMAND = "python -m batchinfer.cli.reference jobs/pages/cli.md"
_NOT_OURS = {"--install-completion", "--show-completion", "--help"}


def reference() -> str:
    """The page."""
    program: Any = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        f"<!-- Made by `{COMMAND}`; don't edit. -->",
        "",
        program.help,
        "",
        "`batchinfer --install-completion` sets up completion for bash, zsh and fish: of verbs, options and their values, job files, "
        "outputs, names of parameters, and keys of the job file with what they take. The result is on stdout, everything else on stderr.",
        "",
        program.epilog,
        "",
    ]
    for title, commands in by_panel(program).items():
        lines += [f"## {title}", ""]
        for command in commands:
            lines += _verb(program, command)
    return "\n".join(lines).rstrip() + "\n"


def _verb(program: Any, command: Any) -> Iterator[str]:
    with program.make_context("batchinfer", [], resilient_parsing=True) as parent:
        context = type(parent)(command, info_name=command.name, parent=parent)
        found = panels(command, context)
    parts = sections(command.help)
    yield from (f"### {command.name}", "", parts.text, "", "```")
    names = [_name(p) for p, _ in found.get("Arguments", ())]
    yield from (" ".join(["batchinfer", command.name, *names, "[OPTIONS]"]), "```", "")
    words = choices(command)
    for title, records in found.items():
        rows = [row for param, _ in records if (row := _row(param, words.get(param.name, [])))]
        if rows:
            yield from (f"| {title} | |", "|---|---|", *rows, "")
    if parts.examples:
        yield from ("```sh", *parts.examples, "```", "")
    if parts.exit_codes:
        yield from (
            "| Exit code | |",
            "|---|---|",
            *(f"| {code} | {_cell(text)} |" for code, text in parts.exit_codes),
            "",
        )


def _name(param: Any) -> str:
    """An argument as the usage has it."""
    name = str(param.metavar or param.name.upper())
    return name if param.required else f"[{name}]"


def _row(param: Any, words: list[str]) -> str | None:
    """A line of a table; None for what is every program's."""
    if _NOT_OURS.intersection(param.opts):
        return None
    if param.param_type_name == "argument":
        spelled = f"`{param.metavar or param.name.upper()}`"
    else:
        value = "" if param.is_flag else f" {param.metavar or '|'.join(words) or 'VALUE'}"
        spelled = f"`{_cell(', '.join(param.opts) + value)}`"
    default = param.default
    shown = default is not None and default is not False and param.show_default is not False and not callable(default)
    return f"| {spelled} | {_cell(param.help or '')}{f' Default: `{default}`' if shown else ''} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page to the file that is named, or to stdout."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        show(reference().rstrip())


if __name__ == "__main__":
    main()
