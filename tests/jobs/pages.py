"""README and the pages: their code blocks, and a copy of the project in which these are run as a user would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "jobs" / "pages"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """The lines of the shell's blocks, without comments."""
    lines = [line.partition("  #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line]


class Copy:
    """The folder jobs/ in a folder of its own, and a program called batchinfer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("out", "generated", "__pycache__")
        )
        (folder / "bin").mkdir()
        for name, module in (("batchinfer", "-m batchinfer"), ("python", "")):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
            program.chmod(0o755)
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}

    def shorten(self) -> None:
        """Have the quickstart embed a hundred texts, where how many there are is not the point."""
        job = self.folder / "jobs" / "quickstart.yaml"
        text = job.read_text()
        assert "  key: id  " in text
        job.write_text(text.replace("  key: id  ", "  limit: 100\n  key: id  "))

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A line of the shell."""
        return subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def works(self, command: str, **environment: str) -> str:
        """What a line of the shell says on stdout, once it has ended well."""
        done = self.run(command, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout
