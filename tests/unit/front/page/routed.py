"""A router's answers that say which experts each position chose."""

from collections.abc import Iterator

import msgspec

from router_service.protocol.messages import LayerRouting, StreamOutput, Submit
from tests.unit.front.front_fakes import echo


def routed(submit: Submit) -> Iterator[StreamOutput]:
    """As `echo`, with one layer's routing for each position."""
    for number, output in enumerate(echo(submit)):
        positions = len(submit.prompt) if number == 0 else 1
        layer = LayerRouting(
            1, [3, 5], [0.75, 0.25], [0, 1], [(3, 0.5), (7, 0.3), (5, 0.2)] if submit.return_scores else []
        )
        yield msgspec.structs.replace(output, routing=[[layer]] * positions)
