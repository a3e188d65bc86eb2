"""The second part: the device's limits, then expert layers and attention as shares of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from cluster.table import duration, table
from kernels.select import ops
from tests.benchmarks.gpu_check import limits
from tests.benchmarks.gpu_check.contexts import time_contexts
from tests.benchmarks.gpu_check.layers import LAYERS, SMALL_LAYERS, TOKENS, time_layer
from tests.benchmarks.gpu_check.part import Budget, Finding, Setting

Rows = Iterator[dict[str, Any]]


@torch.inference_mode()
def run(setting: Setting, budget: Budget) -> Finding:
    """A table of each; what time does not suffice for is left out and named, which is no fault."""
    found, backend = Finding(), ops("triton", setting.device)
    timer = limits.Timer(setting, budget)
    reached = limits.measure(setting, timer)
    found.lines.append(reached.line())
    found.rows.append({"copied_bytes_per_second": reached.copied, "dense_flops": reached.dense})
    _part(found, budget, "attention", lambda: time_contexts(backend, setting, timer, reached))
    for layer in SMALL_LAYERS if setting.small else LAYERS:
        fitting, tokens = layer.that_fits(_free(setting.device)), TOKENS[:2] if setting.small else TOKENS
        _part(found, budget, layer.name,
              lambda one=fitting, counts=tokens: time_layer(one, backend, setting, timer, reached, counts))  # fmt: skip
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    if timer.unrecorded:
        found.lines.append(f"launched by the host, not from a graph: {', '.join(sorted(timer.unrecorded))}")
    found.lines += _tables(found.rows)
    return found


def _free(device: torch.device) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 1e9


def _part(found: Finding, budget: Budget, name: str, rows: Callable[[], Rows]) -> None:
    if budget.spent():
        found.lines.append(f"{name}: left out, out of time")
        return
    try:
        found.rows.extend(rows())
    except Exception as fault:  # the other shapes' figures are still wanted
        found.faults.append(f"{name}: {type(fault).__name__}: {fault}")


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    layers = [row for row in rows if "layer" in row]
    contexts = [row for row in rows if "heads" in row]
    lines = []
    if contexts:
        head = ["attention", "rows", "context", "time", "of copy"]
        cells = [[r["heads"], str(r["rows"]), str(r["context"]), duration(r["seconds"]), _share(r["share_of_copy"])]
                 for r in contexts]  # fmt: skip
        lines.append(table(head, cells))
    if layers:
        head = ["layer (experts)", "tokens", "form", "time", "of copy", "of dense"]
        cells = [[f"{r['layer']} ({r['experts']})", str(r["tokens"]), r["form"], duration(r["seconds"]),
                  _share(r["share_of_copy"]), _share(r["share_of_dense"])] for r in layers]  # fmt: skip
        lines.append(table(head, cells))
    return lines


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"
