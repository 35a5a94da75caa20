"""Checks of the project: `nox` runs lint, typing and the tests that take seconds; `nox -s slow` those that take longer."""

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"  # brings a recent pip, whatever Python does
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typing", "tests"]
nox.needs_version = ">=2025.2"

PYPROJECT = nox.project.load_toml("pyproject.toml")
AT_ONCE = ("-n", "2", "--dist", "loadfile")
"""Many tests wait for a program: two at once take little more of two cores than one. By file, so that fixtures are shared."""
ELSEWHERE = "not gpu and not chaos and not services and not airflow"
"""Tests with a session, and an environment, of their own."""
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "RAY_USAGE_STATS_ENABLED": "0"}


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the layers of the house."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def typing(session: nox.Session) -> None:
    """Strict types."""
    session.install(*group("typing"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests but for the slow ones; arguments go to pytest."""
    session.install(
        "-e",
        ".[quickstart,generation,quantization,onnx,openvino,images,sklearn,mlflow,openlineage,s3,gcs,azure]",
        *group("test"),
    )
    session.run("pytest", "-m", f"not slow and {ELSEWHERE}", *AT_ONCE, *session.posargs, env=QUIET)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take more than ten seconds each: real models, the simulator, processes that are killed and hang."""
    session.install(
        "-e",
        ".[quickstart,generation,quantization,onnx,openvino,images,sklearn,mlflow,openlineage,s3,gcs,azure]",
        *group("test"),
    )
    session.run("pytest", "-m", f"slow and {ELSEWHERE}", *AT_ONCE, *session.posargs, env=QUIET)


@nox.session
def airflow(session: nox.Session) -> None:
    """The operators in a real Airflow with SQLite, in an environment of its own."""
    session.install("-e", ".", "apache-airflow>=3.1,<4", "pytest>=8.3", "hypothesis>=6.120")
    session.run("pytest", "-m", "airflow", "tests/airflow", *session.posargs, env=QUIET)


@nox.session
def chaos(session: nox.Session) -> None:
    """The long run of faults, which ends with its table: `nox -s chaos -- --repeat 20 --seed 1 --table chaos.json`."""
    session.install(
        "-e",
        ".[quickstart,generation,quantization,onnx,openvino,images,sklearn,mlflow,openlineage,s3,gcs,azure]",
        *group("test"),
    )
    session.run("pytest", "-m", "chaos", *AT_ONCE, *session.posargs, env=QUIET)
    session.notify("services")


@nox.session
def services(session: nox.Session) -> None:
    """What needs a service that pip can't install: Azurite, through npm."""
    if shutil.which("npm") is None:
        session.error("Azurite needs Node: install it, so that npm is on the PATH")
    session.install(
        "-e",
        ".[quickstart,generation,quantization,onnx,openvino,images,sklearn,mlflow,openlineage,s3,gcs,azure]",
        *group("test"),
    )
    session.run("pytest", "-m", "services", "tests/chaos", env=QUIET)


@nox.session
def simulate(session: nox.Session) -> None:
    """Every mutant and 100,000 seeds of the ledger's simulator; arguments replace the latter: `nox -s simulate -- --seeds 5000`."""
    session.install("-e", ".")
    session.run("python", "-m", "batchinfer.testing.simulator", "--mutants")
    session.run("python", "-m", "batchinfer.testing.simulator", *(session.posargs or ["--seeds", "100000"]))


@nox.session
def gpu(session: nox.Session) -> None:
    """What only a GPU can show."""
    session.install("-e", ".[quickstart,quantization]", *group("test"))
    session.run("pytest", "-m", "gpu", *session.posargs, env=QUIET)


@nox.session
def build(session: nox.Session) -> None:
    """Install the wheel and run the suite against it, in a folder that has the tests and jobs but not the sources."""
    session.install("build", *group("test"))
    place = Path(session.create_tmp()).absolute()
    session.env.pop("TMPDIR")  # which create_tmp set: Ray refuses a temporary folder inside a virtual environment
    shutil.rmtree(place)
    session.run("python", "-m", "build", "--wheel", "--outdir", str(place), silent=True)
    (wheel,) = place.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(
        f"{wheel}[quickstart,generation,quantization,onnx,openvino,images,sklearn,mlflow,openlineage,s3,gcs,azure]"
    )
    made = shutil.ignore_patterns("__pycache__", "out", "generated")
    for name in ("tests", "jobs"):  # beside them the sources would be imported, not the wheel
        shutil.copytree(name, place / name, ignore=made)
    shutil.copy("pyproject.toml", place)
    session.chdir(place)
    session.run("pytest", "-p", "no:cacheprovider", *AT_ONCE, *session.posargs, env=QUIET)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks, as JSON on standard output; arguments choose them: `nox -s bench -- text --rounds 5`."""
    session.install("-e", ".[quickstart,bench,peers]")
    session.run("python", "-m", "tests.benchmarks", *session.posargs, env=QUIET)
