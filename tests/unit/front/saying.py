"""A router's answers, written by a test."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from router_service.protocol.messages import StreamFailure, StreamOutput, Submit
from router_service.text.tokenizer import Tokenizer
from tests.support.routed import Layer, part_of

FAILS = StreamFailure("UNAVAILABLE", "shard 1 is gone")
LAYER = Layer(1, [3, 5], [0.75, 0.25], [0, 1], [(3, 0.5), (7, 0.3), (5, 0.2)])


def saying(tokenizer: Tokenizer, answers: Sequence[str]) -> Callable[[Submit], Iterator[StreamOutput]]:
    """The script of a router that gives these answers, one after the other, a token a step; "" fails.

    `answers` may grow meanwhile.
    """
    said = iter(range(1 << 30))

    def script(submit: Submit) -> Iterator[StreamOutput]:
        ids = tokenizer.encode(answers[next(said)], False)
        if not ids:
            yield StreamOutput(submit.stream, [], failure=FAILS)
        for position, id in enumerate(ids):
            output = StreamOutput(submit.stream, [id], finish="stop" if position + 1 == len(ids) else None)
            first, positions = (len(submit.prompt) + position - 1, 1) if position else (0, len(submit.prompt))
            routing = part_of(first, [[LAYER]] * positions) if submit.return_routing else None
            yield msgspec.structs.replace(output, routing=routing)

    return script
