"""Runs the `*_suite.py` in a process of their own: in Triton's interpreter, and on the GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SUITES = sorted(Path(__file__).parent.glob("*_suite.py"))
ROOT = Path(__file__).parents[4]
# The interpreter takes a minute of a core that it has for itself: it ends a run that hangs, and judges no machine.
LIMIT_S = 1500


def run_suite(**environment: str) -> None:
    """What the outer session carries (workers, random order) stays outside; a failure shows the inner report."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *map(str, SUITES)]
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    done = subprocess.run(
        command, cwd=ROOT, env=outer | environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.timeout(LIMIT_S + 60)
def test_triton_in_the_interpreter():
    pytest.importorskip("triton")
    run_suite(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_triton_on_the_gpu():
    run_suite()
