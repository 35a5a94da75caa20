"""Where credentials are: the names of variables and files that hold some, and never what they hold. No file is opened."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchinfer.doctor.finding import Finding, State


@dataclass(frozen=True)
class Kind:
    """Whose credentials, and where clients look for them."""

    name: str
    variables: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...] = ()
    """A file below the home folder; the variable that may lead elsewhere (empty: none does), and the file's name in a folder that it names
    (empty: it names the file)."""
    paths: tuple[str, ...] = ()
    """Variables that hold the path of a file."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Variables of which the first is nothing without the second."""


_FILE_OF = "the file of "
_PLAIN = "config"
"""The name of files that lead to credentials and seldom hold some."""

KINDS = (
    Kind(
        "AWS",
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "AWS_ROLE_ARN",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
        ((".aws/credentials", "AWS_SHARED_CREDENTIALS_FILE", ""), (".aws/config", "AWS_CONFIG_FILE", "")),
        ("AWS_WEB_IDENTITY_TOKEN_FILE",),
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")),
    ),
    Kind(
        "Google Cloud",
        ("GOOGLE_CLOUD_PROJECT",),
        (
            (
                ".config/gcloud/application_default_credentials.json",
                "CLOUDSDK_CONFIG",
                "application_default_credentials.json",
            ),
        ),
        ("GOOGLE_APPLICATION_CREDENTIALS",),
    ),
    Kind(
        "Azure",
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_SECRET",
        ),
        ((".azure/msal_token_cache.json", "AZURE_CONFIG_DIR", "msal_token_cache.json"),),
        ("AZURE_FEDERATED_TOKEN_FILE",),
        (("AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID"), ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_NAME")),
    ),
    Kind(
        "Hugging Face",
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        ((".cache/huggingface/token", "HF_HOME", "token"), (".cache/huggingface/token", "HF_TOKEN_PATH", "")),
    ),
    Kind(
        "MLflow",
        (
            "MLFLOW_TRACKING_URI",
            "MLFLOW_REGISTRY_URI",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "DATABRICKS_HOST",
            "DATABRICKS_TOKEN",
        ),
        ((".mlflow/credentials", "", ""), (".databrickscfg", "DATABRICKS_CONFIG_FILE", "")),
        (),
        (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), ("DATABRICKS_TOKEN", "DATABRICKS_HOST")),
    ),
)


def credentials(environ: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Of each kind: where some were found, what is half there, and files that others may read."""
    for kind in KINDS:
        found = [name for name in kind.variables if environ.get(name)]
        for label, path in _files(kind, environ, home).items():
            if _is_file(path):
                found.append(label)
                yield from _open_to_others(kind.name, label, path)
            elif label.removeprefix(_FILE_OF) in kind.paths:
                name = label.removeprefix(_FILE_OF)
                yield Finding(kind.name, State.WARNING, f"{name} names a file that isn't there")
        for first, second in kind.pairs:
            if environ.get(first) and not environ.get(second):
                yield Finding(kind.name, State.WARNING, f"{first} is set, and {second} isn't")
        if found:
            yield Finding(kind.name, State.FINE, f"found in {', '.join(found)}")
        else:
            yield Finding(kind.name, State.ABSENT, "none found in the environment and in files")


def _files(kind: Kind, environ: Mapping[str, str], home: Path) -> dict[str, Path]:
    """Where files of a kind would be, by what to call them."""
    found = {f"{_FILE_OF}{name}": Path(environ[name]) for name in kind.paths if environ.get(name)}
    for place, variable, inside in kind.files:
        if variable and environ.get(variable):
            found[f"{_FILE_OF}{variable}"] = Path(environ[variable]) / inside
        else:
            found.setdefault(f"~/{place}", home / place)
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _open_to_others(topic: str, label: str, path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IRGRP | stat.S_IROTH) and path.name != _PLAIN:
        yield Finding(
            topic, State.WARNING, f"{label} may be read by other users of this machine", "chmod 600 that file"
        )
