"""The series that shards report of themselves and a router passes on."""

from collections.abc import Iterator
from typing import Any

from router_service.metrics.series_builder import SeriesBuilder, rejections, thread_failures
from router_service.protocol.messages import MetricFamily


def shard_series(statuses: dict[int, dict[str, Any]], labels: dict[str, str]) -> list[MetricFamily]:
    """The shards' own series. They have no label of a router, because every router passes on the same numbers."""
    builder = SeriesBuilder(labels)
    numbers = list(_statuses(statuses))
    builder.add(
        "shard_tokens",
        "counter",
        "(token, expert) pairs that a shard computed",
        [(n, s["assignments"]) for n, s in numbers],
    )
    text = "Expert computations, each of one call or of several routers' calls together"
    builder.add("shard_computations", "counter", text, [(n, s["computations"]) for n, s in numbers])
    text = "Calls that were computed together with others"
    builder.add("shard_merged_calls", "counter", text, [(n, s["merged_calls"]) for n, s in numbers])
    held = [(n | {"kind": "expert"}, s["weights_bytes"]) for n, s in numbers]
    builder.add("weights_bytes", "gauge", "Bytes of weights held", held)
    text = "Seconds it took to load the weights"
    builder.add("checkpoint_load_seconds", "gauge", text, [(n, s["load_seconds"]) for n, s in numbers])
    builder.add(
        "checkpoint_load_bytes",
        "counter",
        "Bytes of weights loaded, as held in memory",
        [(n, s["weights_bytes"]) for n, s in numbers],
    )
    refused = [one for n, s in numbers for one in rejections(n, s["rejected"])]
    builder.add("dataplane_rejected_connections", "counter", "Connections closed, by reason", refused)
    failed = [one for n, s in numbers for one in thread_failures(n, s["thread_failures"])]
    builder.add("thread_failures", "counter", "Threads that ended by an exception, by kind", failed)
    return builder.metric_families


def _statuses(statuses: dict[int, dict[str, Any]]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    for shard, status in sorted(statuses.items()):
        # Empty until the shard has sent its first.
        if status:
            yield {"shard": str(shard)}, status
