"""An asyncio client of the gRPC API.

    async with Client("127.0.0.1:50051") as client:
        await client.wait_ready(60)
        async for response in client.generate("Once upon a time", max_tokens=32):
            print(response.text, end="")

Every call raises `grpc.aio.AioRpcError` when the server refuses it or cannot be reached.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_service.client.channel import Tls, token_metadata
from router_service.client.fronts import Fronts
from router_service.client.resuming import Resuming
from router_service.protocol import cluster_pb2, inference_pb2
from router_service.protocol.chat_messages import chat_of
from router_service.protocol.cluster_pb2_grpc import ClusterAdminStub, ClusterStub

READY_POLL_S = 0.1
FALLBACKS = {
    "": inference_pb2.FALLBACK_UNSPECIFIED,
    "wait": inference_pb2.WAIT,
    "drop": inference_pb2.DROP,
    "next_best": inference_pb2.NEXT_BEST,
    "fail": inference_pb2.FAIL,
}


class SamplingFields(TypedDict, total=False):
    """The fields of `Sampling`; inference.proto has their bounds and defaults."""

    max_tokens: int
    temperature: float
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    top_k: int
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    min_tokens: int
    logit_bias: Mapping[int, float]
    prompt_logprobs: int


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
        tools: Iterable[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        request_id: str = "",
        return_routing: bool = False,
        return_scores: bool = False,
        priority: int = 0,
        cache_salt: str = "",
        fallback: str = "",
        timeout: float | None = None,
        resume: bool = True,
        **sampling: Unpack[SamplingFields],
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Yield the answer to one of `prompt`, `tokens`, `messages` (OpenAI's form) as it comes; `timeout` in seconds.

        `tools` (OpenAI's form) and `template_kwargs`, variables of the chat template, are for `messages`.

        `fallback` is wait, drop, next_best or fail, else the server's default. Leaving the iterator early (`aclose`)
        cancels the call.

        With `resume` the answer goes on where its connection is lost, if need be at another Front: nothing is returned
        twice or missing, and the tokens are those of an undisturbed answer. It is given up after about half a minute
        without a Front. A seed is drawn here then, if none is given.

        Raises:
            ValueError: not exactly one input was given, or another fallback.
        """
        request = inference_pb2.GenerateRequest(
            request_id=request_id,
            sampling=inference_pb2.Sampling(**sampling),
            return_routing=return_routing,
            return_scores=return_scores,
            priority=priority,
            cache_salt=cache_salt,
            fallback=fallback_named(fallback),
        )
        set_input(request, prompt, tokens, messages)
        if messages is not None:
            set_chat_options(request.chat, tools, template_kwargs)
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
    ) -> list[int]:
        """Return the token ids of a prompt or a conversation."""
        request = inference_pb2.TokenizeRequest(add_special_tokens=add_special_tokens)
        set_input(request, prompt, None, messages)
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


def fallback_named(name: str) -> inference_pb2.Fallback:
    """Return the policy of this name, that of the server for "".

    Raises:
        ValueError: there is no such policy.
    """
    if name not in FALLBACKS:
        raise ValueError(f"fallback must be one of {', '.join(filter(None, FALLBACKS))}, or empty, not {name!r}")
    return FALLBACKS[name]


def set_input(
    request: inference_pb2.GenerateRequest | inference_pb2.TokenizeRequest,
    prompt: str | None,
    tokens: Iterable[int] | None,
    messages: Iterable[Mapping[str, Any]] | None,
) -> None:
    """Set the request's input.

    Raises:
        ValueError: none or several are given.
    """
    if sum(value is not None for value in (prompt, tokens, messages)) != 1:
        raise ValueError("give exactly one of prompt, tokens, messages")
    if prompt is not None:
        request.prompt = prompt
    elif messages is not None:
        request.chat.CopyFrom(chat_of(messages))
    elif isinstance(request, inference_pb2.GenerateRequest):
        request.tokens.CopyFrom(inference_pb2.TokenIds(ids=tokens))


def set_chat_options(
    chat: inference_pb2.Chat, tools: Iterable[Mapping[str, Any]], template_kwargs: Mapping[str, Any] | None
) -> None:
    """Set what a chat has beside its messages."""
    chat.tools.extend(json.dumps(tool, ensure_ascii=False) for tool in tools)
    if template_kwargs:
        chat.template_kwargs = json.dumps(template_kwargs, ensure_ascii=False)
