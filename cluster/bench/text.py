"""A run as text: the table, and the line that shows its progress."""

from collections.abc import Mapping

from cluster.bench.driver import Limits, Run
from cluster.bench.summary import Summary
from cluster.table import duration, table

NAMES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "time between tokens",
    "e2el": "end to end",
    "late": "sent late",
    "queue": "queued in the server",
}
COLUMNS = ("mean", "median", "p90", "p99", "max")
BAR = 24


def render(summary: Summary, bounds: Mapping[str, float]) -> str:
    """Return the tables of a run: counts, rates, latencies in ms."""
    counts = [["requests", _requests(summary)], ["duration", duration(summary.seconds)], *_tokens(summary)]
    lines = [table(["", ""], counts, left=2).lstrip("\n"), "", _rates(summary, bounds)]
    if summary.spans:
        rows = [[NAMES[span], *(f"{1e3 * s[column]:.2f}" for column in COLUMNS)] for span, s in summary.spans.items()]
        lines += ["", table(["ms", *COLUMNS], rows)]
    return "\n".join(lines)


def progress_line(run: Run, limits: Limits, now: float) -> str:
    """Return what has been done so far in one line; the bar follows the nearer of both limits."""
    seconds, ended = now - run.begun, len(run.records)
    shares = [ended / limits.requests] if limits.requests else []
    shares += [seconds / limits.seconds] if limits.seconds else []
    full = round(BAR * min(1.0, max(shares, default=0.0)))
    of = f"/{limits.requests}" if limits.requests else ""
    tokens = sum(record.usage.generated_tokens for record in run.records)
    rate = f"{tokens / seconds:.0f} tokens/s" if seconds > 0 else ""
    failed = sum(not record.ok for record in run.records)
    parts = (
        f"{ended}{of} done",
        f"{run.running} running",
        f"{failed} failed" if failed else "",
        rate,
        f"{seconds:.0f} s",
    )
    return f"[{'#' * full}{'.' * (BAR - full)}] {', '.join(filter(None, parts))}"


def _requests(summary: Summary) -> str:
    parts = [f"{summary.completed} completed", f"{summary.failed} failed{_errors(summary)}"]
    parts += [f"{summary.unfinished} unfinished"] if summary.unfinished else []
    parts += [f"{summary.unsent} arrived too late to be sent"] if summary.unsent else []
    return ", ".join(parts)


def _errors(summary: Summary) -> str:
    named = ", ".join(f"{status} {count}" for status, count in sorted(summary.errors.items()))
    return f" ({named})" if named else ""


def _tokens(summary: Summary) -> list[list[str]]:
    cached = f", {summary.cached_tokens} of them cached" if summary.cached_tokens else ""
    return [["input tokens", f"{summary.input_tokens}{cached}"], ["output tokens", str(summary.output_tokens)]]


def _rates(summary: Summary, bounds: Mapping[str, float]) -> str:
    rows = [
        ["requests", f"{summary.rate(summary.completed):.2f}"],
        ["input tokens", f"{summary.rate(summary.input_tokens):.1f}"],
        ["output tokens", f"{summary.rate(summary.output_tokens):.1f}"],
    ]
    if summary.good is not None:
        named = ", ".join(f"{span} {1e3 * bound:g} ms" for span, bound in bounds.items())
        share = summary.good / summary.completed if summary.completed else 0.0
        rows.append([f"good requests ({named}): {share:.1%}", f"{summary.rate(summary.good):.2f}"])
    return table(["", "per second"], rows)
