"""A Front with its routers and clients, over real sockets."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from experts.transport.address import Endpoint
from router_service.client.client import Client
from router_service.front.api.admin_service import AdminActions
from router_service.front.config import FrontConfig
from router_service.front.parsing.model_parsers import WHOLE
from router_service.front.parsing.parsed import AnswerParsers
from router_service.front.routing.silence import silence_ticks
from router_service.front.server import FrontServer
from router_service.front.telemetry.metrics_server import Targets
from router_service.front.telemetry.tracing_config import TracingConfig
from router_service.protocol.balance import BalanceReport
from router_service.text.text_model import TextModel
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, FakeRouter, card, report, until


class World:
    """A Front, its routers and a client; more of each may be added. All are closed when the test ends."""

    def __init__(self, text: TextModel) -> None:
        self.text = text
        # Closing a metrics page takes half a second: only the tests that read it have one.
        self.metrics_port: int | None = None
        self.tracing: TracingConfig | None = None
        self.expected_routers = 1
        self.context = 4096
        self.endpoints: list[Endpoint] = []
        # What asking for the routers ends in, None for their list; it never ends while the directory is `silent`.
        self.no_directory: BaseException | None = None
        self.silent = False
        self.asked = 0
        self.targets: Targets | None = None
        self.balance: BalanceReport | None = None
        self.admin: AdminActions | None = None
        self.parsers: AnswerParsers = WHOLE
        self.clock: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.routers: list[FakeRouter] = []
        self.fronts: list[FrontServer] = []
        self.clients: list[Client] = []

    async def router(self, **options: object) -> FakeRouter:
        router = await FakeRouter(**options).start()  # type: ignore[arg-type]
        self.routers.append(router)
        self.endpoints.append(router.endpoint)
        return router

    async def front(self, text: TextModel | None = None, takes_over: bool = False, **options: object) -> Client:
        patience = {"router_wait_seconds": WAIT_S, "connect_timeout_seconds": WAIT_S, "link_silence_seconds": WAIT_S}
        few = {"poll_seconds": 0.02, "metrics_port": self.metrics_port, "http_port": None}
        config = FrontConfig(**(patience | few | options))  # type: ignore[arg-type]
        self.server = FrontServer(
            config=config,
            text=text or self.text,
            card=card(self.context),
            endpoints=self.list_endpoints,
            credentials=CREDENTIALS,
            node="node",
            directory=self.directory,
            balance=lambda: self.balance,
            admin=self.admin,
            targets=self.targets,
            tracing=self.tracing,
            routers=self.expected_routers,
            parsers=self.parsers,
            clock=lambda: self.clock(),
            sleep=lambda seconds: self.sleep(seconds),
        )
        await self.server.start(takes_over)
        self.fronts.append(self.server)
        self.clients.append(Client(f"127.0.0.1:{self.server.grpc_port}"))
        return self.clients[-1]

    async def serve(self, **options: object) -> tuple[FakeRouter, Client]:
        router = await self.router(**options)
        client = await self.front()
        await client.wait_ready(10)
        return router, client

    async def list_endpoints(self) -> list[Endpoint]:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.no_directory is not None:
            raise self.no_directory
        return list(self.endpoints)

    async def asked_again(self, times: int = 2) -> None:
        """The routers have been asked for again, so that all that followed the call before is done."""
        aim = self.asked + times
        await until(lambda: self.asked >= aim)

    async def quiet(self, *, but: Sequence[FakeRouter] = (), ticks: int = silence_ticks(WAIT_S)) -> None:
        """Let so many ticks pass in which only some routers say something: the others are silent now."""
        pool = self.server.router_pool
        for _ in range(ticks):
            await pool.tick()
        names = {router.name for router in but}
        heard = {link: link.report for link in pool.links if link.hello.router in names}
        for router in but:
            router.say(report(router.name))
        await until(lambda: all(link.report is not last for link, last in heard.items()))
        await pool.tick()

    def directory(self) -> list:  # type: ignore[type-arg]
        return []

    async def close(self) -> None:
        closers: list[Callable[[], Awaitable[None]]] = [each.close for each in self.clients]
        closers += [each.stop for each in self.fronts]
        closers += [each.stop for each in self.routers]
        for close in closers:
            await close()
