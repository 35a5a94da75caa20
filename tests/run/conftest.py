from pathlib import Path

import pytest

from batchinfer.ledger import epochs
from tests.run.workplace import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent heartbeat is watched for 3 s in this process, in place of 30."""
    monkeypatch.setitem(epochs.is_alive.__kwdefaults__, "seconds", 3.0)
