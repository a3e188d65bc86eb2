"""Phases and stages are named in one place, in the order in which their numbers are kept."""

import json

import msgspec
import pytest
import torch

from experts.division.base import Sizes
from experts.timing.phase import PHASES, Phase
from experts.timing.phases import CallPhases, LayerTrip, measured
from experts.timing.trips import TripCalls
from experts.transport.base import Reply, Sent
from experts.transport.call import Partial, Stamps
from router_service.engine.step.stage import STAGES
from router_service.protocol import cluster_pb2 as pb

CALL = CallPhases(3, (10, 20, 30, 40, 50, 60), 7, 9, 700, 800, 10**9)


@pytest.mark.parametrize(("phase", "nanoseconds"), list(zip(PHASES, CALL.phases_ns, strict=True)))
def test_a_phase_finds_its_number(phase: Phase, nanoseconds: int) -> None:
    assert CALL.ns(phase) == nanoseconds


def test_the_api_has_a_field_for_each_phase() -> None:
    assert tuple(pb.PhaseSeconds.DESCRIPTOR.fields_by_name) == PHASES


@pytest.mark.parametrize("names", [PHASES, STAGES])
def test_names_travel_as_plain_text(names: tuple[str, ...]) -> None:
    plain = {str(name): 1.0 for name in names}
    assert json.loads(json.dumps(dict.fromkeys(names, 1.0))) == plain
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(dict.fromkeys(names, 1.0))) == plain
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(names)) == list(plain)


def test_a_calls_phases_add_up_whatever_it_was_computed_with() -> None:
    """Compute is the whole computation's; the part that belongs to other routers' calls is told beside it."""
    reply = Reply(2, 1, Partial(torch.zeros(1, 3), Stamps(130, 145, 245), shared_ns=75), 260, 99)
    packed = measured(100, Sent(2, 1, 1, 110, 77), reply, 5, Sizes(1, 1, 1))
    trip = LayerTrip(layer=0, packed=packed, pack_ns=10, exposed_ns=0, reduce_ns=5, waiting_ns=0)
    (call,) = trip.calls
    assert call.phases_ns == (10, 20, 15, 100, 15, 5)
    assert (sum(call.phases_ns), call.shared_ns) == (260 - 100 + 5, 75)
    assert TripCalls([trip]).own_compute_N.tolist() == [25]
    assert call.packed() == packed
