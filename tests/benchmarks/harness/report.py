"""The benchmark's figures as text."""

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from cluster.table import duration, size, table
from experts.timing.phase import Phase

OURS = ("cluster", "one process")
WAYS = ("our data plane", "serve handles", "bare socket")


def machine() -> dict[str, Any]:
    """What it runs on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: version(name) for name in ("torch", "transformers", "ray")}
    cpu = names[0] if names else platform.machine()
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory": memory, "versions": versions}


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The command's own settings."""
    return {key: value for key, value in vars(args).items() if key not in ("json", "checkpoint")}


def heading(result: Mapping[str, Any]) -> str:
    """Machine and settings in two lines."""
    m, s = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in m["versions"].items())
    return (
        f"{m['cores']} cores of {m['cpu']}, {size(m['memory'])}, {versions}\n"
        f"{s['shape']} ({s['scale']}), {s['dtype']}, {s['shards']} shards, median of {s['repeats']}"
    )


def rate_line(cell: str, rates: Mapping[str, Sequence[float]]) -> str:
    """All repeats of one cell, to be seen while the others run."""
    return f"  {cell}: " + "; ".join(f"{name} {' '.join(f'{v:.1f}' for v in r)}" for name, r in rates.items())


def best_of_theirs(rates: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    """Name and median of transformers' best implementation."""
    theirs = {name.split()[-1]: median(r) for name, r in rates.items() if name.startswith("transformers")}
    name = max(theirs, key=lambda key: theirs[key])
    return name, theirs[name]


def rates(cells: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Tokens/s by cell and side, and our ratios to transformers."""
    return "\n" + table(["tokens/s", *OURS, "transformers", "its best", *(f"{o} / t." for o in OURS)], [
        _rate_row(cell, sides) for cell, sides in cells.items()
    ])  # fmt: skip


def _rate_row(cell: str, sides: Mapping[str, Sequence[float]]) -> list[str]:
    name, theirs = best_of_theirs(sides)
    ours = [median(sides[side]) if side in sides else None for side in OURS]
    cells = ["not measured" if rate is None else f"{rate:.1f}" for rate in ours]
    ratios = ["-" if rate is None else f"{rate / theirs:.2f}x" for rate in ours]
    return [cell, *cells, f"{theirs:.1f}", name, *ratios]


def exchange(rows: Sequence[Mapping[str, Any]]) -> str:
    """A layer's exchange in service by phase; alone by way; where a step's time goes."""
    phases, stages = list(rows[0]["phases"]), list(rows[0]["stages"])
    return "\n".join([
        "\nOne layer's call to a shard while decoding (means; all but compute is the all-to-all):",
        table(["batch", *phases, "all but compute"], [_phase_row(row, phases) for row in rows]),
        "\nThe exchange of one layer with all shards, nothing computed (medians):",
        table(["batch", "bytes out, back", *WAYS], [_way_row(row) for row in rows]),
        "\nThe router's decode step by stage (means):",
        table(["batch", "step", *stages], [_stage_row(row, stages) for row in rows]),
    ])  # fmt: skip


def _phase_row(row: Mapping[str, Any], phases: Sequence[str]) -> list[str]:
    rest = sum(value for phase, value in row["phases"].items() if phase != Phase.COMPUTE)
    return [str(row["batch"]), *(duration(row["phases"][phase]) for phase in phases), duration(rest)]


def _way_row(row: Mapping[str, Any]) -> list[str]:
    ways = ["skipped" if row[way] is None else duration(row[way]) for way in WAYS]
    return [str(row["batch"]), f"{size(row['bytes out'])}, {size(row['bytes back'])}", *ways]


def _stage_row(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    return [str(row["batch"]), duration(row["step"]), *(duration(row["stages"][stage]) for stage in stages)]


def start(events: Sequence[tuple[float, str]]) -> str:
    """When which process was where."""
    lines = (f"  {seconds:6.2f} s  {what}" for seconds, what in events)
    return "\n".join(["\nFrom the start to ready:", *lines])


def memory(processes: Sequence[Mapping[str, Any]], peaks: Mapping[str, int]) -> str:
    """Peak resident memory (VmHWM): each of our processes, Ray's own as one, and those compared with."""
    ours = [p for p in processes if not p["name"].startswith("ray ")]
    rays = [p for p in processes if p["name"].startswith("ray ")]
    rows = [(p["name"], p["peak_bytes"]) for p in ours]
    rows += [("router, shards and front", sum(p["peak_bytes"] for p in ours))]
    rows += [(f"Ray's own {len(rays)} processes", sum(p["peak_bytes"] for p in rays)), *peaks.items()]
    return "\n" + table(["peak resident memory", ""], [(name, size(bytes)) for name, bytes in rows])
