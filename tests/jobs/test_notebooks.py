"""The tutorial, executed as a notebook is, does what its text says; and so does the code of the page on notebooks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    target = tmp_path / "jobs"
    shutil.copytree(JOBS, target, ignore=shutil.ignore_patterns("out", "generated", "__pycache__"))
    return target


def executed(notebook: Any, folder: Path) -> dict[str, Any]:
    """Run every cell in a kernel, in this folder; the code cells by the beginning of their source."""
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.source: cell for cell in notebook.cells if cell.cell_type == "code"}


def shown(cells: dict[str, Any], source: str, kind: str = "text/plain") -> str:
    """What the one cell with this in its source shows."""
    (cell,) = [cell for text, cell in cells.items() if source in text]
    return "\n".join(
        output["text"] if output.output_type == "stream" else output["data"].get(kind, "") for output in cell.outputs
    )


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(jobs: Path) -> None:
    notebook = nbformat.read(jobs / "tutorial.ipynb", as_version=4)
    cells = executed(notebook, jobs)

    assert not [o for c in cells.values() for o in c.outputs if o.get("name") == "stderr"]
    assert "limit   300 rows" in shown(cells, "Job.from_yaml")
    assert "300 (limit 300)" in shown(cells, "job.plan()", "text/html")
    assert shown(cells, "run = job.run(restart=True)").startswith("quickstart succeeded after ")
    assert "300 = 300 succeeded + 0 dead" in shown(cells, "run = job.run(restart=True)", "text/html")
    assert "Counts(planned=300, succeeded=300" in shown(cells, "run.counts")
    assert "speed" not in shown(cells, "run.counts")  # nothing was predicted the second time
    assert "Truman" in shown(cells, "run.results()")
    assert "(300, ['id', 'year', 'president', 'embedding'])" in shown(cells, "run.dataset()")
    sample = shown(cells, "run.sample(4")
    assert "shape: (4, 5)" in sample
    assert "text" in sample
    nearest = shown(cells, "np.argsort")
    assert re.search(r"For we are a people with a faith.*The faith of our people", nearest, re.DOTALL)
    assert "finished, with too many dead rows, after" in shown(cells, "graded = grading.run")
    assert "2,340 = 2,157 succeeded + 183 dead" in shown(cells, "graded = grading.run")
    assert "words are too few" in shown(cells, "errors().group_by")
    assert "2,340 = 2,340 succeeded + 0 dead" in shown(cells, "graded.retry")
    assert shown(cells, "len(graded.errors())") == "(0, 2340)"
    assert shown(cells, "handle.status()").startswith("Status(RUNNING: ")
    assert "a background run of this process is at work here" in shown(cells, "TransientError")
    assert "SUCCEEDED" in shown(cells, "handle.wait()")
    assert "300 = 300 succeeded" in shown(cells, "job.run(background=True")  # where the run was begun
    assert shown(cells, ".findings") == "[]"


def test_the_tutorial_is_kept_without_its_outputs() -> None:
    notebook = nbformat.read(JOBS / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_code_of_the_page_on_notebooks_runs(jobs: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (jobs / "pages/notebook.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block) for block in blocks])
    notebook.cells.append(nbformat.v4.new_code_cell("print(run.exit_code, run.counts.succeeded, len(run.sample(5)))"))
    assert shown(executed(notebook, jobs), "print(run.exit_code") == "0 40 5\n"
