"""Words as Typer completes them, in bash, which parts `--set retry.timeout=60s` and `s3://lake` at `=` and `:`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, MutableMapping

WORDS, AT = "COMP_WORDS", "COMP_CWORD"
"""What the completion script hands over: the words of the line, each on a line of its own, and the index of the one to complete."""
_BREAKS = ("=", ":", "=:", "::")


def completed(environ: MutableMapping[str, str], complete: Callable[[], None]) -> None:
    """Let `complete` print completions of the words in `environ`, put together again; print them as bash takes them.

    Raises what `complete` raises, SystemExit that is.
    """
    whole, at = joined(environ.get(WORDS, "").split("\n"), int(environ.get(AT, "0")))
    beginning = _parted(whole[at]) if at < len(whole) else ""
    environ[WORDS], environ[AT] = "\n".join(whole), str(at)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            complete()
    finally:
        sys.stdout.write("".join(f"{line.removeprefix(beginning)}\n" for line in said.getvalue().splitlines()))
        sys.stdout.flush()


def joined(words: list[str], at: int) -> tuple[list[str], int]:
    """The words as they were typed, and the index of the one at the cursor, which is the last of them."""
    whole: list[str] = []
    glued = False
    for index, word in enumerate([*words, *[""] * (at + 1 - len(words))][: at + 1]):
        is_break = word in _BREAKS
        if whole and index > 1 and (is_break or glued):
            whole[-1] += word
        else:
            whole.append(word)
        glued = is_break
    return whole, len(whole) - 1


def _parted(word: str) -> str:
    """What of a word stands before the last place where bash parts it."""
    return word[: max(word.rfind(each) for each in "=:") + 1]
