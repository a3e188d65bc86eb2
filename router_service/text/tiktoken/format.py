"""What a tiktoken vocabulary file does not contain: how text is split, and which ids are reserved after the ranks.

Models publish this as Python code beside the file. Code of a checkpoint is never run here, so the facts are listed
below by the `model_type` of config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.json_reader import open_json
from experts.host.shown import shown


@dataclass(frozen=True, slots=True)
class TiktokenFormat:
    """How one family of models uses its vocabulary.

    `pattern` is the regular expression of the pieces within which tokens are merged. `reserved` ids follow the ranks.
    Before that, text is cut after every `segment` characters, and runs of white space or of non-white space after every
    `run` characters: the expression's backtracking overflows on longer ones, and only cuts at the same places as in
    training give the same ids.
    """

    pattern: str
    reserved: int
    segment: int = 400_000
    run: int = 25_000


# Facts of tokenization_kimi.py (class TikTokenTokenizer: pat_str, num_reserved_special_tokens and the two limits of
# encode) in huggingface.co/moonshotai/Kimi-K2-Instruct. Chinese characters are split from the words beside them.
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        f"{_HEAD}{_UPPER}*{_LOWER}+{_TAIL}",
        f"{_HEAD}{_UPPER}+{_LOWER}*{_TAIL}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
KIMI = TiktokenFormat(KIMI_PATTERN, reserved=256)

FORMATS: Mapping[str, TiktokenFormat] = {"kimi_k2": KIMI, "kimi_k25": KIMI}
# DeepSeek's checkpoints have a tokenizer.json; those of this type with a tiktoken file (Moonlight) are Moonshot's.
FORMATS_BY_FILE: Mapping[tuple[str, str], TiktokenFormat] = {("deepseek_v3", "tiktoken.model"): KIMI}


def format_of(vocabulary: Path) -> TiktokenFormat:
    """Return the format of the file at `vocabulary` by the config.json beside it.

    Raises:
        CheckpointError: config.json is unreadable, or its model_type has no known format.
    """
    config = vocabulary.parent / "config.json"
    model_type = open_json(config, optional=True).get("model_type")
    key = str(model_type)
    found = FORMATS.get(key) or FORMATS_BY_FILE.get((key, vocabulary.name))
    if found is None:
        problem = f"how model_type {shown(model_type)} splits text for {vocabulary.name} is not known, only for"
        known = ", ".join([*FORMATS, *(f"{name} with {file}" for name, file in FORMATS_BY_FILE)])
        raise CheckpointError(f"{config}: {problem} {known}; add a tokenizer.json made from the vocabulary")
    return found
