"""What generation_config.json asks for and no request can: named at the start, as the answers would be others."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from experts.checkpoint.json_reader import JsonReader
from experts.host.shown import shown

logger = logging.getLogger(__name__)
# Settings of transformers' generate that change an answer, and the value besides null with which they do not.
NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "penalty_alpha": 0,
    "guidance_scale": 1,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": [],
    "sequence_bias": {},
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "constraints": [],
    "force_words_ids": [],
    "watermarking_config": None,
    "token_healing": False,
    "dola_layers": None,
    "max_time": None,
    # Of other engines: transformers has none. A request can set them.
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
# Those that matter only where tokens are drawn.
NEUTRAL_IN_DRAWING: Mapping[str, Any] = {"top_h": None, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0}


def ignored_settings(config: JsonReader) -> tuple[str, ...]:
    """Return `key=value` of each setting that is ignored and would change an answer.

    Args:
        config: what generation_config.json holds.
    """
    neutral = dict(NEUTRAL)
    if config.flag("do_sample", True):
        neutral |= NEUTRAL_IN_DRAWING
    return tuple(
        f"{key}={shown(value)}"
        for key, least in neutral.items()
        if (value := config.get(key)) is not None and value != least
    )


def log_ignored(settings: Sequence[str]) -> None:
    """Write the line about settings that are ignored, if there are any."""
    if settings:
        logger.warning("settings of generation_config.json are ignored", extra={"settings": ", ".join(settings)})
