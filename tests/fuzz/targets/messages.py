"""Messages between a Front and a router."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from router_service.front.api.answers.routing_responses import routing_of
from router_service.protocol.messages import (
    Activity,
    Cancel,
    FailoverReport,
    Logprob,
    MetricFamily,
    RouterHello,
    RouterReport,
    Sample,
    SamplingParams,
    ShardActivity,
    ShardReport,
    StepOutputs,
    StepSummary,
    StepTimes,
    StreamFailure,
    StreamOutput,
    Submit,
    Timings,
    TokenLogprobs,
    Watch,
    decode_to_front,
    decode_to_router,
    encode,
)
from router_service.protocol.routing_part import RoutingPart, arrays_of, from_position
from tests.fuzz.nested import MSGPACK
from tests.fuzz.target import Target


def reader(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """What is decoded is encoded and decoded again as the same."""

    def read(data: bytes) -> Any:
        message = decode(data)
        written = encode(message)
        assert encode(decode(written)) == written
        return message

    return read


def read_output(data: bytes) -> None:
    """As the Front reads it: with each routing part's arrays, cut at a position, as a response has them."""
    message = reader(decode_to_front)(data)
    if isinstance(message, StepOutputs):
        for output in message.outputs:
            if output.routing is not None:
                _read_routing(output.routing)


def _read_routing(part: RoutingPart) -> None:
    arrays = arrays_of(part)
    assert arrays.weights_PLK.shape[:2] == (part.positions, len(part.layers))
    # As many tokens as positions: a part that says of nothing that it has a billion is not to be made into them.
    if part.positions <= 64 and arrays.experts_PLK.shape == arrays.weights_PLK.shape == arrays.shards_PLK.shape:
        list(routing_of(part))
    for position in (0, part.first + 1, part.first + part.positions):
        from_position(part, position)


def _routing() -> RoutingPart:
    ids, values = np.ones((2, 2, 2), np.uint16).tobytes(), np.ones((2, 2, 2), np.float32).tobytes()
    return RoutingPart(4, 2, [0, 1], ids, values, ids, ids, values)


def _outputs() -> StepOutputs:
    best = TokenLogprobs(Logprob(3, -0.5), [Logprob(3, -0.5), Logprob(4, -1.5)])
    whole = StreamOutput(
        1, [3, 4], [best, best], _routing(), "stop", None, Timings(0.1, 0.2, 0.3, 4), StepSummary(1, 0.5, 0.1, 0, 8, 4)
    )
    return StepOutputs([whole, StreamOutput(2, [], failure=StreamFailure("INTERNAL", "why"))])


def _report() -> RouterReport:
    shard = ShardReport(0, "a", "connected", "n", 1, 8, 100, 1.0, 2.0, {"compute": 0.1}, "", "live")
    family = MetricFamily("expertmesh_x", "text", "gauge", [Sample("expertmesh_x", {"model": "m"}, 1.0)])
    return RouterReport(
        "r0", 1, 2, 3, 4, 5.0, 0.5, 1.0, 1.0, [shard], [family], failovers=[FailoverReport(1.0, 0, "eof", 0.1)]
    )


def _activity() -> Activity:
    shards, steps = [ShardActivity(0, 1, 2, {"compute": 0.1})], [StepTimes("decode", 1, 0.1, [0.1])]
    return Activity("r0", 0.5, [0], [[0], [1]], bytes(8), shards, ["wait"], [0.1], 1, steps)


def _submits() -> tuple[bytes, ...]:
    params = SamplingParams(8, 0.5, stop_token_ids=(1, 2), logit_bias={3: 1.0}, logprobs=2)
    full = Submit(1, "id", [1, 2, 3], params, [4], 1.5, return_routing=True, cache_salt=b"salt", caller="ann")
    return tuple(map(encode, (full, Submit(2, "", [1], SamplingParams(1)), Cancel(1), Watch(2.0))))


TO_FRONT = tuple(map(encode, (RouterHello("r0", 100, 99), _outputs(), _report(), _activity())))
# A Front and a router end the connection at MsgspecError and at ValueError.
TARGETS = (
    Target("to_router", _submits(), reader(decode_to_router), (msgspec.DecodeError,), 4, (MSGPACK,)),
    Target("to_front", TO_FRONT, read_output, (msgspec.DecodeError, ValueError), 4, (MSGPACK,)),
)
