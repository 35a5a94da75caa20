"""Modules that run by torch.compile: begun in one place, and what keeps one from being compiled told from what a row raises."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchinfer.errors import ModelError
from batchinfer.precision.artefacts import cache_folder

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_LOG = logging.getLogger(__name__)


def no_compiler(device: str, name: str) -> str | None:
    """Why a precision that is compiled can't be on a device, None where it can: a CPU's code is C++."""
    if device != "cpu" and not device.startswith("cuda"):
        return f"{name} is compiled for cpu and cuda, not for {device}"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device == "cpu" and shutil.which(compiler) is None:
        return f"{name} is compiled, and there is no C++ compiler ({compiler}) on this machine"
    return None


def compile_in_place(module: Any) -> None:
    """Have a module compiled in its first call, for any number of rows from two on and any width, as one graph where it can be.

    What is compiled is kept beside the other artefacts, unless TORCHINDUCTOR_CACHE_DIR says where: a second process takes 8 s instead of 28
    for MiniLM with the same number of threads, which is part of the code.
    """
    _keep_compiled()
    module.compile(dynamic=True)


def _keep_compiled() -> None:
    """Name the folder to torch, which would keep it in the machine's temporary one, and names that to itself as soon as it is asked."""
    told = os.environ.get(_CACHE)
    if told and not Path(told).match(f"{tempfile.gettempdir()}/torchinductor_*"):
        return
    folder = cache_folder() / "inductor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _LOG.warning(
            "%s can't be written, and what is compiled isn't kept there: set BATCHINFER_CACHE (%s)", folder, error
        )
        return
    os.environ[_CACHE] = str(folder)


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
