"""Following what an operator has begun: what ends the wait, and what is said meanwhile."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.client.balance_text import ago, balance_lines, ended_line, gains, silence
from cluster.cli.client.following import PATIENCE_SECONDS, POLL_SECONDS, NotDoneError, end_of_plan, states
from cluster.cli.client.plain import plain
from cluster.cli.client.saving import saved_to
from cluster.cli.client.scale_command import count, scaled
from router_service.protocol import cluster_pb2 as pb

POLLS = int(PATIENCE_SECONDS / POLL_SECONDS)
MIB = 1 << 20


def state(*plans: pb.BalancePlan, epoch: int = 3, shards: int = 0, balance: bool = True) -> pb.ClusterState:
    return pb.ClusterState(balance=pb.Balance(epoch=epoch, plans=plans, shards=shards) if balance else None)


def plan(kind: str = "preparing", epoch: int = 4, **fields: Any) -> pb.BalancePlan:
    return pb.BalancePlan(epoch=epoch, state=kind, **fields)


async def each(given: Iterable[pb.ClusterState]) -> AsyncIterator[pb.ClusterState]:
    for one in given:
        yield one


async def ended(*given: pb.ClusterState) -> tuple[pb.BalancePlan | None, list[str]]:
    seen: list[str] = []
    plan = await end_of_plan(each(given), 4, lambda plan: seen.append(plan.state))
    return plan, seen


async def test_a_plan_is_followed_to_its_end() -> None:
    for end in ("done", "failed"):
        last, seen = await ended(state(), state(plan()), state(plan("switched")), state(plan(end), epoch=4), state())
        assert (last == plan(end), seen) == (True, ["preparing", "switched"])


async def test_plans_before_and_after_are_not_ours() -> None:
    last, seen = await ended(state(plan("failed", 3)), state(plan("done", 3), plan("done"), plan(epoch=5)))
    assert (last == plan("done"), seen) == (True, [])


async def test_a_balancer_that_was_started_anew_may_know_of_it_no_more() -> None:
    assert await ended(state(plan()), state(balance=False), state(epoch=4)) == (None, ["preparing"])


async def test_a_move_that_nobody_knows_of_is_not_waited_for_for_ever() -> None:
    with pytest.raises(NotDoneError, match="knows no more of the move to epoch 4"):
        await ended(*[state()] * POLLS)
    last, _ = await ended(*[state()] * (POLLS - 1), state(plan()), *[state()] * (POLLS - 1), state(plan("done")))
    assert last == plan("done")


class Cluster:
    """Answers GetCluster with what it is given in turn; a status is raised."""

    def __init__(self, *answers: pb.ClusterState | grpc.StatusCode) -> None:
        self._answers = iter(answers)
        self.slept: list[float] = []

    async def cluster(self, timeout: float) -> pb.ClusterState:
        assert timeout > 0
        answer = next(self._answers)
        if isinstance(answer, grpc.StatusCode):
            raise grpc.aio.AioRpcError(answer, grpc.aio.Metadata(), grpc.aio.Metadata())
        return answer

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


GONE, LATE, DENIED = (grpc.StatusCode[name] for name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED"))


async def test_a_front_that_is_replaced_is_waited_for() -> None:
    cluster = Cluster(state(), GONE, LATE, state(plan()))
    heard = states(cluster, cluster.sleep)  # type: ignore[arg-type]
    assert [await anext(heard) for _ in range(2)] == [state(), state(plan())]
    assert cluster.slept == [POLL_SECONDS] * 3


async def test_nobody_waits_for_ever_for_a_front() -> None:
    cluster = Cluster(*[GONE] * (POLLS + 1))
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(states(cluster, cluster.sleep))  # type: ignore[arg-type]
    assert len(cluster.slept) == POLLS - 1


async def test_a_refusal_is_not_waited_out() -> None:
    cluster = Cluster(DENIED)
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(states(cluster, cluster.sleep))  # type: ignore[arg-type]
    assert cluster.slept == []


def shards(*held: int, loading: int = 0, wanted: int = 3, plans: Iterable[pb.BalancePlan] = ()) -> pb.ClusterState:
    found = [pb.Shard(shard=index, state="ready", experts=experts) for index, experts in enumerate(held)]
    found += [pb.Shard(shard=len(held) + index, state="loading") for index in range(loading)]
    return pb.ClusterState(shards=found, balance=pb.Balance(epoch=3, shards=wanted, plans=plans))


async def test_shards_are_scaled_when_each_holds_experts_and_nothing_moves() -> None:
    said: list[str] = []
    steps = [
        shards(8, 8, wanted=2),  # a Front that has not heard of it yet
        shards(8, 8, loading=1),
        shards(8, 8, 0),
        shards(8, 8, 4, plans=[plan(shards_ready=0, shards_loading=1)]),
        shards(8, 8, 4, plans=[plan("done")]),
    ]
    counted = await scaled(each(steps), 3, 3, said.append)
    assert counted.done
    assert said == [
        "shards ready: 2 of 3, with experts: 2, there: 2",
        "shards ready: 2 of 3, with experts: 2, there: 3",
        "shards ready: 3 of 3, with experts: 2, there: 3",
        "shards ready: 3 of 3, with experts: 3, there: 3; epoch 4, preparing, shards load: 0 of 1 have loaded",
    ]


async def test_shards_that_go_are_waited_for() -> None:
    said: list[str] = []
    counted = await scaled(each([shards(8, 8, 8, wanted=2), shards(8, 8, wanted=2)]), 2, 0, said.append)
    assert (counted.done, len(said)) == (True, 1)


async def test_a_failed_move_ends_the_wait_if_it_is_of_this_change() -> None:
    before, ours = plan("failed", 3), plan("failed", 4, reason="no room")
    with pytest.raises(NotDoneError, match="the move of experts to epoch 4 has failed: no room"):
        await scaled(each([shards(8, plans=[before]), shards(8, plans=[before, ours])]), 3, 3, lambda _: None)


async def test_another_number_ends_the_wait() -> None:
    with pytest.raises(NotDoneError, match="5 shards are wanted now"):
        await scaled(each([shards(8), shards(8, wanted=5)]), 3, 0, lambda _: None)


def test_processes_of_one_shard_count_once() -> None:
    old, new = pb.Shard(shard=0, state="draining", experts=8), pb.Shard(shard=0, state="ready", experts=8)
    counted = count(pb.ClusterState(shards=[old, new]), 1)
    assert (counted.ready, counted.holding, counted.there) == (1, 1, 1)


def test_lines_about_the_balancer() -> None:
    done = plan("done", 3, copies_added=2, copies_dropped=1, bytes=3 * MIB, began=100.0, ended=104.0)
    done.predicted_gain, done.measured_gain = 0.2, 0.1
    going = plan("preparing", 4, began=190.0, shards_ready=1, shards_loading=2, predicted_gain=0.05)
    balance = pb.Balance(
        epoch=3,
        automatic=True,
        pinned=True,
        last_run=196.0,
        interval=10.0,
        result="moved",
        reason="heat\nof \x1b[31mexpert 3",
        copies_moved=7,
        shards=2,
        most_shards=8,
        plans=[done, going],
    )
    assert list(balance_lines(balance, 200.0)) == [
        "placement: epoch 3, moves by itself, pinned; copies of experts moved: 7; shards: 2 wanted, 8 at most",
        "balancer: looked 4 s ago: moved (heat of \\x1b[31mexpert 3)",
        "last move: epoch 3, done in 4.00 s: copies: 2 new, 1 dropped, 3.0 MiB to read; gain: 20.0% predicted, "
        "10.0% measured, 96 s ago",
        "moving: epoch 4, preparing, shards load: 1 of 2 have loaded; copies: 0 new, 0 dropped, 0 B to read; "
        "began 10 s ago",
    ]


def test_a_silent_balancer_is_told() -> None:
    balance = pb.Balance(last_run=100.0, interval=10.0)
    assert silence(balance, 130.0) is None
    assert silence(balance, 131.0) == "it looked 31 s ago, and is to look every 10 s"
    assert silence(pb.Balance(interval=10.0), 1e9) is None
    (warning,) = [line for line in balance_lines(balance, 300.0) if "warning" in line]
    assert warning == (
        "warning: the balancer is silent: it looked 3 min ago, and is to look every 10 s; serving goes on, "
        "nothing is moved"
    )


def test_a_balancer_that_has_not_looked_and_one_without_a_plan() -> None:
    assert list(balance_lines(pb.Balance(epoch=1, shards=2, most_shards=8), 5.0)) == [
        "placement: epoch 1, moves when told; copies of experts moved: 0; shards: 2 wanted, 8 at most",
        "balancer: no look yet",
    ]


def test_gains_are_only_measured_once_it_is_carried_out() -> None:
    assert gains(plan(predicted_gain=0.123)) == "gain: 12.3% predicted"
    assert gains(plan("done", predicted_gain=0.123)) == "gain: 12.3% predicted, not measured yet"
    assert gains(plan("done", predicted_gain=0.1, measured_gain=-0.02)) == "gain: 10.0% predicted, -2.0% measured"
    assert ended_line(plan("failed", began=2.0, ended=1.0)) == "epoch 4, failed after 0 us: no reason is known"


@given(st.floats(-1e9, 1e12))
def test_nothing_was_in_the_future(seconds: float) -> None:
    said = ago(seconds)
    assert said.endswith(" ago")
    assert not said.startswith("-")


def test_plain_messages() -> None:
    message = state(plan("done", bytes=1 << 40, predicted_gain=0.5))
    data = plain(message)
    assert data["balance"]["plans"][0]["bytes"] == 1 << 40
    assert (data["balance"]["plans"][0]["measured_gain"], data["shards"], data["model"]) == (None, [], "")
    assert plain(pb.ClusterState())["balance"] is None


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with saved_to(file) as save:
        assert not file.exists()
        save("one")
    with pytest.raises(RuntimeError), saved_to(file) as save:
        raise RuntimeError("the call failed")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("one", [file])
    with saved_to(None) as save:
        save("nowhere")
