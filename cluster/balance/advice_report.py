"""The report of `cluster.balance.advice`, as JSON and for a terminal."""

import json
from dataclasses import asdict, dataclass

# An expert is hot with so many times the mean of its layer's tokens.
HOT = 2.0
MOST_HOT = 5


@dataclass(frozen=True, slots=True)
class HotLayer:
    """A layer's largest expert loads over the mean, and those experts that are `HOT`, hottest first, at most five."""

    layer: int
    max_over_mean: float
    experts: list[int]


@dataclass(frozen=True, slots=True)
class CopiesGain:
    """What so many extra copies a shard and layer would save of the slowest shard's time, and take of memory.

    `lasting_gain` is what a placement made for the first half of the time saves in the second: what is left when
    traffic has gone on. Bytes are of all shards together; `loaded_bytes` are to be read once.
    """

    extra_copies: int
    gain: float
    lasting_gain: float
    memory_bytes: int
    loaded_bytes: int


@dataclass(frozen=True, slots=True)
class Advice:
    """The report. Imbalance is the slowest shard's time over the mean; `persistence` the part of the experts' imbalance
    that one window has in common with the next, 1 if heat stays where it is and about 0 if it is chance.

    `recommendation` is copies, move or leave; `reason` says it in a sentence.
    """

    recommendation: str
    reason: str
    extra_copies: int
    seconds: float
    tokens: int
    shard_imbalance: float
    shard_time_imbalance: float
    expert_imbalance: float
    persistence: float
    hot: list[HotLayer]
    curve: list[CopiesGain]

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=2)

    def text(self) -> str:
        """For a terminal."""
        hot = "; ".join(map(_hot_text, self.hot))
        lines = [
            f"recommendation     {self.recommendation}: {self.reason}",
            f"seen               {self.tokens} tokens in {self.seconds:.0f} s",
            f"shards             {self.shard_imbalance:.2f} times the mean load, "
            f"{self.shard_time_imbalance:.2f} times the mean time",
            f"experts            {self.expert_imbalance:.2f} times the mean load, {self.persistence:.0%} lasting",
            f"hottest            {hot or 'none'}",
            f"{'extra copies':<19}{'gain':<8}{'lasting':<9}{'memory':<13}to load",
        ]
        return "\n".join(lines + [_row(one) for one in self.curve])


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / (1 << 20):.1f} MiB"


def _row(one: CopiesGain) -> str:
    sizes = f"{mib(one.memory_bytes):<13}{mib(one.loaded_bytes)}"
    return f"{one.extra_copies:<19}{one.gain:<8.1%}{one.lasting_gain:<9.1%}{sizes}"


def _hot_text(hot: HotLayer) -> str:
    return f"layer {hot.layer}: expert {', '.join(map(str, hot.experts))} ({hot.max_over_mean:.1f} times the mean)"
