"""The text of one answer: tokens to characters, up to a stop string, and with a parser divided into its parts."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from router_service.front.parsing.parsed import AnswerParser, Parsed
from router_service.text.detokenizer import Detokenizer
from router_service.text.stop_strings import StopMatcher
from router_service.text.tokenizer import Tokenizer

NO_TOKENS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TextRules:
    """What of an answer is its text.

    `stops` are the texts that end it, `ends` the tokens that do. Neither is text, unless `include_stop`. Of special
    tokens only those in `shown` are text. `named` are the special tokens that a stop text stands for, `asked` the
    tokens, other than end-of-sequence ones, that the request wants to stop at; both are also in `ends`.
    """

    stops: Sequence[str] = ()
    ends: Container[int] = NO_TOKENS
    include_stop: bool = False
    shown: frozenset[int] = NO_TOKENS
    named: Mapping[int, str] = field(default_factory=dict)
    asked: Container[int] = NO_TOKENS


class AnswerText:
    """Turns tokens into what of the answer is certain; without a parser all of it is content.

    Stop strings act on what a parser reads.
    """

    def __init__(self, tokenizer: Tokenizer, rules: TextRules, parser: AnswerParser | None = None) -> None:
        self.reasoning_tokens = 0
        self._tokenizer = tokenizer
        self._rules = rules
        self._parser = parser
        self._detokenizer = Detokenizer(tokenizer, rules.shown)
        self._matcher = StopMatcher(rules.stops)
        self._end: int | None = None
        self._tail = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._matcher.stopped

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool."""
        return self._parser is not None and self._parser.called

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string, or else the stop token of the request, that has ended the answer."""
        if self._matcher.stopped:
            return self._matcher.found
        if self._end is None:
            return None
        return self._rules.named.get(self._end, self._end if self._end in self._rules.asked else None)

    def push(self, ids: Sequence[int], may_stop: Callable[[int], bool]) -> tuple[int, Parsed]:
        """Return how many of `ids` belong to the answer, and what is now certain.

        `may_stop(n)` says whether a stop string may end the answer with the n-th of `ids`.
        """
        if self._parser is None and not self._rules.stops and not any(id in self._rules.ends for id in ids):
            return len(ids), Parsed(self._detokenizer.push(ids))
        parsed = Parsed()
        # One by one: a stop string may end within these tokens, and the usage counts up to the one that completes it.
        for used, id in enumerate(ids, start=1):
            join(parsed, self._parse(self._match(self._decode(id), may_stop(used))))
            if self._matcher.stopped:
                return used, parsed
        return len(ids), parsed

    def flush(self, may_stop: bool) -> Parsed:
        """Return what was held back, at the end of the answer."""
        text = ""
        if not self._matcher.stopped:
            text = self._match(self._detokenizer.flush(), may_stop) + self._matcher.flush() + self._tail
        parsed = self._parse(text) if text else Parsed()
        if self._parser is not None:
            join(parsed, self._parser.flush())
        return parsed

    def _decode(self, id: int) -> str:
        if id in self._rules.ends:
            self._end = id
            return self._ending(id)
        return self._detokenizer.push([id])

    def _ending(self, id: int) -> str:
        """Return the text of a token that ends the answer, or keep it as the `tail` if it is a special token's."""
        if not self._rules.include_stop:
            return ""
        if self._tokenizer.is_visible(id):
            return self._detokenizer.push([id])
        if id in self._rules.shown or id in self._rules.named:
            self._tail = self._tokenizer.text_of(id)
        return ""

    def _match(self, text: str, may_stop: bool) -> str:
        certain = self._matcher.push(text, may_stop)
        return certain + self._matcher.found if self._rules.include_stop else certain

    def _parse(self, text: str) -> Parsed:
        if self._parser is None:
            return Parsed(text)
        reasons = self._parser.reasoning
        parsed = self._parser.push(text)
        self.reasoning_tokens += reasons and self._parser.reasoning
        return parsed


def join(parsed: Parsed, more: Parsed) -> None:
    """Append `more` to `parsed`."""
    parsed.content += more.content
    parsed.reasoning += more.reasoning
    parsed.calls += more.calls
