"""A run as a picture, drawn by matplotlib, which is an extra."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.bench.driver import Run
from cluster.bench.record import Record

MISSING = "--chart needs matplotlib: pip install 'expertmesh[chart]', or leave the flag out"
SLICES = 60


def check_chart() -> None:
    """Raise ValueError if nothing can draw: before a run, not behind it."""
    if find_spec("matplotlib") is None:
        raise ValueError(MISSING)


def draw(run: Run, title: str, path: Path) -> None:
    """Draw how latencies are distributed, and tokens and requests over time. The suffix says the format: png, svg, pdf.

    Raises:
        OSError, ValueError: the file cannot be written, or there is no such format.
    """
    from matplotlib.figure import Figure

    good = [record for record in run.records if record.ok]
    figure = Figure(figsize=(11, 7), layout="constrained")
    first, between, whole, time = figure.subplots(2, 2).flat
    figure.suptitle(title)
    _shares(first, [record.ttft for record in good], "time to first token")
    _shares(between, [gap for record in good for gap in record.gaps], "time between tokens")
    _shares(whole, [record.latency for record in good], "end to end")
    _over_time(time, good, run.begun)
    figure.savefig(path, dpi=110)


def _shares(axes: Any, seconds: Sequence[float], name: str) -> None:
    """Which share of the values is at most how long."""
    values = sorted(1e3 * value for value in seconds)
    if values:
        axes.step(values, [(n + 1) / len(values) for n in range(len(values))], where="post")
    for share in (0.5, 0.9, 0.99):
        axes.axhline(share, color="0.85", linewidth=0.8, zorder=0)
    axes.set(xlabel=f"{name}, ms", ylabel="share", ylim=(0, 1.02))
    axes.set_xlim(left=0)


def _over_time(axes: Any, records: Sequence[Record], begun: float) -> None:
    """Output tokens a second, and requests in flight."""
    end = max((record.ended for record in records), default=begun) - begun
    width = end / SLICES or 1.0
    starts = [n * width for n in range(SLICES)]
    axes.plot(starts, [_tokens(records, begun + at, width) / width for at in starts])
    axes.set(xlabel="seconds", ylabel="output tokens/s")
    axes.set_ylim(bottom=0)
    flying = [sum(record.sent <= begun + at < record.ended for record in records) for at in starts]
    other = axes.twinx()
    other.plot(starts, flying, color="0.6", linestyle=":")
    other.set(ylabel="requests in flight (dotted)")
    other.set_ylim(bottom=0)


def _tokens(records: Sequence[Record], begin: float, width: float) -> float:
    """Tokens between `begin` and `width` later, each answer's spread evenly from its first to its last."""
    return sum(_part(record, begin, begin + width) * record.usage.generated_tokens for record in records)


def _part(record: Record, begin: float, end: float) -> float:
    if record.first is None or record.last is None:
        return 0.0
    if record.last == record.first:
        return float(begin <= record.first < end)
    return max(0.0, min(end, record.last) - max(begin, record.first)) / (record.last - record.first)
