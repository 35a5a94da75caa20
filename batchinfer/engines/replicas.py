"""One module for each thread that calls it."""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any


class Replicas:
    """A torch module that several threads call at a time. They share its parameters.

    A module may keep values in attributes or buffers while it runs, so every thread but the first that asks has a copy of all but the
    parameters. Exported programs and TorchScript have no attributes of Python's: they are shared as they are, and so is what is `compiled`,
    since a copy would be compiled again.

    Args:
        module: on its device, in inference mode.
        device: where it is.
        threads: CPU threads of a call on a CPU, which torch keeps by the calling thread.
        compiled: it runs by torch.compile, and keeps nothing while it runs.

    """

    def __init__(self, module: Any, device: str, threads: int, *, compiled: bool = False) -> None:
        self._module, self._device, self._threads = module, device, threads
        self._lock, self._compiled = threading.Lock(), compiled
        self._by_thread: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    @property
    def can_be_several(self) -> bool:
        """Whether a second thread can have a module: what a user's own holds besides parameters may be nothing that can be copied."""
        try:
            self._copy()
        except Exception:  # noqa: BLE001 - whatever the module's attributes raise
            return False
        return True

    def here(self) -> Any:
        """The calling thread's module, with the thread's CPU threads set."""
        import torch

        if self._device == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        thread = threading.get_ident()
        if thread not in self._by_thread:
            with self._lock:
                self._by_thread[thread] = self._copy() if self._by_thread else self._module
        return self._by_thread[thread]

    def stream(self) -> contextlib.AbstractContextManager[Any]:
        """The calling thread's CUDA stream, to be entered around a call: what one thread has in hand there doesn't queue behind another's.

        All of a call must be in it, with the copies to the device and back.
        """
        if not self._device.startswith("cuda"):
            return contextlib.nullcontext()
        import torch

        thread = threading.get_ident()
        if thread not in self._streams:
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(torch.cuda.default_stream(self._device))  # on which the weights were brought there
            self._streams[thread] = stream
        entered: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._streams[thread])
        return entered

    def _copy(self) -> Any:
        import torch

        if self._compiled or isinstance(self._module, torch.jit.ScriptModule | torch.fx.GraphModule):
            return self._module
        return copy.deepcopy(self._module, {id(p): p for p in self._module.parameters()})
