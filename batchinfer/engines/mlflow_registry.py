"""Models of an MLflow registry or of a run, brought here by MLflow itself, with its own settings and credentials."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from batchinfer.errors import MissingExtraError, ModelError, StorageError

SCHEMES = ("models:/", "runs:/")
_FORM = re.compile(r"models:/[^/]+(/[^/]+)?|runs:/[^/]+/.+")
_META = "registered_model_meta"
"""What MLflow adds to a model's files where it downloads them."""
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")

T = TypeVar("T")


class RegisteredModel:
    """A model by `models:/name/version`, `models:/name@alias` or `runs:/id/path`; see Remote.

    Raises ModelError where the registry has no such model, StorageError where it doesn't answer, and MissingExtraError.
    """

    def __init__(self, uri: str) -> None:
        if _FORM.fullmatch(uri) is None:
            raise ModelError(f"{uri} is not of the form models:/name/version, models:/name@alias or runs:/id/path")
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtraError("mlflow-skinny", "mlflow", uri)
        self._uri = uri
        self.address = _asked(uri, self._resolved) if uri.startswith("models:/") else uri

    def _resolved(self) -> str:
        """With the number of the version that an alias, or `latest`, stands for now."""
        quiet()
        from mlflow.store.artifact.utils.models import get_model_name_and_version
        from mlflow.tracking import MlflowClient

        return "models:/" + "/".join(map(str, get_model_name_and_version(MlflowClient(), self._uri)))

    def version(self) -> str:
        """See Remote. By names and sizes of the files: MLflow knows no more of them, and a version isn't written twice."""
        listing = _asked(self._uri, lambda: sorted(_listed(self.address, "")))
        return hashlib.sha256(json.dumps([_server(), listing]).encode()).hexdigest()

    def download(self, place: Path) -> None:
        """See Remote."""
        into = place.with_name(f"{place.name}.mlflow")
        into.mkdir()
        found = Path(
            _asked(
                self._uri, lambda: quiet().artifacts.download_artifacts(artifact_uri=self.address, dst_path=str(into))
            )
        )
        (found / _META).unlink(missing_ok=True)
        found.rename(place)
        shutil.rmtree(into, ignore_errors=True)


def quiet() -> Any:
    """MLflow, which else tells its makers of its use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    return mlflow


def _server() -> str:
    return str(quiet().get_registry_uri())


def _listed(address: str, below: str) -> Iterator[tuple[str, int]]:
    for entry in quiet().artifacts.list_artifacts(artifact_uri=f"{address}/{below}" if below else address):
        if entry.is_dir:
            yield from _listed(address, entry.path)
        elif entry.path != _META:
            yield entry.path, int(entry.file_size or 0)


def _asked(uri: str, request: Callable[[], T]) -> T:
    quiet()
    from mlflow.exceptions import MlflowException

    try:
        return request()
    except MlflowException as error:
        if error.error_code in _PASSING:
            raise StorageError(
                f"{uri}: MLflow's registry at {_server()} doesn't give it: {error}; run again to go on"
            ) from error
        raise ModelError(
            f"{uri}: MLflow's registry at {_server()} has no such model: {error}; MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI names the registry"
        ) from error
