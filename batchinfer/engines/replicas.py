"""One module for each thread that calls it."""

from __future__ import annotations

import copy
import threading
from typing import Any


class Replicas:
    """A torch module that several threads call at a time. They share its parameters.

    A module may keep values in attributes or buffers while it runs, so every thread but the first that asks has a copy of all but the
    parameters. Exported programs and TorchScript have no attributes of Python's: they are shared as they are.

    Args:
        module: on its device, in inference mode.
        threads: CPU threads of a call, which torch keeps by the calling thread; None leaves them as they are.

    """

    def __init__(self, module: Any, threads: int | None) -> None:
        self._module, self._threads = module, threads
        self._lock = threading.Lock()
        self._by_thread: dict[int, Any] = {}

    def here(self) -> Any:
        """The calling thread's module, with the thread's CPU threads set."""
        import torch

        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        thread = threading.get_ident()
        if thread not in self._by_thread:
            with self._lock:
                self._by_thread[thread] = self._copy() if self._by_thread else self._module
        return self._by_thread[thread]

    def _copy(self) -> Any:
        import torch

        if isinstance(self._module, torch.jit.ScriptModule | torch.fx.GraphModule):
            return self._module
        return copy.deepcopy(self._module, {id(p): p for p in self._module.parameters()})
