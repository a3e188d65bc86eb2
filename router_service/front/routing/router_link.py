"""The Front's connection to one router: requests go out, outputs of steps come in."""

import asyncio
import itertools
import logging

import msgspec

from experts.transport.address import Endpoint
from experts.transport.credentials import Credentials
from experts.transport.frame import FrameError, Kind
from router_service.front.config import FrontConfig
from router_service.front.errors import exhausted
from router_service.front.routing.activity_window import ActivityWindow
from router_service.front.routing.backlog import Backlog
from router_service.front.routing.frame_stream import Wire, connect
from router_service.front.routing.stream_queue import Arrival, LinkLostError, StreamQueue
from router_service.protocol.messages import (
    MAX_MESSAGE_BYTES,
    Activity,
    Cancel,
    RouterHello,
    RouterReport,
    StepOutputs,
    Submit,
    ToFront,
    ToRouter,
    Watch,
    decode_to_front,
    encode,
)

logger = logging.getLogger(__name__)


class RouterLink:
    """An open connection. `run` reads it until it ends; after `close` every stream fails with LinkLostError."""

    def __init__(self, endpoint: Endpoint, wire: Wire, hello: RouterHello, max_buffered_tokens: int) -> None:
        self.endpoint = endpoint
        self.hello = hello
        self.report: RouterReport | None = None
        self.window = ActivityWindow()
        self.backlog = Backlog()
        self.lost = False
        self._wire = wire
        self._max_buffered_tokens = max_buffered_tokens
        self._queues: dict[int, StreamQueue] = {}
        self._numbers = itertools.count(1)

    @property
    def outstanding(self) -> int:
        """Streams open on this link."""
        return len(self._queues)

    @property
    def ready(self) -> bool:
        """Whether the router can ask for all experts; assumed until its first report."""
        return self.report is None or self.report.ready

    @property
    def leaving(self) -> bool:
        """Whether the router will end when its streams have."""
        return self.report is not None and self.report.leaving

    async def submit(self, submit: Submit, cached: int = 0) -> StreamQueue:
        """Send a request under a new stream number, and return the queue of its outputs.

        The router need not compute its first `cached` tokens, as far as we know; this only counts for the backlog.

        Raises:
            LinkLostError: the link has ended.
            RequestError: RESOURCE_EXHAUSTED if the request is larger than a message may be.
        """
        queue = StreamQueue(next(self._numbers), self._max_buffered_tokens)
        self._queues[queue.stream] = queue
        self.backlog.begin(queue.stream, max(0, len(submit.prompt) + len(submit.generated) - cached))
        try:
            self._send(msgspec.structs.replace(submit, stream=queue.stream))
            # A long prompt on a slow connection must hold up its own request, not fill the memory.
            await self._wire.drain()
        except BaseException as error:
            self.release(queue)
            if isinstance(error, OSError):
                raise LinkLostError(str(error)) from error
            raise
        return queue

    def release(self, queue: StreamQueue) -> None:
        """Remove a stream, and cancel it on the router if it has not ended."""
        self.backlog.end(queue.stream)
        if self._queues.pop(queue.stream, None) is not None and not queue.ended and not self.lost:
            self._send(Cancel(queue.stream))

    def watch(self, seconds: float) -> None:
        """Ask the router to send its activity to `window` for `seconds`; 0 ends it.

        Raises:
            LinkLostError: the link has ended.
        """
        self._send(Watch(seconds))

    async def run(self, silence_s: float) -> None:
        """Read until the peer closes the connection, sends an invalid message, or sends nothing for `silence_s`."""
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    payload = await self._wire.receive(Kind.MESSAGE)
                self._handle(decode_to_front(payload))
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            logger.warning("link to router %s ended: %s", self.hello.router, describe(error))

    async def close(self) -> None:
        """Fail all streams and close the connection."""
        # Before the streams fail: a stream that resubmits must not choose this link or send on it.
        self.lost = True
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.fail(LinkLostError(f"the link to router {self.hello.router} has ended"))
        await self._wire.close()

    def _send(self, message: ToRouter) -> None:
        if self.lost:
            raise LinkLostError(f"the link to router {self.hello.router} has ended")
        payload = encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise exhausted(
                f"the request takes {len(payload)} bytes, a message to a router at most {MAX_MESSAGE_BYTES}; "
                "send fewer tokens"
            )
        self._wire.send(Kind.MESSAGE, payload)

    def _handle(self, message: ToFront) -> None:
        if isinstance(message, StepOutputs):
            self._deliver(message)
        elif isinstance(message, RouterReport):
            self.report = message
        elif isinstance(message, Activity):
            self.window.add(message, asyncio.get_running_loop().time())
        else:
            raise FrameError("hello", "a second hello")

    def _deliver(self, step: StepOutputs) -> None:
        now = asyncio.get_running_loop().time()
        for output in step.outputs:
            # A cancelled stream may still have outputs in flight.
            if (queue := self._queues.get(output.stream)) is not None:
                queue.put(Arrival(now, output))
                # Routing of a prompt comes while the prompt is still read.
                if output.token_ids:
                    self.backlog.computed(output.stream)
                # Releasing an overflowed stream also cancels it on the router, which would compute for nobody.
                if queue.ended or queue.overflowed:
                    self.release(queue)


async def open_link(endpoint: Endpoint, node: str, credentials: Credentials, config: FrontConfig) -> RouterLink:
    """Connect to a router and receive its hello.

    Raises:
        OSError, EOFError: the router is not there, does not know the secret, or belongs to another deployment.
        msgspec.MsgspecError: its first message cannot be decoded.
    """
    async with asyncio.timeout(config.connect_timeout_seconds):
        wire = await connect(endpoint, node, credentials, config.checksum)
        try:
            hello = decode_to_front(await wire.receive(Kind.MESSAGE))
            if not isinstance(hello, RouterHello):
                raise FrameError("hello", f"{type(hello).__name__} before the hello")
        except BaseException:
            await wire.close()
            raise
    return RouterLink(endpoint, wire, hello, config.max_buffered_tokens)


def describe(error: BaseException) -> str:
    """Return in one line why a connection ended."""
    if isinstance(error, TimeoutError):
        return "it was silent for too long"
    if isinstance(error, EOFError):
        return "the peer closed it"
    return str(error) or type(error).__name__
