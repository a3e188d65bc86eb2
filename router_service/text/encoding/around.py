"""What tokenizer_config.json wants around a raw prompt: `add_bos_token` and `add_eos_token`.

Where the post-processor of tokenizer.json adds none (DeepSeek-V3), transformers 4 adds what these keys ask for,
as in the models' training. transformers 5.23 drops the keys where there is a tokenizer.json, and adds nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from experts.checkpoint.json_reader import open_json
from router_service.text.checkpoint_files import load_special_tokens

# Encoded to see what is put around it.
SAMPLE = "a"


@dataclass(frozen=True, slots=True)
class Around:
    """The tokens before and behind a prompt, by content; None where none is wanted."""

    first: str | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True)
class AroundIds:
    """The ids before and behind a prompt."""

    first: int | None = None
    last: int | None = None

    def put(self, ids: list[int]) -> list[int]:
        """Return a prompt with them; what it begins or ends with already is not added again."""
        before = [] if self.first is None or ids[:1] == [self.first] else [self.first]
        behind = [] if self.last is None or ids[-1:] == [self.last] else [self.last]
        return [*before, *ids, *behind] if before or behind else ids


NOTHING = Around()


def read_around(directory: Path, usual_first: str | None = None) -> Around:
    """Return what a checkpoint's tokenizer_config.json wants.

    Args:
        directory: the checkpoint.
        usual_first: the token before a prompt where `add_bos_token` is not set, or does not say which one it means.

    Raises:
        CheckpointError: a file is unreadable, or a flag is neither true nor false.
    """
    config = open_json(directory / "tokenizer_config.json", optional=True)
    first, last = config.flag("add_bos_token", usual_first is not None), config.flag("add_eos_token", False)
    if not first and not last:
        return NOTHING
    named = load_special_tokens(directory)
    return Around(named.get("bos_token", usual_first) if first else None, named.get("eos_token") if last else None)


def missing_around(tokenizer: Tokenizer, wanted: Around) -> AroundIds:
    """Return the ids of what is `wanted` and the post-processor does not add: it may have another one for the place."""
    inner = tokenizer.encode(SAMPLE, add_special_tokens=False).ids
    whole = tokenizer.encode(SAMPLE, add_special_tokens=True).ids
    first, last = (None if token is None else tokenizer.token_to_id(token) for token in (wanted.first, wanted.last))
    return AroundIds(first if whole[:1] == inner[:1] else None, last if whole[-1:] == inner[-1:] else None)
