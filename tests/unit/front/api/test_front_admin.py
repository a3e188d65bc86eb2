"""ClusterAdmin: what reaches the control plane, what comes back, how each refusal ends, and who may call."""

import asyncio
import json
import math
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router_service.client.client import Client
from router_service.front.api.admin_service import ClusterAdminService
from router_service.front.auth.authenticator import needed_role
from router_service.front.auth.tokens import Role, new_token
from router_service.protocol import cluster_pb2 as pb
from router_service.protocol.balance import BalanceRefusal, BalanceReport, PlanReport, RebalanceOutcome
from router_service.protocol.cluster_pb2_grpc import ClusterAdminStub, add_ClusterAdminServicer_to_server
from tests.unit.front.front_world import World
from tests.unit.front.operator import PLACEMENT, PLAN, FakeControlPlane, operated

ADMIN = pb.DESCRIPTOR.services_by_name["ClusterAdmin"]
CALLS = ("rebalance", "scale", "advise", "record")


async def called(client: Client, call: str, timeout: float | None = None) -> object:
    if call == "scale":
        return await client.scale(3, timeout=timeout)
    if call == "record":
        return await client.record_routing(30.0, timeout=timeout)
    return await (client.rebalance(timeout=timeout) if call == "rebalance" else client.advise(timeout=timeout))


async def refusal(client: Client, call: str, timeout: float | None = None) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await called(client, call, timeout)
    return caught.value.code(), str(caught.value.details())


async def test_rebalance_passes_what_is_asked_and_what_is_answered(world: World) -> None:
    control = FakeControlPlane()
    await operated(world, control)
    client = world.clients[0]
    reply = await client.rebalance()
    assert (reply.result, reply.reason, reply.placement) == ("moving", "shard 0 is the slowest", PLACEMENT)
    assert (reply.plan.epoch, reply.plan.state) == (4, "preparing")
    assert (reply.plan.copies_added, reply.plan.copies_dropped) == (12, 4)
    assert (reply.plan.bytes, reply.plan.began, reply.plan.predicted_gain) == (36 << 20, 5.0, 0.18)
    assert not reply.plan.HasField("measured_gain")
    await client.rebalance(placement="{}", pin=True)
    await client.rebalance(pin=False)
    await client.rebalance(dry_run=True)
    assert control.asked == [
        ("rebalance", False, "", None),
        ("rebalance", False, "{}", True),
        ("rebalance", False, "", False),
        ("rebalance", True, "", None),
    ]


async def test_a_placement_that_is_kept_has_no_plan(world: World) -> None:
    await operated(world, FakeControlPlane(rebalance=RebalanceOutcome("kept", "it gains 1%", None, PLACEMENT)))
    reply = await world.clients[0].rebalance()
    assert (reply.result, reply.reason, reply.placement) == ("kept", "it gains 1%", PLACEMENT)
    assert not reply.HasField("plan")


async def test_scale_and_advise(world: World) -> None:
    control = FakeControlPlane()
    await operated(world, control)
    reply = await world.clients[0].scale(3)
    assert (reply.before, reply.shards) == (2, 3)
    assert await world.clients[0].advise() == '{"copies": 0}'
    assert await world.clients[0].record_routing(30.0) == "{}"
    assert control.asked == [("scale", 3), ("advise",), ("record", 30.0)]


async def test_what_is_wrong_is_named_and_reaches_nobody(world: World) -> None:
    control = FakeControlPlane()
    await operated(world, control)
    for call, field in (
        (world.clients[0].rebalance(dry_run=True, pin=True), "pin: a dry run changes nothing"),
        (world.clients[0].rebalance(dry_run=True, pin=False), "pin: a dry run changes nothing"),
        (world.clients[0].scale(0), "shards: must be at least 1, is 0"),
        (world.clients[0].record_routing(0.0), "seconds: must be over 0, is 0"),
        (world.clients[0].record_routing(math.nan), "seconds: must be over 0, is nan"),
        (world.clients[0].record_routing(math.inf), "seconds: must be over 0, is inf"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(caught.value.details()).startswith(field)
    assert control.asked == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("invalid", grpc.StatusCode.INVALID_ARGUMENT),
        ("precondition", grpc.StatusCode.FAILED_PRECONDITION),
        ("unavailable", grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_each_refusal_has_its_status(world: World, call: str, kind: str, code: grpc.StatusCode) -> None:
    problem = BalanceRefusal(kind, "another move is on")  # type: ignore[arg-type]
    await operated(world, FakeControlPlane(**{call: problem}))
    assert await refusal(world.clients[0], call) == (code, "another move is on")


@pytest.mark.parametrize("call", CALLS)
async def test_a_fault_of_the_control_plane_is_internal(world: World, call: str) -> None:
    await operated(world, FakeControlPlane(**{call: TimeoutError("its own")}))
    code, problem = await refusal(world.clients[0], call)
    assert (code, problem) == (grpc.StatusCode.INTERNAL, "internal error: TimeoutError: its own")


@pytest.mark.parametrize("call", CALLS)
async def test_without_a_control_plane_it_is_said(world: World, call: str) -> None:
    await operated(world, None)
    code, problem = await refusal(world.clients[0], call)
    assert (code, "runs without a control plane" in problem) == (grpc.StatusCode.UNIMPLEMENTED, True)


@pytest.mark.parametrize("call", CALLS)
async def test_a_deadline_ends_the_call_here_too(world: World, call: str) -> None:
    control = FakeControlPlane.silent(call)
    await operated(world, control)
    code, _ = await refusal(world.clients[0], call, timeout=0.3)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(30):
        await control.cancelled.wait()


async def test_a_caller_that_leaves_ends_the_call(world: World) -> None:
    control = FakeControlPlane.silent("rebalance")
    await operated(world, control)
    call = asyncio.create_task(world.clients[0].rebalance())
    async with asyncio.timeout(30):
        await control.called.wait()
        call.cancel()
        await control.cancelled.wait()


async def test_a_silent_control_plane_is_not_waited_for_for_ever() -> None:
    control = FakeControlPlane.silent("advise")
    server = grpc.aio.server()
    add_ClusterAdminServicer_to_server(ClusterAdminService(control, seconds=0.05), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ClusterAdminStub(channel).Advise(pb.AdviseRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "has not answered within 0.05 s" in str(caught.value.details())
    await control.cancelled.wait()
    await server.stop(None)


async def test_a_move_is_never_asked_for_twice(world: World) -> None:
    """As it might have begun, other than what else is refused with UNAVAILABLE."""
    control = FakeControlPlane(rebalance=BalanceRefusal("unavailable", "gone"))
    await operated(world, control)
    async with Client(f"127.0.0.1:{world.server.grpc_port}", attempts=5) as client:
        code, _ = await refusal(client, "rebalance")
    assert (code, len(control.asked)) == (grpc.StatusCode.UNAVAILABLE, 1)


async def test_reflection_and_health_know_the_service(world: World) -> None:
    await operated(world, None)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    assert ADMIN.full_name in {service.name for service in answers[0].list_services_response.service}
    assert await world.clients[0].health(ADMIN.full_name)


def test_every_method_needs_an_admin() -> None:
    needed = {needed_role(f"/{ADMIN.full_name}/{method.name}") for method in ADMIN.methods}
    assert (needed, len(ADMIN.methods)) == ({Role.ADMIN}, 4)


@pytest.mark.parametrize("call", CALLS)
async def test_who_may_only_infer_is_refused(world: World, tmp_path: Path, call: str) -> None:
    control = world.admin = FakeControlPlane()
    tokens, lines = zip(*(new_token(name, role) for name, role in (("ann", Role.INFERENCE), ("root", Role.ADMIN))))
    (tmp_path / "tokens").write_text("\n".join(lines))
    await world.router()
    await world.front(tokens_file=str(tmp_path / "tokens"))
    await world.clients[0].wait_ready(10)
    target = f"127.0.0.1:{world.server.grpc_port}"
    async with (
        Client(target, token=tokens[0]) as ann,
        Client(target) as nobody,
        Client(target, token=tokens[1]) as root,
    ):
        assert (await refusal(ann, call))[0] is grpc.StatusCode.PERMISSION_DENIED
        assert (await refusal(nobody, call))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert control.asked == []
        await called(root, call)
    assert [asked[0] for asked in control.asked] == [call]


async def test_a_large_placement_arrives_whole(world: World) -> None:
    control = FakeControlPlane()
    await operated(world, control)
    large = json.dumps({"holders": [[[0, 1, 2]] * 256] * 58})
    await world.clients[0].rebalance(placement=large)
    assert control.asked == [("rebalance", False, large, None)]


async def test_get_cluster_has_what_the_balancer_does(world: World) -> None:
    await world.serve()
    assert not (await world.clients[0].cluster()).HasField("balance")
    done = PlanReport(epoch=3, state="done", predicted_gain=0.2, measured_gain=0.0)
    world.balance = BalanceReport(
        epoch=3,
        automatic=True,
        pinned=True,
        last_run=7.0,
        last_success=6.0,
        result="kept",
        reason="small",
        copies_moved=9,
        plans=[done, PLAN],
        shards=2,
        most_shards=4,
        interval=5.0,
    )
    balance = (await world.clients[0].cluster()).balance
    assert (balance.epoch, balance.automatic, balance.pinned) == (3, True, True)
    assert (balance.last_run, balance.last_success, balance.interval) == (7.0, 6.0, 5.0)
    assert (balance.result, balance.reason, balance.copies_moved) == ("kept", "small", 9)
    assert (balance.shards, balance.most_shards) == (2, 4)
    assert [(plan.epoch, plan.state, plan.HasField("measured_gain")) for plan in balance.plans] == [
        (3, "done", True),
        (4, "preparing", False),
    ]
