"""What failures of shards cost: links, copies, failovers, hedged asks, degraded tokens."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from experts.links.record import FailureRecord
from experts.links.state import LinkState
from router_service.metrics.histogram import HistogramArray
from router_service.metrics.series_builder import SeriesBuilder

# With the bound that a failover is to keep, a quarter of a second.
FAILOVER_SECONDS = (1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COUNTERS = {
    "asks": "Calls sent to shards, attempts after the first included",
    "hedged_asks": "Calls sent for rows that another replica was still expected to answer",
    "hedged_asks_won": "Hedged calls that answered first",
    "late_answers": "Answers that came when nobody waited for them any more",
    "cancelled_asks": "Calls cancelled because another replica had answered",
    "suspicions": "How often a link to a shard became suspect",
    "suspicions_forgiven": "How often a suspect link was found to live",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGauges:
    """Failures as a router has seen them until now, in counts, and its links and the placement as they are.

    `links` and `copies` are by shard; `copies` has the least number of shards with a usable link that hold an expert
    of the shard's, itself included, None for a shard that holds none: it is not needed. `unavailable` counts the
    experts that no such shard holds. `there` are the shards that are needed, listed or reached: there may be room for
    more, and one that has left is to alert nobody; None is all.
    """

    record: FailureRecord = field(default_factory=FailureRecord)
    seconds: HistogramArray = field(default_factory=lambda: HistogramArray(FAILOVER_SECONDS, 1))
    fallback_tokens: Mapping[str, int] = field(default_factory=dict)
    links: tuple[LinkState, ...] = ()
    copies: tuple[int | None, ...] = ()
    unavailable: int = 0
    epoch: int = 0
    there: Collection[int] | None = None

    def needs(self, shard: int) -> bool:
        """Whether the placement gives the shard experts; without one all count as needed."""
        return not self.copies or self.copies[shard] is not None

    def among(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` that are there."""
        return [shard for shard in shards if self.there is None or shard in self.there]

    @property
    def degraded_tokens(self) -> int:
        """Tokens that were computed without one of their experts, or with another one."""
        return self.fallback_tokens.get("drop", 0) + self.fallback_tokens.get("next_best", 0)


def failure_series(builder: SeriesBuilder, failure: FailureGauges) -> None:
    """Add the series."""
    _state(builder, failure)
    record = failure.record
    reasons = [({"reason": reason}, count) for reason, count in record.failovers.items()]
    builder.add("failovers", "counter", "Layer calls that were repeated elsewhere, by reason", reasons)
    text = "From the fault seen to the layer's answer complete"
    builder.histogram("failover_seconds", text, [(failure.seconds, 0, {})])
    counts = (
        record.asks,
        record.duplicates,
        record.duplicates_won,
        record.late_answers,
        record.cancels,
        record.suspicions,
        record.forgiven,
    )
    for (name, text), count in zip(COUNTERS.items(), counts, strict=True):
        builder.one(name, "counter", text, count)
    policies = [({"policy": policy}, count) for policy, count in failure.fallback_tokens.items()]
    builder.add("fallback_tokens", "counter", "Tokens that lost an expert, by the policy that decided", policies)


def _state(builder: SeriesBuilder, failure: FailureGauges) -> None:
    states = [
        ({"shard": str(shard), "state": state}, state is failure.links[shard])
        for shard in failure.among(range(len(failure.links)))
        for state in LinkState
    ]
    builder.add("shard_link_state", "gauge", "1 for the state of the link to a shard, 0 for all others", states)
    text = "Least number of reachable shards that hold an expert of the shard's"
    copies = [({"shard": str(shard)}, least) for shard, least in enumerate(failure.copies) if least is not None]
    builder.add("expert_copies", "gauge", text, copies)
    builder.one("experts_unavailable", "gauge", "Experts that no reachable shard holds", failure.unavailable)
    builder.one("placement_epoch", "gauge", "Epoch of the placement in use", failure.epoch)
