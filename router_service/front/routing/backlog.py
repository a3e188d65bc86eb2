"""What a Front's requests still have to compute on one router, in tokens."""

# What an open stream counts beside its prompt: one token a step, for nobody knows how many steps.
STREAM_TOKENS = 64


class Backlog:
    """The streams that are open on a router, with the prompt tokens that each has still to compute."""

    def __init__(self) -> None:
        self._prompts: dict[int, int] = {}
        self._prompt_tokens = 0

    @property
    def tokens(self) -> int:
        """Prompt tokens of streams without any token so far, and 64 for each stream."""
        return self._prompt_tokens + STREAM_TOKENS * len(self._prompts)

    def begin(self, stream: int, prompt_tokens: int) -> None:
        """Note a stream that has been sent; `prompt_tokens` are those that the router has not cached."""
        self._prompts[stream] = prompt_tokens
        self._prompt_tokens += prompt_tokens

    def computed(self, stream: int) -> None:
        """Note that the stream has a token, so that its prompt is done."""
        if prompt_tokens := self._prompts.get(stream, 0):
            self._prompt_tokens -= prompt_tokens
            self._prompts[stream] = 0

    def end(self, stream: int) -> None:
        """Note that the stream has ended; unknown ones are ignored."""
        self._prompt_tokens -= self._prompts.pop(stream, 0)
