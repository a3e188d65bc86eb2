"""The Front's connection to one router: requests go out, outputs of steps come in."""

import asyncio
import itertools
import logging

import msgspec

from experts.transport.address import Endpoint
from experts.transport.frame import FrameError, Kind
from router_service.front.errors import exhausted
from router_service.front.routing.activity_window import ActivityWindow
from router_service.front.routing.backlog import Backlog
from router_service.front.routing.frame_stream import Wire
from router_service.front.routing.judged_report import judged
from router_service.front.routing.silence import Silence
from router_service.front.routing.stream_queue import (
    Arrival,
    LinkLostError,
    LinkSilentError,
    NoRouterError,
    StreamQueue,
)
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

    def __init__(
        self, endpoint: Endpoint, wire: Wire, hello: RouterHello, max_buffered_tokens: int, silence: Silence
    ) -> None:
        self.endpoint = endpoint
        self.hello = hello
        self.window = ActivityWindow()
        self.backlog = Backlog()
        self.lost = False
        self._wire = wire
        self._max_buffered_tokens = max_buffered_tokens
        self._silence = silence
        self._report: RouterReport | None = None
        self._queues: dict[int, StreamQueue] = {}
        # Requests that are being sent, as long as the router does not read them.
        self._sending: dict[int, asyncio.Timeout] = {}
        self._numbers = itertools.count(1)

    @property
    def outstanding(self) -> int:
        """Streams open on this link."""
        return len(self._queues)

    @property
    def ready(self) -> bool:
        """Whether the router was heard lately and can ask for all experts; these are assumed until its first report.

        What health, GetCluster, the series `router_ready` and the choice of a router mean by it.
        """
        return not self.silent and (self._report is None or self._report.ready)

    @property
    def silent(self) -> bool:
        """Whether the router has sent nothing for `front.link_silence_seconds`."""
        return self._silence.silent

    @property
    def hesitant(self) -> bool:
        """Whether the router has sent nothing for half as long."""
        return self._silence.hesitant

    @property
    def given_up(self) -> bool:
        """Whether the router has been silent for so long that nobody waits for it."""
        return self._silence.over

    @property
    def leaving(self) -> bool:
        """Whether the router will end when its streams have."""
        return self._report is not None and self._report.leaving

    @property
    def report(self) -> RouterReport | None:
        """The latest report, None before the first; its `ready` is this link's."""
        return None if self._report is None else judged(self._report, self.ready)

    async def submit(self, submit: Submit, cached: int = 0, sharers: int = 1) -> StreamQueue:
        """Send a request under a new stream number, and return the queue of its outputs.

        The router need not compute its first `cached` tokens, as far as we know; this only counts for the backlog.
        `sharers` streams have one reader, and together as much room in their queues as another stream has.

        Raises:
            LinkLostError: the link has ended, or is silent.
            NoRouterError: it was silent for too long.
            RequestError: RESOURCE_EXHAUSTED if the request is larger than a message may be.
        """
        queue = StreamQueue(next(self._numbers), -(-self._max_buffered_tokens // sharers))
        self._queues[queue.stream] = queue
        self.backlog.begin(queue.stream, max(0, len(submit.prompt) + len(submit.generated) - cached))
        try:
            self._send(msgspec.structs.replace(submit, stream=queue.stream))
            await self._sent(queue)
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

    def tick(self) -> None:
        """Judge how long the router has been silent; called at even intervals."""
        self._silence.tick(self._wire.received)

    def hand_over(self) -> None:
        """Fail all streams so that they go on at another router; the link stays, and may be heard again."""
        self._fail_all(LinkSilentError(f"router {self.hello.router} is silent"))

    def give_up(self) -> None:
        """Fail all streams for good, and break the connection."""
        self._fail_all(NoRouterError(f"router {self.hello.router} is silent, and there is no other"))
        self._wire.abort()

    async def run(self) -> None:
        """Read until the peer closes the connection or sends an invalid message."""
        try:
            while True:
                self._handle(decode_to_front(await self._wire.receive(Kind.MESSAGE)))
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            logger.warning("link to router %s ended: %s", self.hello.router, describe(error))

    async def close(self) -> None:
        """Fail all streams and close the connection."""
        # Before the streams fail: a stream that resubmits must not choose this link or send on it.
        self.lost = True
        self._fail_all(LinkLostError(f"the link to router {self.hello.router} has ended"))
        self._queues = {}
        await self._wire.close()

    async def _sent(self, queue: StreamQueue) -> None:
        """Wait until most of a request is sent: a long prompt must hold up its own request, not fill the memory."""
        try:
            # Without a limit until the stream is failed: a router that has stopped does not read either.
            async with asyncio.timeout(None) as scope:
                self._sending[queue.stream] = scope
                await self._wire.drain()
        except TimeoutError as error:
            raise queue.fault or error from error
        finally:
            del self._sending[queue.stream]

    def _fail_all(self, fault: Exception) -> None:
        for queue in self._queues.values():
            if queue.fault is not None:  # and its scope may be on its way out
                continue
            queue.fail(fault)
            if (scope := self._sending.get(queue.stream)) is not None:
                scope.reschedule(0)

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
            self._report = message
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


def describe(error: BaseException) -> str:
    """Return in one line why a connection ended."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, EOFError):
        return "the peer closed it"
    return str(error) or type(error).__name__
