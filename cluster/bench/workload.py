"""What is asked of the server: lengths, and prompts made of random tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from router_service.protocol import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Lengths:
    """A number of tokens, drawn evenly from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, random: Random) -> int:
        """Return one number."""
        return random.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


def parse_lengths(text: str) -> Lengths:
    """Parse `512` or `128:1024`.

    Raises:
        ValueError: it is neither, or out of order or below 1.
    """
    low, colon, high = text.partition(":")
    try:
        lengths = Lengths(int(low), int(high) if colon else int(low))
    except ValueError:
        raise ValueError(f"must be a number of tokens or LOW:HIGH such as 128:1024, got {text!r}") from None
    if not 1 <= lengths.low <= lengths.high:
        raise ValueError(f"must be at least 1, and LOW at most HIGH, got {text!r}")
    return lengths


@dataclass(frozen=True, slots=True)
class Question:
    """A request: one of `tokens`, `prompt`, `messages`, and the most tokens to answer."""

    output_tokens: int
    tokens: Sequence[int] | None = None
    prompt: str | None = None
    messages: Sequence[dict[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Random prompts.

    Args:
        input: own tokens of a prompt; `shared` more come before them.
        output: tokens of an answer.
        shared: tokens of a beginning that all prompts of a group have in common.
        groups: number of such beginnings, which take turns.
        seed: the same seed asks the same questions.
    """

    input: Lengths
    output: Lengths
    shared: int = 0
    groups: int = 1
    seed: int = 0

    def check(self, model: pb.ModelInfo) -> None:
        """Raise ValueError if the longest prompt and answer do not fit into the model's context."""
        prompt = self.shared + self.input.high
        if prompt > model.prompt_limit:
            raise ValueError(
                f"--input-tokens: {prompt} tokens with the shared beginning are more than the server's prompt limit of "
                f"{model.prompt_limit}"
            )
        if prompt + self.output.high > model.context:
            raise ValueError(
                f"--output-tokens: {prompt} tokens of prompt and {self.output.high} of answer are more than the "
                f"context of {model.context}"
            )

    def questions(self, model: pb.ModelInfo) -> Iterator[Question]:
        """Yield questions without end, of tokens that the model knows and that end no answer."""
        ids = _ordinary_ids(model)
        beginnings = [Random(f"{self.seed} group {n}").choices(ids, k=self.shared) for n in range(self.groups)]
        random = Random(f"{self.seed} own")
        while True:
            for beginning in beginnings:
                own = random.choices(ids, k=self.input.draw(random))
                yield Question(self.output.draw(random), tokens=beginning + own)


def _ordinary_ids(model: pb.ModelInfo) -> list[int]:
    ends = set(model.eos_token_ids)
    return [id for id in range(model.vocabulary) if id not in ends] or [0]
