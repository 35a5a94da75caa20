"""The doors' one library: `Job`, `Run`, `open_run` and `map` say in Python what the terminal says."""

from batchinfer.api.background import BackgroundRun
from batchinfer.api.comparing import compare
from batchinfer.api.frame import map  # noqa: A004 - the word of the field; used as batchinfer.map
from batchinfer.api.job import Job
from batchinfer.api.run import Run, open_run, verify_output

__all__ = ["BackgroundRun", "Job", "Run", "compare", "map", "open_run", "verify_output"]
