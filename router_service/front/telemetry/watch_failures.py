"""How many of the Front's own threads and tasks have failed, in the family in which routers and shards count theirs."""

from collections.abc import Iterable

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from experts.host.watched_task import TaskWatch
from experts.host.watched_thread import ThreadWatch


class WatchFailures(Collector):
    """Reads the watches at each scrape. The label `shard` says `front`, where a router's series say `router`."""

    def __init__(self, model: str, watches: Iterable[ThreadWatch | TaskWatch]) -> None:
        self._model = model
        self._watches = tuple(watches)

    def collect(self) -> Iterable[Metric]:
        """Return the family; called on a scrape's thread."""
        text = "Threads and tasks that ended by a fault, by kind"
        family = CounterMetricFamily("expertmesh_thread_failures", text, labels=("model", "shard", "thread"))
        for watch in self._watches:
            for kind, count in watch.failures.items():
                family.add_metric((self._model, "front", kind), count)
        return [family]
