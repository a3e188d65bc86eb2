"""A conversation from its first line to its last."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Protocol

import grpc.aio

from cluster.cli.client.chat.answer import Answer
from cluster.cli.client.chat.commands import Commands, Next
from cluster.cli.client.chat.conversation import Conversation
from cluster.cli.client.chat.lines import Lines
from cluster.cli.client.chat.screen import Screen
from cluster.cli.failing import EXIT_INTERRUPTED, fail
from router_service.protocol import inference_pb2 as pb

PROMPT = "> "
LEAVING = "Ctrl-C again, Ctrl-D or /quit leaves"
ENDS = {
    pb.LENGTH: "cut: no more tokens, see --max-tokens",
    pb.CANCELLED: "cut: the server shut down",
    pb.TOOL_CALLS: "/result TEXT says what the tool returned",
}

Ask = Callable[[Conversation], AsyncGenerator[pb.GenerateResponse, None]]


class Runner(Protocol):
    """Runs a coroutine to its end, an interrupt cancels it and is raised then; as `asyncio.Runner` does."""

    def run(self, coro: Coroutine[object, object, None], /) -> None:
        """Run it."""


class Session:
    """Reads lines, and has each turn answered.

    On a terminal an interrupt ends the answer, and errors of one turn are said and the next line is read. Without one
    both end the program: nobody is there who could say something else.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        runner: Runner,
        conversation: Conversation,
        lines: Lines,
        screen: Screen,
        colours: bool,
        refused: Callable[[grpc.aio.AioRpcError], int],
    ) -> None:
        """`ask` streams the answer to a conversation; `refused` says in one line why there is none."""
        self._ask = ask
        self._runner = runner
        self._conversation = conversation
        self._lines = lines
        self._screen = screen
        self._colours = colours
        self._refused = refused
        self._commands = Commands(conversation, screen.say if lines.interactive else _unsaid)

    def run(self) -> int:
        """Talk until the user leaves, and return the exit code.

        Raises:
            grpc.aio.AioRpcError, ValueError: a turn failed, without a terminal.
        """
        warned = False
        while True:
            try:
                line = self._lines.read(PROMPT, self._colours)
                warned = False
                if line is None or self._take(line) is Next.END:
                    return 0
            except KeyboardInterrupt:
                # Once may be meant for an answer that has just ended.
                if warned or not self._lines.interactive:
                    return EXIT_INTERRUPTED
                warned = True
                self._screen.say(f"\n{LEAVING}")

    def _take(self, line: str) -> Next:
        try:
            following = self._commands.take(line)
            if following is Next.ANSWER:
                self._answer()
        except (ValueError, grpc.aio.AioRpcError) as error:
            if not self._lines.interactive:
                raise
            _ = self._refused(error) if isinstance(error, grpc.aio.AioRpcError) else fail(str(error))
            return Next.LINE
        return following

    def _answer(self) -> None:
        answer, note = Answer(), ""
        try:
            self._runner.run(self._show(answer))
            note = ENDS.get(answer.finish, "")
        except KeyboardInterrupt:
            if not self._lines.interactive:
                raise
            note = "interrupted"
        finally:
            self._conversation.answered(answer.message())
            self._screen.end(note)

    async def _show(self, answer: Answer) -> None:
        async with aclosing(self._ask(self._conversation)) as stream:  # leaving it early cancels the call
            async for response in stream:
                answer.add(response)
                self._screen.show(response)


def _unsaid(_: str) -> None:
    """Nobody is there to read it."""
