"""The parts of the check, each in a process of its own: a fault of the device in one does not reach the others."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu_check.part import Budget, Finding, Setting

ROOT = Path(__file__).parents[3]
# What a part may take beyond its budget for its start and for the step that it is in when the budget ends.
GRACE_S = 20.0
# Where the name that is imported is not the one that is installed.
DISTRIBUTIONS = {"yaml": "pyyaml"}


@dataclass(frozen=True)
class Part:
    """A module with `run(setting, budget)`, and how long it may take; all together, with the grace, eight minutes."""

    name: str
    module: str
    seconds: float


PARTS = (
    Part("kernels", "tests.benchmarks.gpu_check.checking", 160.0),
    Part("speeds", "tests.benchmarks.gpu_check.speeds", 180.0),
    Part("serving", "tests.benchmarks.gpu_check.serving", 70.0),
)


def find(part: Part, setting: Setting) -> Finding:
    """Run a part in this process; what it raises becomes a fault."""
    try:
        # Here: a part whose packages are not all there must not keep the others from running.
        module = importlib.import_module(part.module)
        found: Finding = module.run(setting, Budget(part.seconds))
    except ModuleNotFoundError as missing:
        package = DISTRIBUTIONS.get(str(missing.name), missing.name)
        return Finding([f"the package {package} is not installed: add it (pip install {package})"])
    except Exception as fault:
        return Finding([f"{type(fault).__name__}: {fault}"])
    return found


def run(part: Part, small: bool) -> dict[str, Any]:
    """Run a part in a process of its own, ended when its budget and the grace are over; return its report."""
    with tempfile.TemporaryDirectory() as directory:
        out, begun = Path(directory) / "finding.json", time.monotonic()
        command = [sys.executable, "-m", "tests.benchmarks.gpu_check", "--part", part.name, "--out", str(out)]
        try:
            done = subprocess.run([*command, *(["--small"] if small else [])], cwd=ROOT, timeout=part.seconds + GRACE_S)
            fault = f"its process ended with {done.returncode} and left no report"
        except subprocess.TimeoutExpired:
            fault = f"not done after {part.seconds + GRACE_S:.0f} seconds, and ended"
        found = json.loads(out.read_text()) if out.exists() else Finding([fault]).as_json()
    return {"part": part.name, "seconds": time.monotonic() - begun} | found


def setting_of(small: bool) -> Setting:
    """The GPU, or with `small` the CPU."""
    return Setting(torch.device("cpu" if small else "cuda"), small)
