"""How many blocks each group of the KV cache has."""

import torch

from router_service.config import EngineConfig
from router_service.engine.scheduling.block_manager import GroupSize
from router_service.engine.scheduling.limits import SchedulerLimits
from router_service.models.cache_groups import CacheGroup, cache_groups
from router_service.models.spec import ModelSpec


def sized_groups(
    spec: ModelSpec, config: EngineConfig, limits: SchedulerLimits, dtype: torch.dtype, free_bytes: int
) -> tuple[GroupSize, ...]:
    """The groups' sizes: for as many tokens as are configured, else as memory allows and the sequences can fill.

    Raises:
        ValueError: not even one block fits into the memory.
    """
    groups, size = cache_groups(spec), config.block_size
    if config.kv_cache_tokens:
        return _sizes(groups, -(-config.kv_cache_tokens // size), size, limits)
    room = int(free_bytes * config.kv_memory_fraction)
    if (blocks := _most_blocks(groups, room // dtype.itemsize, size, limits)) < 1:
        raise ValueError(
            f"router.kv_memory_fraction {config.kv_memory_fraction} of {free_bytes} free bytes holds no KV block"
        )
    return _sizes(groups, blocks, size, limits)


def cache_elements(groups: tuple[CacheGroup, ...], blocks: int, block_size: int, limits: SchedulerLimits) -> int:
    """Elements of a cache whose groups with the whole context have `blocks` blocks."""
    sizes = _sizes(groups, blocks, block_size, limits)
    return sum(size.blocks * block_size * group.elements_per_token for size, group in zip(sizes, groups, strict=True))


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


def _most_blocks(groups: tuple[CacheGroup, ...], elements: int, block_size: int, limits: SchedulerLimits) -> int:
    """The largest number of blocks, of the groups with the whole context, whose cache has at most `elements`."""
    low, high = 0, max(_needed(group, block_size, limits) for group in groups)
    while low < high:
        middle = (low + high + 1) // 2
        if cache_elements(groups, middle, block_size, limits) <= elements:
            low = middle
        else:
            high = middle - 1
    return low
