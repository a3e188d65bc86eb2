"""The Front against the router's own half of the link."""

import threading
from collections.abc import AsyncIterator

import pytest

from router_service.engine.request import Event
from router_service.protocol.messages import Cancel, Logprob, RouterHello, Submit, TokenLogprobs, ToRouter
from router_service.router.front_connections import FrontConnections
from tests.unit.front.calls import check_one_end, collect, ids_of
from tests.unit.front.front_fakes import CREDENTIALS, until
from tests.unit.front.front_world import World


class Echo:
    """A router without an engine: half of a request's tokens at once, the others only if `whole`."""

    def __init__(self, node: str, checksum: bool) -> None:
        self.cancels: list[Cancel] = []
        self.disconnected = threading.Event()
        self.whole = True
        self.scores: list[list[TokenLogprobs]] = []
        self.connections = FrontConnections(
            hello=RouterHello("r0", 4096, 4095),
            receive=self.receive,
            disconnected=self._disconnected,
            connected=lambda: None,
            credentials=CREDENTIALS,
            host="127.0.0.1",
            node=node,
            index=0,
            checksum=checksum,
        )

    def receive(self, front: int, message: ToRouter) -> None:
        if isinstance(message, Submit):
            most = message.sampling.max_tokens
            scores = [Event(0, front, message.stream, None, prompt_logprobs=part) for part in self.scores]
            for position in range(most if self.whole else most // 2):
                finish = "length" if position + 1 == most else None
                token = message.prompt[position % len(message.prompt)]
                self.connections.publish([*scores, Event(0, front, message.stream, token, finish=finish)])
                scores = []
        else:
            self.cancels.append(message)

    def _disconnected(self, _: int) -> None:
        self.disconnected.set()


@pytest.fixture(params=[("node", False), ("another", True)], ids=["unix", "tcp with checksums"])
async def router(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Echo]:
    node, checksum = request.param
    router = Echo(node, checksum)
    world.endpoints.append(router.connections.endpoint)
    yield router
    router.connections.close()


async def test_streams_cross_the_seam(world: World, router: Echo) -> None:
    client = await world.front(checksum=True)
    await client.wait_ready(10)
    responses = await collect(client, tokens=[5, 6, 7], max_tokens=10)
    check_one_end(responses)
    assert ids_of(responses) == [5, 6, 7, 5, 6, 7, 5, 6, 7, 5]
    router.whole = False
    stream = client.generate(tokens=[5, 6, 7], max_tokens=10)
    await anext(stream)
    await stream.aclose()
    await until(lambda: len(router.cancels) == 1)
    await world.server.stop()
    await until(router.disconnected.is_set)


async def test_scores_of_a_prompt_cross_the_seam(world: World, router: Echo) -> None:
    """They come before the token that follows them, once and in order."""
    client = await world.front(checksum=True)
    await client.wait_ready(10)
    router.scores = [[TokenLogprobs(Logprob(id, -0.5), [])] for id in (5, 6, 7)]
    responses = await collect(client, tokens=[5, 6, 7], max_tokens=2, prompt_logprobs=0)
    check_one_end(responses)
    entries = [entry for response in responses for entry in response.prompt_logprobs]
    assert [(entry.token_id, entry.logprob) for entry in entries] == [(5, -0.5), (6, -0.5), (7, -0.5)]
    assert ids_of(responses) == [5, 6]
