"""How many tokens a router holds: those of a step, and those of each group of the KV cache."""

from collections.abc import Callable

import torch

from router_service.config import EngineConfig
from router_service.engine.scheduling.block_manager import GroupSize
from router_service.engine.scheduling.limits import SchedulerLimits
from router_service.models.cache_groups import CacheGroup, cache_groups
from router_service.models.spec import ModelSpec

# Prompts are read in chunks of at most so many tokens: a larger one takes more memory, and who comes meanwhile waits.
AUTO_CHUNK_TOKENS = 2048


def resolved_limits(spec: ModelSpec, config: EngineConfig) -> SchedulerLimits:
    """Resolve the token budget: a large chunk of a prompt beside a full batch."""
    budget = config.token_budget or min(spec.context, AUTO_CHUNK_TOKENS) + config.max_sequences
    return SchedulerLimits(
        token_budget=budget,
        max_sequences=config.max_sequences,
        max_waiting=config.max_waiting,
        context=spec.context,
        max_waiting_tokens=config.max_waiting_tokens,
    )


def sized_groups(
    spec: ModelSpec, config: EngineConfig, limits: SchedulerLimits, dtype: torch.dtype, free_bytes: Callable[[], int]
) -> tuple[GroupSize, ...]:
    """The groups' sizes: for as many tokens as are configured, else as memory allows and the sequences can fill.

    Args:
        free_bytes: asked only if the memory decides.

    Raises:
        ValueError: not even one block fits into the memory.
    """
    tokens = config.kv_cache_tokens or _tokens_in(spec, config, limits, dtype, free_bytes())
    return _sizes(cache_groups(spec), -(-tokens // config.block_size), config.block_size, limits)


def _tokens_in(
    spec: ModelSpec, config: EngineConfig, limits: SchedulerLimits, dtype: torch.dtype, free_bytes: int
) -> int:
    elements = int(free_bytes * config.kv_memory_fraction) // dtype.itemsize
    if (tokens := most_tokens(spec, config.block_size, limits, elements)) < 1:
        raise ValueError(
            f"router.kv_memory_fraction {config.kv_memory_fraction} of {free_bytes} free bytes holds no KV block"
        )
    return tokens


def cache_elements(spec: ModelSpec, block_size: int, limits: SchedulerLimits, tokens: int) -> int:
    """Elements of a cache whose groups with the whole context hold `tokens` tokens."""
    groups = cache_groups(spec)
    sizes = _sizes(groups, -(-tokens // block_size), block_size, limits)
    return sum(size.blocks * block_size * group.elements_per_token for size, group in zip(sizes, groups, strict=True))


def most_tokens(spec: ModelSpec, block_size: int, limits: SchedulerLimits, elements: int) -> int:
    """The most tokens, in whole blocks, that the groups with the whole context hold in a cache of `elements`.

    No more than all sequences can fill.
    """
    low, high = 0, max(_needed(group, block_size, limits) for group in cache_groups(spec))
    while low < high:
        middle = (low + high + 1) // 2
        if cache_elements(spec, block_size, limits, middle * block_size) <= elements:
            low = middle
        else:
            high = middle - 1
    return low * block_size


def _sizes(
    groups: tuple[CacheGroup, ...], blocks: int, block_size: int, limits: SchedulerLimits
) -> tuple[GroupSize, ...]:
    """Groups that remember less than the whole context need less than the others, however long the sequences are."""
    return tuple(GroupSize(min(blocks, _needed(group, block_size, limits)), group.view) for group in groups)


def _needed(group: CacheGroup, block_size: int, limits: SchedulerLimits) -> int:
    """Blocks that all sequences can fill: what each remembers, and a step's new tokens."""
    if group.remembers is None or group.remembers >= limits.context:
        return limits.max_sequences * -(-limits.context // block_size)
    return limits.max_sequences * (-(-group.remembers // block_size) + 2) + -(-limits.token_budget // block_size)
