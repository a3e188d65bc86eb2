"""A command in a terminal of its own, and what a user does there."""

import asyncio
import codecs
import os
import pty
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.unit.front.commands import MAIN, ROOT
from tests.unit.front.front_fakes import WAIT_S, until

# Standard input becomes the session's terminal: a typed Ctrl-C is a signal then.
TAKES_TERMINAL = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
INTERRUPT, END = "\x03", "\x04"
# Colours, bracketed paste and the like.
ESCAPES = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")


class Terminal:
    """The user's side of it: keys and the screen."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.raw = ""
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = 0  # of the text

    def type(self, keys: str) -> None:
        """Press keys; "\\r" is Enter."""
        os.write(self._descriptor, keys.encode())

    @property
    def text(self) -> str:
        """All that was shown, without colours."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    async def until(self, words: str) -> str:
        """Return what is shown up to `words`, from where the last call of it ended."""
        async with asyncio.timeout(WAIT_S):
            while (at := self.text.find(words, self._read)) < 0:
                self.raw += self._decoder.decode(await self._more())
        begin, self._read = self._read, at + len(words)
        return self.text[begin:at]

    async def interrupt_editor(self) -> None:
        """Press Ctrl-C while a line is edited.

        Python's line editor loses a signal that comes between two of its waits, so this presses when it is in one.
        """
        self.type("x")
        await self.until("x")
        await until(lambda: _sleeps(self.process.pid))
        self.type(INTERRUPT)

    async def ended(self) -> int | None:
        """Read on until the program ends; return its exit code."""
        async with asyncio.timeout(WAIT_S):
            while more := await self._more():
                self.raw += self._decoder.decode(more)
            return await self.process.wait()

    async def _more(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._descriptor, lambda: readable.done() or readable.set_result(None))
        try:
            await readable
            return os.read(self._descriptor, 4096)
        except OSError:  # EIO: nobody has the other side open any more
            return b""
        finally:
            loop.remove_reader(self._descriptor)


@asynccontextmanager
async def in_terminal(*arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    """Run one of the commands there; it is killed if it has not ended."""
    ours, theirs = pty.openpty()
    command = (sys.executable, "-W", "error", "-c", TAKES_TERMINAL + MAIN, *arguments)
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=kept | {"TERM": "xterm"} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(ours)


def _sleeps(pid: int) -> bool:
    """Whether a process's main thread waits for something; see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
