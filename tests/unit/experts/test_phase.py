"""Phases and stages are named in one place, in the order in which their numbers are kept."""

import json

import msgspec
import pytest

from experts.phase import PHASES, Phase
from experts.phases import CallPhases
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
