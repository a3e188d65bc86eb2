"""An asyncio client of the gRPC API.

    async with Client("127.0.0.1:50051") as client:
        await client.wait_ready(60)
        async for response in client.generate("Once upon a time", max_tokens=32):
            print(response.text, end="")

Every call raises `grpc.aio.AioRpcError` when the server refuses it or cannot be reached.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, Unpack

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_service.client.channel import Tls, token_metadata
from router_service.client.fields import ChatFields, RequestFields, request_of, set_input
from router_service.client.fronts import Fronts
from router_service.client.resuming import Resuming
from router_service.protocol import cluster_pb2, inference_pb2
from router_service.protocol.cluster_pb2_grpc import ClusterAdminStub, ClusterStub

READY_POLL_S = 0.1


class Client:
    """A connection to a Front, or to one of several.

    Create and use it on one event loop; close it with `close` or `async with`.
    """

    def __init__(
        self, target: str | Sequence[str], *, tls: Tls | None = None, token: str | None = None, attempts: int = 1
    ) -> None:
        """`target` is HOST:PORT; the first call opens the connection. Without `tls` a token is sent in plain text.

        Of several targets, Fronts of one cluster, one is called; where its connection cannot be had, `generate` takes
        the next one, and so do all calls after it.

        A call that is refused with UNAVAILABLE is sent again until it has been sent `attempts` times (at most 5).

        Raises:
            OSError, ValueError: a file of `tls` cannot be read, `token` is invalid, or `attempts` is out of bounds.
        """
        self._metadata = token_metadata(token)
        self._fronts = Fronts([target] if isinstance(target, str) else list(target), tls, attempts)

    async def generate(
        self,
        prompt: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        messages: Iterable[Mapping[str, Any]] | None = None,
        timeout: float | None = None,
        resume: bool = True,
        **fields: Unpack[RequestFields],
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Yield the answer to one of `prompt`, `tokens`, `messages` (OpenAI's form) as it comes; `timeout` in seconds.

        `fields` are those of the request, of its chat (`tools`, `tool_choice`, ...) and of its sampling. Leaving the
        iterator early (`aclose`) cancels the call.

        With `resume` the answer goes on where its connection is lost, if need be at another Front: nothing is returned
        twice or missing, and the tokens are those of an undisturbed answer. It is given up after about half a minute
        without a Front. A seed is drawn here then, if none is given. Several answers (`n`) do not go on, their call
        fails.

        Raises:
            ValueError: not exactly one input was given, or a field's value has a wrong form.
        """
        request = request_of(prompt, tokens, messages, fields)
        resuming = Resuming(self._fronts, self._metadata, request, resume=resume, timeout=timeout)
        async with aclosing(resuming.responses()) as responses:
            async for response in responses:
                yield response

    async def tokenize(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Mapping[str, Any]] | None = None,
        add_special_tokens: bool = True,
        allow_special_tokens: bool | None = None,
        **chat: Unpack[ChatFields],
    ) -> list[int]:
        """Return the token ids of a prompt or a conversation, those that `generate` would use."""
        request = inference_pb2.TokenizeRequest(
            add_special_tokens=add_special_tokens, allow_special_tokens=allow_special_tokens
        )
        set_input(request, prompt, None, messages, chat)
        return list((await self._fronts.inference.Tokenize(request, metadata=self._metadata)).ids)

    async def detokenize(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`."""
        request = inference_pb2.DetokenizeRequest(ids=ids, skip_special_tokens=skip_special_tokens)
        response: inference_pb2.DetokenizeResponse = await self._fronts.inference.Detokenize(
            request, metadata=self._metadata
        )
        return response.text

    async def model(self) -> inference_pb2.ModelInfo:
        """Describe the model."""
        info: inference_pb2.ModelInfo = await self._fronts.inference.GetModel(
            inference_pb2.GetModelRequest(), metadata=self._metadata
        )
        return info

    async def cluster(self, timeout: float | None = None) -> cluster_pb2.ClusterState:
        """Return the state of shards and routers."""
        state: cluster_pb2.ClusterState = await ClusterStub(self._fronts.channel).GetCluster(
            cluster_pb2.GetClusterRequest(), timeout=timeout, metadata=self._metadata
        )
        return state

    async def rebalance(
        self, *, dry_run: bool = False, placement: str = "", pin: bool | None = None, timeout: float | None = None
    ) -> cluster_pb2.RebalanceReply:
        """Move experts to a better placement, or with `dry_run` say what that would be. Needs the role admin.

        It returns when the move has begun; `cluster` follows it. Never sent twice, whatever `attempts` is: one that
        seems refused may have begun.

        Args:
            placement: a placement file's JSON to move to; empty lets the planner find one.
            pin: whether the balancer then leaves the placement alone, or may change it; None leaves that as it is.
        """
        request = cluster_pb2.RebalanceRequest(dry_run=dry_run, placement=placement, pin=pin)
        reply: cluster_pb2.RebalanceReply = await self._admin.Rebalance(
            request, timeout=timeout, metadata=self._metadata
        )
        return reply

    async def scale(self, shards: int, timeout: float | None = None) -> cluster_pb2.ScaleReply:
        """Set the number of shards; `cluster` shows them come and go. Needs the role admin. Never sent twice.

        Raises:
            ValueError: it is negative, or has more than 32 bits.
        """
        reply: cluster_pb2.ScaleReply = await self._admin.Scale(
            cluster_pb2.ScaleRequest(shards=shards), timeout=timeout, metadata=self._metadata
        )
        return reply

    async def advise(self, timeout: float | None = None) -> str:
        """Return the JSON of an advice: whether copies of experts would pay. Needs the role admin."""
        reply: cluster_pb2.AdviseReply = await self._admin.Advise(
            cluster_pb2.AdviseRequest(), timeout=timeout, metadata=self._metadata
        )
        return reply.advice

    async def record_routing(self, seconds: float, timeout: float | None = None) -> str:
        """Return the JSON of a recording: what was routed in so many seconds before now, as far as the balancer keeps
        it. Needs the role admin.
        """
        reply: cluster_pb2.RecordRoutingReply = await self._admin.RecordRouting(
            cluster_pb2.RecordRoutingRequest(seconds=seconds), timeout=timeout, metadata=self._metadata
        )
        return reply.recording

    async def health(self, service: str = "", timeout: float | None = None) -> bool:
        """Return whether the server's health is SERVING."""
        request = health_pb2.HealthCheckRequest(service=service)
        response = await health_pb2_grpc.HealthStub(self._fronts.channel).Check(request, timeout=timeout)
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def wait_ready(self, timeout: float) -> None:
        """Return once the server's health is SERVING.

        Raises:
            TimeoutError: it is not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while not await self._is_ready(timeout):
                await asyncio.sleep(READY_POLL_S)

    async def close(self) -> None:
        """Cancel open calls and close the connections."""
        await self._fronts.close()

    @property
    def _admin(self) -> ClusterAdminStub:
        return ClusterAdminStub(self._fronts.channel)

    async def _is_ready(self, timeout: float) -> bool:
        channel = self._fronts.channel
        try:
            return await self.health(timeout=timeout)
        except grpc.aio.AioRpcError:
            self._fronts.move_on(channel)
            return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
