"""Builds metric families with a common prefix of their names and common labels of their samples."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from router_service.protocol.messages import MetricFamily, Sample

PREFIX = "expertmesh_"


class SeriesBuilder:
    """Collects metric families whose samples share labels."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.metric_families: list[MetricFamily] = []
        self._labels = labels

    def add(self, name: str, kind: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> None:
        """A counter (its samples get the suffix _total) or a gauge."""
        suffix = "_total" if kind == "counter" else ""
        samples = [Sample(PREFIX + name + suffix, self._labels | labels, float(value)) for labels, value in values]
        self.metric_families.append(MetricFamily(PREFIX + name, text, kind, samples))

    def one(self, name: str, kind: str, text: str, value: float) -> None:
        """A metric family with a single sample."""
        self.add(name, kind, text, [({}, value)])

    def histogram(
        self,
        name: str,
        text: str,
        rows: Iterable[tuple[Any, int, dict[str, str]]],
        bounds: Sequence[float] | None = None,
    ) -> None:
        """A histogram: each row is an array of histograms, the row in it, and its labels; all or only some `bounds`."""
        samples = [
            sample
            for array, row, labels in rows
            for sample in array.samples(PREFIX + name, row, self._labels | labels, bounds)
        ]
        self.metric_families.append(MetricFamily(PREFIX + name, text, "histogram", samples))


def by_shard(values: Iterable[float], only: Container[int]) -> list[tuple[dict[str, str], float]]:
    """Label the values of the shards from 0 on, of those in `only`: there may be room for many more."""
    return [({"shard": str(shard)}, value) for shard, value in enumerate(values) if shard in only]


def rejections(labels: dict[str, str], counts: Mapping[str, int]) -> list[tuple[dict[str, str], float]]:
    """Unauthenticated peers and other deployments count from 0, or an alert would miss the first; other reasons appear
    when they occur."""
    from_zero = {"secret": 0, "digest": 0} | dict(counts)
    return [(labels | {"reason": reason}, count) for reason, count in from_zero.items()]


def thread_failures(labels: dict[str, str], counts: Mapping[str, int]) -> list[tuple[dict[str, str], float]]:
    """Connections count from 0, or an alert would miss the first one; see `ThreadWatch` for what else is counted."""
    return [(labels | {"thread": kind}, count) for kind, count in ({"connection": 0} | dict(counts)).items()]
