"""The placement that a cluster starts from, where its configuration names one: a file's text, handed to all processes.

Only where the application is built can the file be read for sure; its text then stands for its path.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cluster.balance.placement_file import PlacementFileError, SavedPlacement, load_placement, read_placement
from cluster.config import ClusterConfig
from experts.host.user_path import user_path
from experts.placement import Placement


def with_placement(config: ClusterConfig, layers: Sequence[int], experts: int) -> ClusterConfig:
    """The configuration with the text of its placement file in the place of its path; as it is if it names none.

    Raises:
        PlacementFileError: the file cannot be read, or is not of this model and this cluster.
    """
    named = config.balance.placement_file
    if not named or is_text(named):
        return config
    file = user_path(named, "balance.placement_file")
    saved = load_placement(file)
    try:
        _check(saved, config, layers, experts)
    except PlacementFileError as error:
        raise PlacementFileError(f"{file}: {error}") from error
    return replace(config, balance=replace(config.balance, placement_file=file.read_text(encoding="utf-8")))


def is_text(named: str) -> bool:
    """Whether `balance.placement_file` has a file's text in it already."""
    return named.lstrip().startswith("{")


def start_name(config: ClusterConfig) -> str:
    """What maps that begin with the configuration's placement have in common; empty if it names none."""
    text = config.balance.placement_file
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def start_of(config: ClusterConfig, shards: int) -> Placement | None:
    """The placement that the configuration has as text, on so many shards; None if it names none."""
    text = config.balance.placement_file
    return replace(read_placement(text).placement, shards=shards) if text else None


def _check(saved: SavedPlacement, config: ClusterConfig, layers: Sequence[int], experts: int) -> None:
    saved.check(experts, layers, config.experts.shards)
    if (copies := min(saved.placement.layer(layer).copies for layer in layers)) < config.experts.copies:
        raise PlacementFileError(
            f"holders has {copies} copies of an expert, experts.copies asks for {config.experts.copies}: "
            f"take a file with as many, or ask for fewer"
        )
