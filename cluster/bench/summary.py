"""A run in numbers: throughput, percentiles, goodput, failures."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.bench.driver import Run
from cluster.bench.record import Record

# The first four are named as in vLLM's results: time to first token, per output token (a request's mean), between
# tokens, end to end. Then how late a request was sent, and how long it waited in the server.
SPANS = ("ttft", "tpot", "itl", "e2el", "late", "queue")
BOUNDS = ("ttft", "tpot", "e2el")
SHARES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted `values` lie, interpolated between neighbours (Hyndman and
    Fan's definition 7, as numpy's default); `values` may not be empty.
    """
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def parse_bound(text: str) -> tuple[str, float]:
    """Parse `ttft:500`: a span and its bound in ms, returned in seconds.

    Raises:
        ValueError: it is no such bound.
    """
    name, _, bound = text.partition(":")
    try:
        seconds = float(bound) / 1e3
    except ValueError:
        seconds = math.nan
    if name not in BOUNDS or not seconds > 0:
        raise ValueError(f"must be NAME:MS with a name of {', '.join(BOUNDS)} and MS over 0, got {text!r}")
    return name, seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's figures.

    Args:
        seconds: from the run's begin to the end of its last request.
        spans: for each of `SPANS` its mean, median, 90th and 99th percentile and maximum in seconds, if it has values.
        errors: how many requests failed with which status.
        good: completed requests within all bounds; None without bounds.
    """

    seconds: float
    completed: int
    failed: int
    unfinished: int
    unsent: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    spans: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, int]
    good: int | None

    def rate(self, count: float) -> float:
        """`count` per second of the run."""
        return count / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The summary for JSON, under the names of vLLM's results."""
        spans = {f"{name}_{span}_ms": 1e3 * s for span, values in self.spans.items() for name, s in values.items()}
        return {
            "duration": self.seconds,
            "completed": self.completed,
            "failed": self.failed,
            "unfinished": self.unfinished,
            "unsent": self.unsent,
            "errors": dict(self.errors),
            "total_input_tokens": self.input_tokens,
            "total_cached_input_tokens": self.cached_tokens,
            "total_output_tokens": self.output_tokens,
            "request_throughput": self.rate(self.completed),
            "request_goodput": None if self.good is None else self.rate(self.good),
            "input_throughput": self.rate(self.input_tokens),
            "output_throughput": self.rate(self.output_tokens),
            "total_token_throughput": self.rate(self.input_tokens + self.output_tokens),
            **spans,
        }


def summarize(run: Run, bounds: Mapping[str, float]) -> Summary:
    """Sum up what has ended; token counts are the server's own. `bounds` are in seconds, by span."""
    good = [record for record in run.records if record.ok]
    return Summary(
        seconds=max((record.ended for record in run.records), default=run.begun) - run.begun,
        completed=len(good),
        failed=len(run.records) - len(good),
        unfinished=run.unfinished,
        unsent=run.unsent,
        input_tokens=sum(record.usage.prompt_tokens for record in good),
        cached_tokens=sum(record.usage.cached_prompt_tokens for record in good),
        output_tokens=sum(record.usage.generated_tokens for record in good),
        spans={span: _distribution(values) for span in SPANS if (values := _values(span, good))},
        errors=Counter(record.status for record in run.records if not record.ok),
        good=sum(_within(record, bounds) for record in good) if bounds else None,
    )


def _values(span: str, records: Iterable[Record]) -> list[float]:
    """A span's values, sorted; of tokens, all records' together."""
    if span == "itl":
        return sorted(gap for record in records for gap in record.gaps)
    return sorted(value for record in records if (value := _value(span, record)) is not None)


def _value(span: str, record: Record) -> float | None:
    values = {
        "ttft": record.ttft,
        "tpot": record.tpot,
        "e2el": record.latency,
        "late": record.sent - record.due,
        "queue": record.usage.queue_seconds,
    }
    return values[span]


def _distribution(values: Sequence[float]) -> dict[str, float]:
    shares = {name: percentile(values, share) for name, share in SHARES.items()}
    return {"mean": math.fsum(values) / len(values), **shares, "max": values[-1]}


def _within(record: Record, bounds: Mapping[str, float]) -> bool:
    """Whether it keeps all bounds; an answer of one token has no time per output token to exceed."""
    return all((_value(span, record) or 0.0) <= bound for span, bound in bounds.items())
