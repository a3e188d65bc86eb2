"""The first part: every kernel against float64, and that none waits for the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.ops import Ops
from kernels.select import ops
from tests.benchmarks.gpu_check.ffn_checks import FORMATS, SIZES, SMALL, TOKENS, FfnCheck, ffn_checks
from tests.benchmarks.gpu_check.other_checks import OtherCheck, other_checks
from tests.benchmarks.gpu_check.part import Budget, Finding, Setting
from tests.unit.kernels.kernel_cases import Case, make

Check = FfnCheck | OtherCheck


def run(setting: Setting, budget: Budget) -> Finding:
    """One row for each check; the first that time does not suffice for is a fault, as those behind it are not known."""
    found, backend = Finding(), ops("triton", setting.device)
    for check in _checks(setting):
        if budget.spent():
            found.faults.append(f"out of time before {check.name!r}: it and all behind it are not checked")
            break
        _one(check, backend, setting.device, found)
    found.lines.append(same_bits(backend, setting))
    worst = max(found.rows, key=lambda row: row["share"], default={"name": "none", "share": 0.0})
    found.lines.append(
        f"{len(found.rows)} checks; the nearest to its tolerance is {worst['name']}, at {worst['share']:.2f}"
    )
    return found


def same_bits(backend: Ops, setting: Setting) -> str:
    """Whether the first tokens' experts give the same bits alone and in a large batch: told, as it is not promised."""
    case = Case(3, **SMALL) if setting.small else Case(TOKENS[-1], **SIZES)
    problem = make(case, torch.bfloat16, str(setting.device))
    weights, first = problem.prepare(backend), case.top_k
    together = backend.expert_ffn(problem.x_TD, weights, *problem.rows)[0]
    alone = backend.expert_ffn(problem.x_TD[:1], weights, *(rows[:first] for rows in problem.rows))[0]
    return (
        f"expert_ffn: a token alone and among {case.tokens} has {'the same' if together.equal(alone) else 'other'} bits"
    )


def _checks(setting: Setting) -> Iterator[Check]:
    yield from other_checks(setting)
    yield from ffn_checks(setting)
    if setting.device.type == "cuda":
        for form in FORMATS:
            yield OtherCheck(f"{form} experts do not wait for the device", FfnCheck(Case(3, **SIZES), form).waits)


def _one(check: Check, backend: Ops, device: torch.device, found: Finding) -> None:
    try:
        share = check.error(backend, device)
    except Exception as fault:  # the next check must run: a kernel that does not compile hides no other
        found.faults.append(f"{check.name}: {type(fault).__name__}: {fault}")
        return
    found.rows.append({"name": check.name, "share": share})
    if not share <= 1:
        found.faults.append(f"{check.name}: {share:.3g} times the error that is allowed")
