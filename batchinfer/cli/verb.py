"""How verbs show their help and answer a mistyped word: what Typer leaves to its classes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from batchinfer.cli.sections import Sections, sections
from batchinfer.job.nearest import nearest

OPTIONS = "Options"
"""The panel of options that name none."""
_FEW = 6
"""So many options are one list."""
_NO_CHOICE = re.compile(r".*?'([^']*)' is not one of ")
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What a wrong command line raises; newer releases of Typer give it no public name."""


class Verb(TyperCommand):
    """A verb with its options in panels, and with the examples and exit codes of its docstring. See `sections`."""

    @property
    def sections(self) -> Sections:
        """The parts of its help."""
        return sections(self.help or "")

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the signature is Click's
        """The text alone; examples and exit codes come last."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(self.sections.text)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each panel of options."""
        for title, records in panels(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl([record for _, record in records])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Examples as they are to be typed, and exit codes."""
        parts = self.sections
        if parts.examples:
            with formatter.section("Examples"):
                for line in parts.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        if parts.exit_codes:
            with formatter.section("Exit codes"):
                formatter.write_dl(parts.exit_codes)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. A usage error says what was probably meant."""
        with _advised(self, ctx):
            return super().parse_args(ctx, args)


class Verbs(TyperGroup):
    """The program, with its verbs in panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each panel of verbs, in the order in which they were registered."""
        width = max(map(len, self.list_commands(ctx)))
        for title, commands in by_panel(self).items():
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{c.name:<{width}}", c.get_short_help_str(formatter.width - 6 - width)) for c in commands]
                )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before the verb. A usage error says what was probably meant."""
        with _advised(self, ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb; for an unknown one, the usage error says which was probably meant."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = nearest(args[0], known)
            ctx.fail(f"No such command {args[0]!r}" + (f"; did you mean {near!r}?" if near else "."))
        return super().resolve_command(ctx, args)


def by_panel(program: Any) -> dict[str, list[Any]]:
    """The verbs of the program in panels, both in the order in which they were registered."""
    found: dict[str, list[Any]] = {}
    for command in program.commands.values():
        found.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(command)
    return found


def panels(command: Any, ctx: Any) -> dict[str, list[tuple[Any, tuple[str, str]]]]:
    """Arguments and options of a command as its help groups them: each with what is shown of it."""
    shown = [(p, record) for p in command.get_params(ctx) if (record := p.get_help_record(ctx)) is not None]
    options = [(p, record) for p, record in shown if p.param_type_name == "option"]
    found: dict[str, list[tuple[Any, tuple[str, str]]]] = {}
    if arguments := [(p, record) for p, record in shown if p.param_type_name == "argument"]:
        found["Arguments"] = arguments
    for param, record in options:
        title = getattr(param, "rich_help_panel", None) if len(options) > _FEW else None
        found.setdefault(title or OPTIONS, []).append((param, record))
    if OPTIONS in found:
        found[OPTIONS] = found.pop(OPTIONS)  # last, as --help is
    return found


def choices(command: Any) -> dict[str, list[str]]:
    """The words that a command's options may have, by the option's name, of those that have such words."""
    hints = get_type_hints(command.callback) if command.callback is not None else {}
    return {
        name: [str(each.value) for each in kind]
        for name, kind in hints.items()
        if isinstance(kind, type) and issubclass(kind, Enum)
    }


@contextlib.contextmanager
def _advised(command: Any, ctx: Any) -> Iterator[None]:
    """A usage error of the block says what was probably meant."""
    try:
        yield
    except _UsageError as error:
        if (name := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
            error.possibilities = None  # the library's own, in words of its own
            near = nearest(name, [spelled for p in command.get_params(ctx) for spelled in p.opts])
            _advise(error, near)
        elif (param := getattr(error, "param", None)) and (
            match := _NO_CHOICE.match(str(getattr(error, "message", "")))
        ):
            _advise(error, nearest(match[1], choices(command).get(param.name, ())))
        raise


def _advise(error: Any, near: str | None) -> None:
    if near is not None:
        error.message = f"{error.message.rstrip('.')}; did you mean {near}?"
