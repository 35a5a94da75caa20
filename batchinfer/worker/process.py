"""Thread counts and waiting of the libraries that run in a worker's process."""

from __future__ import annotations

import os


def settle(threads: int, *, own: bool) -> None:
    """Settle what the numeric libraries read from the environment when they are loaded; call it before they are.

    OpenMP's threads wait for each other by spinning, unless told otherwise. As soon as anything else wants a core (reading,
    writing, another program), a spinning team holds up the thread that it waits for: on two cores a loop over a small network
    was measured 3 to 4 times slower beside other work. Where many short loops follow each other, as in a transformer, a sleep
    between each two costs as well, so they spin briefly first; how long made no difference beyond the noise of the measurement.

    Args:
        threads: of the worker.
        own: the process is the worker's alone, so that the counts of all libraries can be set; else only what is unset and
            concerns waiting is touched. A framework's own thread count is set when the model is loaded.

    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if own:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"):
            os.environ[variable] = str(threads)
        import pyarrow as pa

        pa.set_cpu_count(threads)
