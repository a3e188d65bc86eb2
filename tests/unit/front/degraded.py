"""A router's answers of which some tokens are degraded."""

from collections.abc import Callable, Iterator

import msgspec

from router_service.protocol.messages import StreamOutput, Submit
from tests.unit.front.front_fakes import echo

Script = Callable[[Submit], Iterator[StreamOutput]]


def degraded_if(degraded: Callable[[int], bool]) -> Script:
    """As `echo`; `degraded` says of a token's number in the answer whether it is marked."""

    def script(submit: Submit) -> Iterator[StreamOutput]:
        for number, output in enumerate(echo(submit), start=len(submit.generated)):
            yield msgspec.structs.replace(output, degraded=[0] if degraded(number) else [])

    return script


def degraded_from(first: int) -> Script:
    """All tokens from number `first` on are marked."""
    return degraded_if(lambda number: number >= first)
