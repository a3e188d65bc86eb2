"""A router's answers that say which experts each position chose."""

from collections.abc import Iterator

import msgspec

from router_service.protocol.messages import StreamOutput, Submit
from tests.support.routed import Layer, part_of
from tests.unit.front.front_fakes import echo


def routed(submit: Submit) -> Iterator[StreamOutput]:
    """As `echo`, with one layer's routing for each position."""
    first = 0
    for output in echo(submit):
        positions = 1 if first else len(submit.prompt)
        scores = [(3, 0.5), (7, 0.3), (5, 0.2)] if submit.return_scores else []
        layer = Layer(1, [3, 5], [0.75, 0.25], [0, 1], scores)
        yield msgspec.structs.replace(output, routing=part_of(first, [[layer]] * positions))
        first += positions
