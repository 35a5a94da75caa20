"""Credentials are found by the names of variables and files; what they hold is never read, and so never told."""

from __future__ import annotations

import pytest

from batchinfer.doctor.credentials import KINDS, credentials
from batchinfer.doctor.finding import State

SECRET = "s3cr3t-value-nobody-may-see"
FILES = [
    ".aws/credentials",
    ".aws/config",
    ".config/gcloud/application_default_credentials.json",
    ".azure/msal_token_cache.json",
    ".cache/huggingface/token",
    ".mlflow/credentials",
    ".databrickscfg",
]


def found(environ, home):
    return {(f.topic, f.state): f.text for f in credentials(environ, home)}


def written(path, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SECRET)
    path.chmod(mode)
    return path


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert {state for _, state in found({}, tmp_path)} == {State.ABSENT}
    assert [topic for topic, _ in found({}, tmp_path)] == [kind.name for kind in KINDS]


def test_every_variable_and_every_file_is_found_and_none_is_shown(tmp_path):
    for name in FILES:
        written(tmp_path / name)
    environ = {name: SECRET for kind in KINDS for name in kind.variables}
    environ |= {name: str(written(tmp_path / name)) for kind in KINDS for name in kind.paths}
    told = found(environ, tmp_path)
    assert {state for _, state in told} == {State.FINE}
    text = "\n".join(told.values())
    assert SECRET not in text
    assert all(name in text for name in environ)
    assert all(f"~/{name}" in text for name in FILES)


def test_files_are_looked_for_where_variables_lead(tmp_path):
    environ = {
        "AWS_SHARED_CREDENTIALS_FILE": str(written(tmp_path / "a")),
        "HF_HOME": str(written(tmp_path / "hf" / "token").parent),
        "CLOUDSDK_CONFIG": str(written(tmp_path / "g" / "application_default_credentials.json").parent),
        "AZURE_CONFIG_DIR": str(tmp_path / "nowhere"),
    }
    told = found(environ, tmp_path / "home")
    assert told["AWS", State.FINE] == "found in the file of AWS_SHARED_CREDENTIALS_FILE"
    assert told["Hugging Face", State.FINE] == "found in the file of HF_HOME"
    assert told["Google Cloud", State.FINE] == "found in the file of CLOUDSDK_CONFIG"
    assert ("Azure", State.ABSENT) in told


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"AWS_ACCESS_KEY_ID": SECRET}, "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY isn't"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID isn't"),
        ({"AZURE_CLIENT_SECRET": SECRET}, "AZURE_CLIENT_SECRET is set, and AZURE_CLIENT_ID isn't"),
        ({"DATABRICKS_TOKEN": SECRET}, "DATABRICKS_TOKEN is set, and DATABRICKS_HOST isn't"),
        (
            {"GOOGLE_APPLICATION_CREDENTIALS": SECRET},
            "GOOGLE_APPLICATION_CREDENTIALS names a file that isn't there",
        ),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "x" * 5000}, "GOOGLE_APPLICATION_CREDENTIALS names a file that isn't"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere"}, "AWS_WEB_IDENTITY_TOKEN_FILE names a file that isn't there"),
    ],
)
def test_what_is_half_there_is_warned_of(tmp_path, environ, text):
    warned = [t for (_, state), t in found(environ, tmp_path).items() if state is State.WARNING]
    assert len(warned) == 1
    assert text in warned[0]
    assert SECRET not in warned[0]


def test_a_file_that_others_may_read_is_warned_of(tmp_path):
    written(tmp_path / ".aws/credentials", 0o644)
    written(tmp_path / ".aws/config", 0o644)  # which leads to credentials, and is open by custom
    told = found({}, tmp_path)
    assert told["AWS", State.WARNING] == "~/.aws/credentials may be read by other users of this machine"
    assert told["AWS", State.FINE] == "found in ~/.aws/credentials, ~/.aws/config"
