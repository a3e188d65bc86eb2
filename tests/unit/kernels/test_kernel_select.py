"""Which backend runs where, and what a wrong choice says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from kernels.native.library import available
from kernels.ops import Backend, Ops
from kernels.select import ops, resolve


def run_python(code: str) -> None:
    """In a process of its own: what is imported is the question."""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_auto_follows_the_device():
    fastest = Backend.NATIVE if available() else Backend.CPU
    assert ops().backend is fastest
    assert resolve(Backend.AUTO, "cpu") is fastest
    assert resolve(Backend.AUTO, "cuda") is Backend.TRITON
    assert ops("reference", torch.device("cpu")).backend is Backend.REFERENCE


def test_ops_are_resolved_once():
    assert ops("auto") is ops(resolve(Backend.AUTO, "cpu"))


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="cuda"):
        ops("cuda")


def test_device_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'cpu' cannot run on a cuda device"):
        ops("cpu", "cuda")
    with pytest.raises(ValueError, match="no fast backend for a mps device"):
        ops("auto", "mps")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does run on a CPU")
def test_triton_on_a_cpu_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="'triton' cannot run on a cpu device"):
        ops("triton", "cpu")


def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match="needs the package triton"):
        ops("auto", "cuda")


def test_cpu_path_needs_no_triton():
    run_python(
        "import sys; sys.modules['triton'] = None\n"
        "from kernels.select import ops\n"
        "assert ops('auto').backend in ('native', 'cpu') and ops('reference').backend == 'reference'"
    )


def test_package_itself_is_light():
    run_python("import sys, kernels; assert kernels.__version__ == '0' and 'torch' not in sys.modules")


@pytest.mark.parametrize("backend", ["cpu", "reference", *(["native"] if available() else [])])
def test_every_op_runs(backend):
    chosen: Ops = ops(backend)
    weights_TK, ids_TK = chosen.gate_topk(torch.randn(4, 3), 2, True)
    weights = chosen.prepare_weights(torch.randn(3, 12, 8), torch.randn(3, 8, 6))
    token = torch.arange(4).repeat_interleave(2)
    y_TD = chosen.expert_ffn(torch.randn(4, 8), weights, token, ids_TK.flatten(), weights_TK.flatten())
    assert y_TD.shape == (4, 8)
    assert y_TD.dtype == torch.float32
    w_OI = torch.randn(5, 8)
    torch.testing.assert_close(chosen.linear(y_TD, chosen.prepare_matrix(w_OI)), y_TD @ w_OI.T, rtol=1e-4, atol=1e-4)
