"""What the balancer does, in lines for people. Times are seconds since 1970; gains are of the slowest shard's time."""

from collections.abc import Iterator

from cluster.cli.failing import one_line
from cluster.table import duration, size
from router_service.protocol import cluster_pb2 as pb

# A plan in these states goes on.
UNDER_WAY = {"preparing": "shards load", "switched": "routers change over"}
# Looks that have not come: one may be late where the machine is busy.
LATE_LOOKS = 3
DONE = "done"
UNHEARD = "balancer: not heard yet"


def under_way(balance: pb.Balance) -> pb.BalancePlan | None:
    """The plan that is being carried out, if any."""
    return next((plan for plan in reversed(balance.plans) if plan.state in UNDER_WAY), None)


def balance_lines(balance: pb.Balance, now: float) -> Iterator[str]:
    """Placement, the latest look and plans, and a warning where the balancer is silent."""
    modes = ["moves by itself" if balance.automatic else "moves when told", *(["pinned"] if balance.pinned else [])]
    yield (
        f"placement: epoch {balance.epoch}, {', '.join(modes)}; copies of experts moved: {balance.copies_moved}; "
        f"shards: {balance.shards} wanted, {balance.most_shards} at most"
    )
    yield f"balancer: {_look(balance, now)}"
    if (late := silence(balance, now)) is not None:
        yield f"warning: the balancer is silent: {late}; serving goes on, nothing is moved"
    if (ended := next((plan for plan in reversed(balance.plans) if plan.state not in UNDER_WAY), None)) is not None:
        yield f"last move: {ended_line(ended)}, {ago(now - ended.ended)}"
    if (plan := under_way(balance)) is not None:
        yield f"moving: {progress_line(plan)}; {contents(plan)}; began {ago(now - plan.began)}"


def silence(balance: pb.Balance, now: float) -> str | None:
    """How late the balancer's look is, None if it is in time."""
    if not balance.last_run or now - balance.last_run <= LATE_LOOKS * balance.interval:
        return None
    return f"it looked {ago(now - balance.last_run)}, and is to look every {balance.interval:g} s"


def progress_line(plan: pb.BalancePlan) -> str:
    """How far a plan is."""
    loaded = f": {plan.shards_ready} of {plan.shards_loading} have loaded" if plan.state == "preparing" else ""
    return f"epoch {plan.epoch}, {plan.state}, {UNDER_WAY.get(plan.state, 'ended')}{loaded}"


def ended_line(plan: pb.BalancePlan) -> str:
    """What has become of a plan that has ended."""
    took = duration(max(0.0, plan.ended - plan.began))
    if plan.state != DONE:
        return f"epoch {plan.epoch}, {plan.state} after {took}: {one_line(plan.reason) or 'no reason is known'}"
    return f"epoch {plan.epoch}, done in {took}: {contents(plan)}; {gains(plan)}"


def contents(plan: pb.BalancePlan) -> str:
    """What a plan moves."""
    return f"copies: {plan.copies_added} new, {plan.copies_dropped} dropped, {size(plan.bytes)} to read"


def gains(plan: pb.BalancePlan) -> str:
    """What a plan promises and, where it has been carried out, has given."""
    promised = f"gain: {plan.predicted_gain:.1%} predicted"
    if plan.HasField("measured_gain"):
        return f"{promised}, {plan.measured_gain:.1%} measured"
    return f"{promised}, not measured yet" if plan.state == DONE else promised


def ago(seconds: float) -> str:
    """Words for how long ago something was; clocks of two machines may differ, so never in the future."""
    seconds = max(0.0, seconds)
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _look(balance: pb.Balance, now: float) -> str:
    if not balance.last_run:
        return "no look yet"
    reason = f" ({one_line(balance.reason)})" if balance.reason else ""
    return f"looked {ago(now - balance.last_run)}: {balance.result or 'no result'}{reason}"
