from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchinfer.errors import ClusterError
from batchinfer.executors.cluster import connect

CONNECTED = """
import ray
from batchinfer.executors.cluster import connect
connect(None, cpus=1)
ray.shutdown()
"""


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_in_the_virtual_environment_is_refused_before_ray_waits_for_its_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.setenv(variable, str(tmp_path / "tmp"))
    with pytest.raises(ClusterError, match=r"lies in the virtual environment .* set RAY_TMPDIR"):
        connect(None, cpus=1)


def test_a_temporary_folder_with_too_long_a_name_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'long' * 15}")
    with pytest.raises(ClusterError, match=r"more than 107 characters: set RAY_TMPDIR to a shorter one"):
        connect(None, cpus=1)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_of_our_own_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECTED], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
