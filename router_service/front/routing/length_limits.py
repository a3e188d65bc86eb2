"""Limits on the length of requests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """`context` counts prompt and answer, `prompt` the prompt alone; `vocabulary` is the number of token ids."""

    context: int
    prompt: int
    vocabulary: int
