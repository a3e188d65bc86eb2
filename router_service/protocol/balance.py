"""What the control plane reports of placements that change, to Fronts: plain data, as `cluster.proto` has it."""

from typing import Literal

import msgspec


class PlanReport(msgspec.Struct, frozen=True):
    """A change of placement. Gains are parts of the slowest shard's time; None is not known yet.

    `state` is preparing, switched, done or failed. Times are seconds since 1970. Of the `shards_loading` that have to
    load something, `shards_ready` have it.
    """

    epoch: int
    state: str
    reason: str = ""
    copies_added: int = 0
    copies_dropped: int = 0
    bytes: int = 0
    began: float = 0.0
    ended: float = 0.0
    predicted_gain: float = 0.0
    measured_gain: float | None = None
    shards_ready: int = 0
    shards_loading: int = 0


class BalanceReport(msgspec.Struct, frozen=True):
    """The balancer's state. `runs` counts its looks by result: moved, kept, failed.

    `replicas_S` are the copies that each shard holds, (layer, expert) pairs; `copies_moved` those made since the start.
    `plans` are the latest, oldest first. `shards` are wanted, of at most `most_shards`. `interval` is how often it is
    to look, `prepare_seconds` how long shards may take to load, both in seconds: what is later is late.
    """

    epoch: int = 0
    automatic: bool = False
    pinned: bool = False
    last_run: float = 0.0
    last_success: float = 0.0
    result: str = ""
    reason: str = ""
    runs: dict[str, int] = {}
    copies_moved: int = 0
    replicas_S: list[int] = []
    plans: list[PlanReport] = []
    shards: int = 0
    most_shards: int = 0
    interval: float = 10.0
    prepare_seconds: float = 600.0


class RebalanceOutcome(msgspec.Struct, frozen=True):
    """What a rebalance has led to, as `RebalanceReply` has it.

    `result` is moving (it has begun), kept (the present placement is good enough) or planned (a dry run). `plan` is
    None if kept. `placement` is a placement file's JSON: the new one's, or the present one's if kept.
    """

    result: str
    reason: str = ""
    plan: PlanReport | None = None
    placement: str = ""


class BalanceRefusal(msgspec.Struct, frozen=True):
    """Why the balancer did not do what was asked: it answers with one instead of raising, so that it stays plain data.

    `kind` is precondition (not as things are: another move is on, the placement given does not fit), invalid (it can
    never be: a placement that cannot be read, no room for so many shards) or unavailable (the registry does not answer,
    nothing was routed yet). `message` says what, and what to do.
    """

    kind: Literal["precondition", "invalid", "unavailable"]
    message: str
