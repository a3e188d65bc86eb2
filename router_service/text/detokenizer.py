"""Incremental detokenization: text in whole characters, at a bounded cost per token.

The concatenation of what is returned equals the tokenizer's decoding of all ids at once. A decoder looks at neighbours
(the first token loses its leading space, bytes of one character join), so each push decodes a short window of the last
tokens and returns what is new after the characters returned before.

One case differs. A decoder with byte tokens takes a run of them as a whole: if it is not UTF-8, all of its bytes become
U+FFFD. To stream the same, a run would be held until it ends, and it may be a whole answer in a script that the
vocabulary lacks. So only a run of at most `RUN_TOKENS` is held. Of a longer one characters are returned as they become
complete, and a bad byte behind them leaves them as they are. Runs of valid UTF-8 are equal at any length.
"""

from collections.abc import Iterable

from router_service.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
WINDOW_TOKENS = 24
# A character has at most four bytes and a token at least one, so no character spans more than four tokens.
KEPT_TOKENS = 4
# Of byte tokens that are held, 8 characters of four bytes.
RUN_TOKENS = 32


class Detokenizer:
    """The text of one stream, of special tokens those in `shown` only."""

    def __init__(self, tokenizer: Tokenizer, shown: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._shown = shown & tokenizer.special_ids
        self._window: list[int] = []
        self._returned = 0
        self._run = 0

    @property
    def kept_tokens(self) -> int:
        """How many of the stream's last tokens are decoded again with the next one."""
        return len(self._window)

    def push(self, ids: Iterable[int]) -> str:
        """Return the characters that `ids` complete."""
        visible = [id for id in ids if self._shows(id)]
        if not visible:
            return ""
        self._window += visible
        self._count_run(visible)
        if self._run > RUN_TOKENS:
            return self._break_run()
        return "" if self._run else self._advance()

    def flush(self) -> str:
        """Return the text held back; an incomplete character becomes U+FFFD. Do not push afterwards."""
        return self._decode(self._window)[self._returned :]

    def _shows(self, id: int) -> bool:
        return self._tokenizer.is_visible(id) or id in self._shown

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=not self._shown)

    def _count_run(self, ids: list[int]) -> None:
        for id in ids:
            self._run = self._run + 1 if id in self._tokenizer.byte_fallback else 0

    def _advance(self) -> str:
        text = self._decode(self._window)
        # The last character may be the start of one that the next token completes.
        stable = len(text) - text.endswith(REPLACEMENT)
        piece = text[self._returned : stable]
        self._returned = max(self._returned, stable)
        if len(self._window) > WINDOW_TOKENS:
            self._trim(len(text) - self._returned)
        return piece

    def _trim(self, held: int) -> None:
        # Without this each token would decode the whole text so far.
        self._window = self._window[-KEPT_TOKENS:]
        self._returned = max(0, len(self._decode(self._window)) - held)

    def _break_run(self) -> str:
        """Return a long run of byte tokens except for its last character, which may be incomplete."""
        start = len(self._window) - self._last_lead()
        piece = self._decode(self._window[:start])[self._returned :]
        self._window = self._window[start:]
        self._run = len(self._window)
        self._returned = 0
        return piece

    def _last_lead(self) -> int:
        """Return how many tokens ago the last byte came that starts a UTF-8 character; 1 if none is near."""
        for back in range(1, KEPT_TOKENS + 1):
            if self._tokenizer.byte_fallback[self._window[-back]] & 0xC0 != 0x80:
                return back
        return 1
