"""Modules that run by torch.compile: begun in one place, and what keeps one from being compiled told from what a row raises."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from batchinfer.errors import ModelError


def compile_in_place(module: Any) -> None:
    """Have a module compiled in its first call, for any number of rows from two on and any width, as one graph where it can be."""
    module.compile(dynamic=True)


@contextlib.contextmanager
def compiling(where: str) -> Iterator[None]:
    """Around a call of a module that may be compiled in it.

    Raises ModelError beginning with `where` when the compiler fails: no other row would mend that. What the module itself raises passes.
    """
    try:
        yield
    except Exception as error:
        compiler = sys.modules.get("torch._dynamo.exc")
        if (
            compiler is None
            or not isinstance(error, compiler.TorchDynamoException)
            or isinstance(error, compiler.TorchRuntimeError)  # the module's own error, met while it was traced
        ):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"{where}: torch.compile fails on this model ({type(error).__name__}: {reason}): use a precision that needs none, "
            "such as bf16 or int8-weight"
        ) from error
