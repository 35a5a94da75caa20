"""What is said of processor, disks, GPUs and libraries, and that a probe which fails or hangs is a line."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from batchinfer.doctor import gpus, libraries, machine
from batchinfer.doctor.finding import Examination, Finding, State
from batchinfer.doctor.gpus import Driver, compared
from batchinfer.doctor.probe import Probe, ProgramError, ask, said_by, said_by_python
from batchinfer.errors import InputError

GIB = 1024**3
H100 = {"name": "NVIDIA H100", "bytes": 80 * GIB, "capability": [9, 0]}
CPU_BUILD = {"version": "2.11.0+cpu", "cuda": None, "mps": False, "devices": []}


def states(findings):
    return {f.topic: f.state for f in findings}


def fail():
    raise RuntimeError("the driver is upset")


def refuse():
    raise InputError("first line\nsecond line")


def test_a_probe_that_fails_or_hangs_is_a_line_and_keeps_no_other_waiting():
    begun = time.monotonic()
    probes = [
        Probe("fails", 5, fail),
        Probe("hangs", 0.2, lambda: time.sleep(60) or []),
        Probe("hangs for good", 0.2, lambda: time.sleep(60) or [], State.WRONG),
        Probe("refuses", 5, refuse),
        Probe("works", 5, lambda: [Finding("a", State.FINE, "b")]),
        Probe("finds nothing", 5, list),
    ]
    failed, hung, lost, refused, worked, nothing = ask(probes)
    assert time.monotonic() - begun < 5
    assert failed == (Finding("fails", State.UNKNOWN, "could not be found out: RuntimeError: the driver is upset"),)
    assert hung == (Finding("hangs", State.UNKNOWN, "no answer within 0.2 s"),)
    assert lost[0].state is State.WRONG
    assert [f.text for f in refused] == ["first line", "second line"]
    assert {f.state for f in refused} == {State.WRONG}
    assert worked == (Finding("a", State.FINE, "b"),)
    assert nothing == ()


def test_a_program_that_crashes_or_hangs_says_so():
    assert said_by_python(["-c", "print('yes')"], 30) == "yes\n"
    with pytest.raises(ProgramError, match="ended by signal 6"):
        said_by_python(["-c", "import os; os.abort()"], 30)
    with pytest.raises(ProgramError, match="ModuleNotFoundError"):
        said_by_python(["-c", "import nothing_of_this_name"], 30)
    with pytest.raises(ProgramError, match=r"no answer within 0\.3 s"):
        said_by(["sleep", "30"], 0.3)
    with pytest.raises(FileNotFoundError):
        said_by(["no-such-program-here"], 1)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"avx2"}, "AVX2: none for bf16 or int8, and fp32 may be as fast"),
        ({"avx2", "avx512f", "avx512_vnni"}, "AVX2, AVX-512, VNNI: int8 is fast"),
        (
            {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"},
            "AVX2, AVX-512, AMX bf16, AVX-512 bf16, AMX int8, VNNI: bf16 and int8 are fast",
        ),
        ({"asimd", "bf16", "i8mm"}, "NEON, bf16, i8mm: bf16 and int8 are fast"),
        (set(), "this system doesn't tell what the processor can do"),
    ],
)
def test_instructions_say_which_precisions_they_make_fast(flags, text):
    assert machine.instructions(flags).text == text


def test_the_machine_tells_of_itself():
    found = [*machine.software(), *machine.processors(), *machine.memory(), *machine.disks()]
    assert [f.topic for f in found] == ["system", "python", "cpu", "instructions", "memory", "temporary", "cache"]
    assert f"{machine.cpu_count()} core" in found[2].text
    assert "GiB" in found[4].text


def test_a_disk_that_is_full_or_can_not_be_written_is_warned_of(tmp_path, monkeypatch):
    assert machine.disk("cache", tmp_path / "not" / "yet", "more").state is State.FINE
    little = machine.disk("cache", tmp_path, "get more", little=1 << 60)
    assert (little.state, little.advice) == (State.WARNING, "get more")
    (tmp_path / "file").write_text("")
    assert "can't be written" in machine.disk("cache", tmp_path / "file" / "below", "more").text


def test_gpus_are_told_with_their_memory_and_what_is_fast():
    driver = Driver("580.1", (13, 0), (("NVIDIA H100", 80 * GIB, 79 * GIB),))
    found = list(compared(driver, {"version": "2.11", "cuda": "12.8", "mps": False, "devices": [H100]}, None))
    assert [(f.topic, f.state) for f in found] == [(t, State.FINE) for t in ("torch", "gpu", "driver")]
    assert (
        found[1].text == "NVIDIA H100, 80.0 GiB, 79.0 GiB free, compute capability 9.0: tf32, bf16, fp8, fp16 are fast"
    )
    old = {"name": "T4", "bytes": 16 * GIB, "capability": [7, 5]}
    found = list(compared(None, {"version": "2.11", "cuda": "12.8", "mps": False, "devices": [old]}, None))
    assert found[1].text.endswith("7.5: fp16 is fast")


@pytest.mark.parametrize(
    ("torch", "driver", "visible", "text", "advice"),
    [
        (CPU_BUILD, (12, 4), None, "built without CUDA", "pip install --force-reinstall torch"),
        (
            {**CPU_BUILD, "cuda": "13.0"},
            (12, 4),
            None,
            "built for CUDA 13.0, and the driver 550.1 runs 12.4 at most",
            "https://download.pytorch.org/whl/cu124",
        ),
        ({**CPU_BUILD, "cuda": "12.8"}, (13, 0), "", "CUDA_VISIBLE_DEVICES hides 1", ""),
        ({**CPU_BUILD, "cuda": "12.8"}, None, None, "don't agree", "torch.cuda.init()"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_explained(torch, driver, visible, text, advice):
    found = list(compared(Driver("550.1", driver, (("T4", 16 * GIB, None),)), torch, visible))
    assert found[-1].state is State.WARNING
    assert "1 GPU (T4), of which torch sees 0" in found[-1].text
    assert text in found[-1].text
    assert advice in found[-1].advice


def test_no_gpu_is_nothing_wrong_and_apples_is_one():
    assert states(compared(None, CPU_BUILD, None)) == {"torch": State.FINE, "gpu": State.ABSENT}
    assert states(compared(None, {**CPU_BUILD, "mps": True}, None))["gpu"] is State.FINE


def nvidia_smi(folder: Path, monkeypatch, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_driver_is_asked_by_its_own_program(tmp_path, monkeypatch):
    row = "echo 'NVIDIA L4, 23034, 22000, 550.54'"
    nvidia_smi(tmp_path, monkeypatch, f'if [ $# -gt 0 ]; then {row}; else echo "| CUDA Version: 12.4     |"; fi')
    assert gpus._driver() == Driver("550.54", (12, 4), (("NVIDIA L4", 23034 << 20, 22000 << 20),))
    nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA A100 MIG, [N/A], [N/A], 550.54'")
    assert gpus._driver() == Driver("550.54", None, (("NVIDIA A100 MIG", None, None),))


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed: no driver'; exit 9", "echo garbage", "kill -SEGV $$"])
def test_a_driver_that_is_broken_is_a_warning(tmp_path, monkeypatch, script):
    nvidia_smi(tmp_path, monkeypatch, script)
    found = {f.topic: f for f in gpus.gpus()}
    assert found["driver"].state is State.WARNING
    assert found["torch"].state is State.FINE


def test_a_torch_that_can_not_be_imported_is_wrong(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(gpus.__file__).parents[2]}")
    found = {f.topic: f for f in gpus.gpus()}
    assert found["torch"].state is State.WRONG
    assert "libcudart" in found["torch"].text


REQUIRED = [
    "numpy>=1.26",
    "old>=2",
    "other>=1; python_version < '3.0'",
    "onnxruntime>=1.20; extra == 'onnx'",
    "onnx>=1.17; extra == 'onnx'",
    "both>=1; extra == 'later' or extra == 'onnx'",
    "s3fs>=2025.3; extra == 's3'",
    "psutil>=6; extra == 'bench'",
]


def judged(**there):
    return {f.topic: f for f in libraries.judged(map(Requirement, REQUIRED), "0.1", there.get)}


def test_what_is_installed_is_told_with_its_version_and_the_rest_with_the_command():
    found = judged(numpy="2.0", old="2.1", onnxruntime="1.22", onnx="1.18", both="1.0")
    assert found["batchinfer"] == Finding("batchinfer", State.FINE, "0.1, with all that it always needs")
    assert found["onnx"].text == "engine onnx: onnxruntime 1.22, onnx 1.18, both 1.0"
    assert found["s3"] == Finding(
        "s3", State.ABSENT, "s3:// URLs: s3fs isn't installed", "pip install 'batchinfer[s3]'"
    )
    assert found["later"] == Finding("later", State.FINE, "both 1.0")
    assert "bench" not in found


def test_what_is_too_old_or_lacking_is_told():
    found = judged(numpy="2.0", old="1.9", onnxruntime="1.19", onnx="1.18")
    assert found["batchinfer"].state is State.WRONG
    assert found["batchinfer"].text == "0.1: old >=2 is needed, and installed is 1.9"
    assert found["batchinfer"].advice == "pip install 'old>=2'"
    assert found["onnx"].state is State.WARNING
    assert "onnxruntime >=1.20 is needed, and installed is 1.19" in found["onnx"].text


def test_no_extra_is_told_of_that_there_is_not():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(libraries.PURPOSES) | libraries._FOR_DEVELOPERS <= set(project["optional-dependencies"])


def test_an_examination_counts_what_is_wrong():
    fine, wrong = Finding("a", State.FINE, "b"), Finding("c", State.WRONG, "d", "do it")
    assert Examination({"x": (fine,)}).exit_code == 0
    found = Examination({"x": (fine,), "y": (wrong, wrong)})
    assert (found.exit_code, found.wrong) == (2, 2)
    assert found.to_json()["sections"]["y"][0] == {"topic": "c", "state": "wrong", "text": "d", "advice": "do it"}
