"""A cluster as a side of the benchmark: `expertmesh serve` in a process of its own, measured over gRPC."""

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from router_service.client.client import Client
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.harness.streams import Stream, decode_rate
from tests.e2e.server import serving

CALL_SECONDS = 600.0
# Tokens until all streams have begun, and more than come in one message; a small model on a busy machine needs many.
SPARE_STEPS, MOST_SPARE_STEPS = 16, 256
Settings = Mapping[str, Mapping[str, Any]]


class Served:
    """A cluster of one checkpoint, up from its making until `close`.

    Args:
        directory: the checkpoint.
        shards: shard processes.
        settings: sections of the configuration.
    """

    def __init__(self, directory: Path, shards: int, settings: Settings) -> None:
        with ExitStack() as stack:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (work / "config.yaml").write_text(yaml.safe_dump({name: dict(keys) for name, keys in settings.items()}))
            arguments = (str(directory), "--shards", str(shards), "--config", str(work / "config.yaml"))
            server = stack.enter_context(serving(*arguments, log=work / "log"))
            self._spare = SPARE_STEPS
            self._runner = stack.enter_context(asyncio.Runner())
            self._client: Client = self._run(_connected(server.target))
            stack.callback(lambda: self._run(self._client.close()))
            self._stack = stack.pop_all()

    def prefill(self, tokens: Tokens) -> float:
        """Seconds from the call to the first token."""
        (stream,) = self._run(self._streams([tokens], 1))
        return float(stream.times[0] - stream.begun)

    def decode(self, prompts: list[Tokens], steps: int) -> float:
        """Seconds that `steps` tokens for each prompt take once all streams have begun."""
        while True:
            streams = self._run(self._streams(prompts, steps + max(self._spare, len(prompts))))
            if all_decoded_together(streams) or self._spare >= MOST_SPARE_STEPS:
                return len(prompts) * steps / decode_rate(streams)
            self._spare *= 2

    def routing(self, prompts: list[Tokens], steps: int) -> list[list[list[list[int]]]]:
        """The experts of each row's layers, for each of `steps` steps that all prompts decode together."""
        answers = self._run(self._routed(prompts, steps + 1))
        return [[answer[len(prompt) + step] for answer, prompt in zip(answers, prompts)] for step in range(steps)]

    def close(self) -> None:
        """Take the cluster down."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def _streams(self, prompts: list[Tokens], new_tokens: int) -> list[Stream]:
        streams = [Stream.start(self._client, tokens, new_tokens, CALL_SECONDS) for tokens in prompts]
        return list(await asyncio.gather(*(stream.wait() for stream in streams)))

    async def _routed(self, prompts: list[Tokens], new_tokens: int) -> list[list[list[list[int]]]]:
        """For each prompt, for each of its positions and those that it generated, each layer's experts."""
        return list(await asyncio.gather(*(self._routing_of(tokens, new_tokens) for tokens in prompts)))

    async def _routing_of(self, tokens: Tokens, new_tokens: int) -> list[list[list[int]]]:
        asked: dict[str, Any] = {"max_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True}
        stream = self._client.generate(tokens=tokens, return_routing=True, timeout=CALL_SECONDS, **asked)
        return [[list(layer.experts) for layer in one.layers] async for response in stream for one in response.routing]


def all_decoded_together(streams: Sequence[Stream]) -> bool:
    """Whether no stream had ended when the last one began, so that there is something to count."""
    return min(stream.times[-1] for stream in streams) > max(stream.times[0] for stream in streams)


async def _connected(target: str) -> Client:
    client = Client(target)
    await client.wait_ready(60)
    return client
