"""A tokenizer, a checkpoint directory and a router made for the Front's tests."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from experts.transport.address import Endpoint, new_incarnation
from experts.transport.frame import HEADER, Kind, pack_header, parse_header
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import server_handshake
from router_service.front.api.model_card import ModelCard
from router_service.protocol.messages import (
    Cancel,
    Logprob,
    RouterHello,
    RouterReport,
    StepOutputs,
    StreamFailure,
    StreamOutput,
    Submit,
    Timings,
    TokenLogprobs,
    Watch,
    decode_to_router,
    encode,
)
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel

CREDENTIALS = Credentials(b"a secret of the tests", bytes(range(32)))
# Bounds a wait for what comes at once where nobody else uses the machine.
WAIT_S = 60.0
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = ["the quick brown fox jumps over the lazy dog", "hello world, hello expert", "a stop string: END. and more"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 512


def byte_level_tokenizer() -> Tokenizer:
    """Every byte is a token; some merges; ids 0 to 2 are special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    """A Llama-like one: U+2581 for spaces, bytes for what is not in the vocabulary, a beginning-of-sequence token."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "h",
        "i",
        "\u2581h",
        "\u2581hi",
    ]
    words += ["\u2581\u2581", "a", "\u4f60", ".", "\n"]
    merges = [("\u2581", "h"), ("\u2581h", "i"), ("\u2581", "\u2581")]
    vocabulary = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:3]])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    words = ["<unk>", "\u2581", "\u2581\u2581", "\u2581the", "a", "the", "\u2581\u00e9t\u00e9", "x"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


class FailingTokenizer(JsonTokenizer):
    """One that cannot encode: a fault of ours in the midst of a request."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(byte_level_tokenizer())
        self._fault = fault

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:  # noqa: ARG002
        raise self._fault


def failing(text: TextModel, fault: Exception) -> TextModel:
    return replace(text, tokenizer=FailingTokenizer(fault))


def write_checkpoint(directory: Path, generation: dict[str, object] | None = None) -> Path:
    """Write the text files of a checkpoint."""
    byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|endoftext|>", "special": True, "__type": "AddedToken"},
        "chat_template": TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def card(context: int = 4096) -> ModelCard:
    return ModelCard("tiny", "qwen3_moe", context, VOCABULARY, "float32", 4, 4, 8, 2, 1000, 400)


def echo(submit: Submit) -> Iterator[StreamOutput]:
    """One token a step: the prompt's, over and over. What comes next depends on the position alone."""
    most = submit.sampling.max_tokens
    for position in range(len(submit.generated), most):
        token = submit.prompt[position % len(submit.prompt)]
        finish = "length" if position + 1 == most else None
        if token in submit.sampling.stop_token_ids:
            finish = "stop"
        logprobs = []
        if submit.sampling.logprobs is not None:
            best = [Logprob(token, -0.5), Logprob(0, float("-inf"))]
            logprobs = [TokenLogprobs(best[0], best[: submit.sampling.logprobs])]
        timings = Timings(0.25, 0.5, 1.0 if finish else 0.0, 3)
        yield StreamOutput(submit.stream, [token], logprobs, finish=finish, timings=timings)
        if finish:
            return


def refuse(code: str, message: str) -> Callable[[Submit], Iterator[StreamOutput]]:
    return lambda submit: iter([StreamOutput(submit.stream, [], failure=StreamFailure(code, message))])


class FakeRouter:
    """Speaks frames as a router does. `script` makes a stream's outputs; each step sends one of each stream."""

    def __init__(
        self,
        name: str = "r0",
        script: Callable[[Submit], Iterator[StreamOutput]] = echo,
        step_s: float = 0.0,
        context: int = 4096,
        die_after_steps: int | None = None,
        stall_after_steps: int | None = None,
        prefix_cache_tokens: int = 0,
    ) -> None:
        self.name = name
        self.script = script
        self.step_s = step_s
        self.context = context
        self.prompt_limit = context
        self.prefix_cache_tokens = prefix_cache_tokens
        self.die_after_steps = die_after_steps
        self.stall_after_steps = stall_after_steps
        self.credentials = CREDENTIALS
        self.incarnation = new_incarnation()
        self.submits: list[Submit] = []
        self.cancels: list[int] = []
        self.watches: list[float] = []
        # One for each connection: every Front counts its streams from one.
        self._running: dict[asyncio.StreamWriter, dict[int, Iterator[StreamOutput]]] = {}
        self.steps = 0
        self.greetings = 0  # begun; `connections` were proven
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> "FakeRouter":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            role="router",
            index=0,
            replica=self.name,
            incarnation=self.incarnation,
            node="node",
            host="127.0.0.1",
            port=self.port,
            unix_name="",
            pid=1,
        )

    @property
    def running(self) -> int:
        """How many streams it has."""
        return sum(map(len, self._running.values()))

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let_step(self) -> None:
        """Let one that stalls make one more step."""
        assert self.stall_after_steps is not None
        self.stall_after_steps += 1

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stop_reading(self) -> None:
        """Read nothing any more on any connection, as a process that is stopped."""
        for writer in self._writers:
            writer.transport.pause_reading()  # type: ignore[attr-defined]

    def say(self, message: object) -> None:
        """Send a message on every connection."""
        self.shout(encode(message))

    def shout(self, payload: bytes, kind: Kind = Kind.MESSAGE) -> None:
        for writer in self._writers:
            writer.write(pack_header(kind, self.incarnation, 0, (payload,)) + payload)

    def babble(self, raw: bytes) -> None:
        """Send bytes that are no frame on every connection."""
        for writer in self._writers:
            writer.write(raw)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                await self._greet(reader, writer)
                await self._listen(reader, writer)
            finally:
                self._writers.discard(writer)
                writer.transport.abort()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.greetings += 1
        handshake = server_handshake(self.credentials, self.incarnation)
        while not handshake.proven:
            writer.write(handshake.turn.out)
            handshake.advance(await reader.readexactly(handshake.turn.want))
        hello = RouterHello(self.name, self.context, self.prompt_limit, self.prefix_cache_tokens)
        self._frame(writer, Kind.MESSAGE, encode(hello))
        self.connections += 1
        self._writers.add(writer)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running: dict[int, Iterator[StreamOutput]] = {}
        self._running[writer] = running
        stepper = asyncio.create_task(self._step_forever(writer, running))
        try:
            while True:
                message = decode_to_router(await self._read(reader))
                if isinstance(message, Submit):
                    self.submits.append(message)
                    running[message.stream] = self.script(message)
                elif isinstance(message, Cancel):
                    self.cancels.append(message.stream)
                    running.pop(message.stream, None)
                elif isinstance(message, Watch):
                    self.watches.append(message.seconds)
        finally:
            del self._running[writer]
            stepper.cancel()

    async def _step_forever(self, writer: asyncio.StreamWriter, running: dict[int, Iterator[StreamOutput]]) -> None:
        while True:
            await asyncio.sleep(self.step_s)
            if not running or (self.stall_after_steps is not None and self.steps >= self.stall_after_steps):
                await asyncio.sleep(0.002)
                continue
            if self.steps == self.die_after_steps:
                await self.stop_listening()
                writer.transport.abort()
                return
            self.steps += 1
            self._frame(writer, Kind.MESSAGE, encode(StepOutputs([*outputs_of(running)])))

    async def stop_listening(self) -> None:
        self._server.close()

    def _frame(self, writer: asyncio.StreamWriter, kind: Kind, payload: bytes) -> None:
        writer.write(pack_header(kind, self.incarnation, 0, (payload,)) + payload)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        header = parse_header(await reader.readexactly(HEADER.size))
        assert header.incarnation == self.incarnation
        return await reader.readexactly(header.length)


def outputs_of(running: dict[int, Iterator[StreamOutput]]) -> Iterator[StreamOutput]:
    """One output of each stream; those that end are taken out."""
    for stream, outputs in list(running.items()):
        output = next(outputs, None)
        if output is None or output.finish or output.failure:
            del running[stream]
        if output is not None:
            yield output


def report(router: str = "r0", **fields: object) -> RouterReport:
    values = {
        "router": router,
        "running": 1,
        "waiting": 2,
        "kv_blocks_used": 3,
        "kv_blocks_total": 12,
        "decode_tokens_per_second": 50.0,
        "overhead_ratio": 0.25,
        "shard_imbalance": 1.5,
        "expert_imbalance": 2.0,
        "shards": [],
        "metric_families": [],
        "step_seconds": 20.0,
    }
    return RouterReport(**(values | fields))  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
