"""The lines that are for the program and not for the model: those that begin with a slash."""

from collections.abc import Callable
from enum import Enum, auto

from cluster.cli.client.chat.conversation import Conversation

HELP = """\
/system TEXT   set the system prompt; without TEXT remove it
/think on|off  have the model reason before it answers, or not, where its template can
/result TEXT   the result of a tool call that the model has made
/reset         forget all turns; the system prompt stays
/help          this list
/quit          leave, as Ctrl-D does
//TEXT         say /TEXT to the model
Ctrl-C ends an answer; what has come of it stays."""


class Next(Enum):
    """What a line asks for."""

    ANSWER = auto()
    LINE = auto()
    END = auto()


class Commands:
    """Takes lines, for the conversation or about it."""

    def __init__(self, conversation: Conversation, say: Callable[[str], None]) -> None:
        """`say` shows the user a line."""
        self._conversation = conversation
        self._say = say
        self._known = {
            "/system": self._system,
            "/think": self._think,
            "/result": self._result,
            "/reset": self._reset,
            "/help": self._help,
            "/quit": self._quit,
        }

    def take(self, line: str) -> Next:
        """Take one line and return what follows.

        Raises:
            ValueError: there is no such command, or it does not fit; the message is for the user.
        """
        if line.startswith("/") and not line.startswith("//"):
            name, _, argument = line.strip().partition(" ")
            if name not in self._known:
                raise ValueError(f"there is no {name}; /help lists the commands, //TEXT says /TEXT to the model")
            return self._known[name](argument.strip())
        if not line.strip():
            return Next.LINE
        self._conversation.say(line[1:] if line.startswith("//") else line)
        return Next.ANSWER

    def _system(self, text: str) -> Next:
        self._conversation.system = text
        self._say("the system prompt is set" if text else "there is no system prompt now")
        return Next.LINE

    def _think(self, word: str) -> Next:
        if word not in ("on", "off"):
            raise ValueError(f"/think: must be on or off, got {word!r}")
        self._conversation.think(word == "on")
        self._say(f"thinking is {word}")
        return Next.LINE

    def _result(self, text: str) -> Next:
        self._conversation.result(text)
        left = self._conversation.open_calls()
        if not left:
            return Next.ANSWER
        self._say(f"next: the result of {left[0]['function']['name']}")
        return Next.LINE

    def _reset(self, _: str) -> Next:
        self._conversation.reset()
        self._say("all turns are forgotten")
        return Next.LINE

    def _help(self, _: str) -> Next:
        for line in HELP.splitlines():
            self._say(line)
        return Next.LINE

    def _quit(self, _: str) -> Next:
        return Next.END
