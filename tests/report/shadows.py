"""Jobs over one input whose models differ in what a test wants them to differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchinfer import Run
from tests.run.workplace import Workplace

MODELS = """
class Grade:
    '''A label and a score of x; `off` moves the score, `least` the border between labels, `bad` are x that raise.'''

    def __init__(self, least=500, off=0.0, bad=()):
        self.least, self.off, self.bad = least, off, set(bad)

    def __call__(self, batch):
        if self.bad & {int(x) for x in batch["x"]}:
            raise ValueError("bad x")
        return {
            "label": ["high" if x >= self.least else "low" for x in batch["x"]],
            "score": [float(x) / 1000 + self.off for x in batch["x"]],
        }
"""


class Shadows:
    """A workplace with outputs by name."""

    def __init__(self, folder: Path) -> None:
        self.workplace = Workplace(folder)
        self.folder = folder
        (folder / "code/grading.py").write_text(MODELS)

    def run(self, name: str, options: dict[str, Any] | None = None, **sections: Any) -> Run:
        """Run into an output of that name."""
        return self.workplace.run(**self.sections(name, options or {}, sections))

    def sections(self, name: str, options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """What makes a job one of these."""
        model = {"uri": "grading:Grade", "outputs": {"label": "label", "score": "score"}, "options": options}
        output = {"path": str(self.folder / name), **more.pop("output", {})}
        return {"model": model, "errors": {"threshold": -1}, "output": output, **more}
