"""`make gpu-check` without a GPU: what it runs, in Triton's interpreter; what it finds wrong; what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernels.ops import Ops
from kernels.select import ops
from tests.benchmarks.gpu_check import checking, command, parts
from tests.benchmarks.gpu_check.layers import LAYERS
from tests.benchmarks.gpu_check.part import Budget, Finding, Setting
from tests.benchmarks.gpu_check.parts import GRACE_S, PARTS, Part, find

ROOT = Path(__file__).parents[4]
SMALL = Setting(torch.device("cpu"), small=True)
# A minute of a core for itself is more than enough; it ends what hangs, and judges no machine.
LIMIT_S = 600
# What an installation of torch for GPUs brings along, and what the served model needs beside it.
WITH_TORCH = "torch torchgen triton numpy typing_extensions sympy mpmath networkx jinja2 markupsafe filelock fsspec"
FOR_SERVING = "msgspec psutil yaml"


def gpu_check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu_check", *arguments],
        cwd=ROOT, env=outer | {"CUDA_VISIBLE_DEVICES": ""} | environment, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip


@pytest.mark.timeout(LIMIT_S + 60)
def test_all_parts_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    done = gpu_check("--small", "--out", str(tmp_path / "deep" / "report.json"), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "deep" / "report.json").read_text())["parts"]
    assert [(part["part"], part["faults"]) for part in parts] == [(part.name, []) for part in PARTS]
    assert {row["form"] for row in parts[1]["rows"] if "form" in row} == {"bf16", "grouped_mm", "fp8"}
    assert "tokens equal to the CPU reference's" in done.stdout


def test_without_a_gpu_it_says_so() -> None:
    done = gpu_check()
    assert done.returncode == 2
    assert done.stdout == "gpu-check: torch sees no NVIDIA GPU here; nothing was checked\n"


def test_without_torch_it_says_so() -> None:
    """Run by a Python that is isolated from what is installed."""
    program = "import sys; sys.path.insert(0, '.'); import runpy; runpy.run_module('tests.benchmarks.gpu_check')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "torch, triton, numpy" in done.stderr
    assert "Traceback" not in done.stderr


def test_small_wants_the_interpreter() -> None:
    done = gpu_check("--small")
    assert (done.returncode, "TRITON_INTERPRET=1" in done.stdout) == (2, True)


def test_the_time_of_all_parts_is_less_than_eight_minutes() -> None:
    assert sum(part.seconds + GRACE_S for part in PARTS) < 480


def checked(monkeypatch: pytest.MonkeyPatch, backend: Ops, budget: Budget) -> Finding:
    """The small checks of the kernels, of another backend than Triton's."""
    monkeypatch.setattr(checking, "ops", lambda *_: backend)
    return checking.run(SMALL, budget)


def test_a_wrong_kernel_is_found_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ops("reference")
    right = checked(monkeypatch, plain, Budget(LIMIT_S))
    assert right.faults == []

    def raising(*_: object) -> torch.Tensor:
        raise RuntimeError("does not compile")

    broken = replace(plain, expert_ffn=lambda *rows: plain.expert_ffn(*rows) * 1.1, paged_attention=raising)
    found = checked(monkeypatch, broken, Budget(LIMIT_S))
    assert sum("times the error that is allowed" in fault for fault in found.faults) == 3
    assert sum("does not compile" in fault for fault in found.faults) == 2
    assert len(found.rows) == len(right.rows) - 2


def test_a_check_that_time_does_not_suffice_for_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 1.0, 2.0, 3.0])
    found = checked(monkeypatch, ops("reference"), Budget(2.5, clock=lambda: next(readings)))
    assert len(found.rows) == 2
    assert "not checked" in found.faults[0]


def test_a_part_that_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("broken_part")
    module.run = lambda *_: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_part", module)
    assert find(Part("broken", "broken_part", 1.0), SMALL).faults == ["ZeroDivisionError: division by zero"]


def test_a_part_that_hangs_is_ended_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, float(str(options["timeout"])))

    monkeypatch.setattr(parts.subprocess, "run", hang)
    assert parts.run(PARTS[0], small=True)["faults"] == [
        f"not done after {PARTS[0].seconds + GRACE_S:.0f} seconds, and ended"
    ]


def test_a_part_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.sys, "executable", "/bin/false")
    assert parts.run(PARTS[0], small=True)["faults"] == ["its process ended with 1 and left no report"]


def test_one_part_that_failed_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {"kernels": [], "speeds": ["no clock"], "serving": []}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--small", "--out", str(tmp_path / "report.json")])
    monkeypatch.setattr(
        command, "run", lambda part, _: {"part": part.name, "seconds": 0.0} | Finding(faults[part.name]).as_json()
    )
    assert command.main() == 1
    assert "FAULT no clock" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "report.json").read_text())["parts"]) == len(PARTS)


PROGRAM = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

import torch, triton  # what they bring along is theirs
ALLOWED = set(sys.argv[1].split()) | {name.partition(".")[0] for name in sys.modules}
sys.meta_path.insert(0, Refused())
from tests.benchmarks.gpu_check.part import Setting
from tests.benchmarks.gpu_check.parts import PARTS, find
for part in PARTS:
    # Without a device that torch knows nothing is computed: a part ends as soon as all of it is imported.
    print(part.name, find(part, Setting("nowhere", True)).faults[0])
"""


def faults_with(packages: str) -> list[str]:
    """The first fault of each part where only these packages are installed beside torch."""
    program = [sys.executable, "-c", PROGRAM, f"{WITH_TORCH} {packages} cluster experts kernels router_service tests"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return done.stdout.splitlines()


def test_needs_torch_and_little_beside_it() -> None:
    """No Ray, no pytest, no library of tokens or tensors."""
    pytest.importorskip("triton")
    assert not any("not installed" in fault for fault in faults_with(FOR_SERVING))


@pytest.mark.parametrize(("there", "named"), [("psutil yaml", "msgspec"), ("psutil msgspec", "pyyaml")])
def test_a_missing_package_is_named_and_hides_no_other_part(there: str, named: str) -> None:
    pytest.importorskip("triton")
    missing = [line for line in faults_with(there) if "not installed" in line]
    assert missing == [f"serving the package {named} is not installed: add it (pip install {named})"]


def test_layers_shrink_to_the_memory_there_is() -> None:
    deepseek = next(layer for layer in LAYERS if layer.name == "DeepSeek-V3")
    assert deepseek.that_fits(139 << 30) == deepseek
    assert deepseek.that_fits(24 << 30).experts == 64
    assert deepseek.that_fits(1 << 30).top_k == deepseek.that_fits(1 << 30).experts
