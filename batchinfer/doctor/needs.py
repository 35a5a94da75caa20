"""What a job needs that this machine may lack: packages, models, devices, its input and a place for its output."""

from __future__ import annotations

import functools
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from batchinfer.data.discover import discover
from batchinfer.data.scan import scan
from batchinfer.data.volumes import Volumes
from batchinfer.doctor.cluster import SECONDS, bare, local
from batchinfer.doctor.finding import Finding, State
from batchinfer.doctor.libraries import installed
from batchinfer.doctor.probe import Probe, ProgramError, said_by_python
from batchinfer.engines import checks, fetched, location
from batchinfer.engines.device import foresee_device, gpu_count
from batchinfer.engines.registry import LIBRARIES
from batchinfer.errors import OutputError
from batchinfer.executors.reach import answers
from batchinfer.job.spec import JobSpec
from batchinfer.job.steps import Step
from batchinfer.ledger import jobs
from batchinfer.pipeline.graph import check as check_steps
from batchinfer.plan.describe import count, size
from batchinfer.run.resources import allot, cpu_count
from batchinfer.storage import paths
from batchinfer.storage.store import is_local, open_store

IMPORT_SECONDS = 120.0
_IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
_HUB = "https://huggingface.co"
_TRUE = {"1", "on", "yes", "true"}


@dataclass(frozen=True)
class Needs:
    """The probes of one job.

    Args:
        spec: the job.
        environ: the process's environment.
        seconds: that a store, a hub or a cluster may take to answer.

    """

    spec: JobSpec
    environ: Mapping[str, str]
    seconds: float = 45.0

    def probes(self) -> list[Probe]:
        """Everything that a run would fail on, as far as it is seen without loading a model or reading a row."""
        spec, wait = self.spec, self.seconds
        found = [
            Probe("steps", wait, self._steps),
            *(Probe(s.name, wait, functools.partial(self._model, s), State.WRONG) for s in spec.models),
            Probe("libraries", IMPORT_SECONDS, self._libraries),
            Probe("workers", wait, self._workers),
            Probe("input", wait, self._input, State.WRONG),
            Probe("output", wait, functools.partial(self._place, "output", spec.output.path), State.WRONG),
        ]
        if spec.cache.path is not None:
            found.append(Probe("cache", wait, functools.partial(self._place, "cache", spec.cache.path), State.WRONG))
        return found

    def _steps(self) -> Iterator[Finding]:
        check_steps(self.spec)
        yield Finding("steps", State.FINE, ", ".join(step.name for step in self.spec.steps))

    def _model(self, step: Step) -> Iterator[Finding]:
        """Options, packages and files of a model, which is neither downloaded nor loaded."""
        what, device = f"{step.engine} {step.uri}", foresee_device(self.spec.resources)
        checks.check_packages(step)
        if remote := fetched.remote_uris(step):
            checks.check(step, self.spec.code, device)
            kept = [fetched.look(uri, self.spec.storage, f"{step.name}.{key}") for key, uri in remote.items()]
            where = "is in the cache" if all(kept) else "is there, to be fetched when the job is planned"
            yield Finding(step.name, State.FINE, f"{what} {where}")
        elif location.is_here(step.uri):
            checks.check(step, self.spec.code, device)
            yield Finding(step.name, State.FINE, f"{what}: files, options and packages are as they must be")
        else:
            yield self._on_hub(step)

    def _on_hub(self, step: Step) -> Finding:
        what, name = f"{step.uri} isn't in the local Hugging Face cache", step.uri[3:].partition("@")[0]
        advice = f"hf download {name}, where there is a network, or give the path of a copy"
        if self.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
            return Finding(step.name, State.WRONG, f"{what}, and HF_HUB_OFFLINE is set", advice)
        hub = self.environ.get("HF_ENDPOINT") or _HUB
        if not hub.startswith(("https://", "http://")):
            return Finding(step.name, State.WRONG, f"{what}, and HF_ENDPOINT is no address", advice)
        try:
            urllib.request.urlopen(hub, timeout=SECONDS).close()  # noqa: S310 - its scheme was looked at
        except urllib.error.HTTPError:  # an answer
            pass
        except OSError as error:
            return Finding(
                step.name, State.WRONG, f"{what}, and the Hub can't be reached ({type(error).__name__})", advice
            )
        return Finding(step.name, State.FINE, f"{what}; it is downloaded when the job is planned")

    def _libraries(self) -> Iterator[Finding]:
        """Whether what the engines import can be imported, in a process of its own."""
        for engine in dict.fromkeys(step.engine for step in self.spec.models):
            packages = list(dict.fromkeys(name.partition(".")[0] for name in LIBRARIES[engine]))
            packages = [name for name in packages if name != "torch"]  # which was imported for the GPUs
            if not packages or not all(map(find_spec, packages)):
                continue  # what isn't installed is told with the model
            told = " and ".join(packages)
            try:
                said_by_python(["-c", _IMPORT, *packages], IMPORT_SECONDS)
            except ProgramError as error:
                advice = f"pip install --force-reinstall {' '.join(packages)}"
                yield Finding(engine, State.WRONG, f"{told} can't be imported: {error}", advice)
            else:
                yield Finding(engine, State.FINE, f"{told} can be imported")

    def _workers(self) -> Iterator[Finding]:
        allotment, asked = allot(self.spec), self.spec.resources
        number = "one on each GPU or node" if allotment.workers is None else count(allotment.workers, "worker")
        yield Finding(
            "workers", State.FINE, f"{number} ({allotment.executor}), with {count(allotment.threads, 'CPU thread')}"
        )
        if allotment.executor == "ray":
            if installed("ray") is None:
                yield Finding("ray", State.WRONG, "isn't installed", "pip install batchinfer")
            elif asked.address is not None:
                yield self._cluster(asked.address)
        if asked.address is not None:
            return  # devices are the cluster's
        workers, devices, cores = allotment.workers or 1, gpu_count(), cpu_count()
        gpus = workers * (allotment.gpus or 0) + sum(pool.least * (pool.gpus or 0) for pool in allotment.pools.values())
        if gpus > devices:
            text = f"the job asks for {gpus:g} GPU{'s' if gpus != 1 else ''}, and there {'is' if devices == 1 else 'are'} {devices} here"
            yield Finding(
                "gpus",
                State.WRONG,
                text,
                "--set resources.gpus=0 runs it on the CPU; batchinfer doctor says which GPUs there are",
            )
        if workers * allotment.threads > cores:
            text = f"{workers * allotment.threads} CPU threads are asked for, and there are {count(cores, 'core')}"
            yield Finding("cpus", State.WARNING, text, "leave resources.cpus at auto")

    def _cluster(self, address: str) -> Finding:
        named = self.environ.get("RAY_ADDRESS") if address == "auto" else address
        there = answers(bare(named), SECONDS) if named else local(self.environ) is not None
        if there:
            return Finding("cluster", State.FINE, f"one answers at resources.address: {address}")
        return Finding(
            "cluster", State.WRONG, f"none answers at resources.address: {address}", "ray start --head begins one"
        )

    def _input(self) -> Iterator[Finding]:
        given = self.spec.input.path
        found = discover([given] if isinstance(given, str) else list(given), Volumes(self.spec.storage)).files
        columns = scan(found[0].url, self.spec.storage).columns
        what = f"{count(len(found), 'file')}, {size(sum(each.entry.size for each in found))}"
        yield Finding("input", State.FINE, f"{what}, can be listed; the first has {count(len(columns), 'column')}")

    def _place(self, topic: str, path: str) -> Iterator[Finding]:
        """Whether a second create of one name fails there, as the protocol needs it; nothing is left behind."""
        try:
            if is_local(path):
                with tempfile.TemporaryDirectory(prefix=".batchinfer-doctor-", dir=_existing(path)) as folder:
                    jobs.probe(open_store(folder))
            else:
                jobs.probe(open_store(path, self.spec.storage, scratch=paths.SCRATCH))
        except OutputError as error:
            if not self.spec.run.single_writer:
                raise
            yield Finding(topic, State.WARNING, str(error))
        except OSError as error:
            text = f"{path}: can't be written ({error.strerror or error})"
            yield Finding(topic, State.WRONG, text, f"let {_user()} write there, or give another {topic}.path")
        else:
            yield Finding(
                topic, State.FINE, f"{path} can be written, and two runs can't overwrite each other's results"
            )


def _existing(path: str) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = Path(path.removeprefix("file://")).absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _user() -> str:
    return f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
