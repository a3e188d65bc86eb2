"""Settings of the router: its engine and its metrics."""

from dataclasses import dataclass
from typing import Annotated

from experts.host.bounds import SecondsOrZero, Threads, check_settings, setting


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a router batches and what memory its KV cache takes.

    Args:
        max_sequences: requests that run at once
        max_waiting: requests that may wait while max_sequences run; one more is refused with RESOURCE_EXHAUSTED
        token_budget: tokens of one step; 0 is what the context needs, at most 8192 prompt tokens
        block_size: tokens of one KV block
        kv_cache_tokens: tokens that the KV cache holds; 0 sizes it from the memory available
        kv_memory_fraction: the part of the available memory that an automatic KV cache may take
        unavailable_wait_seconds: how long a request waits for a shard that is away
        threads: CPU threads of the router's computation; 0 is all cores that the process may use
    """

    max_sequences: Annotated[int, setting("requests", ge=1)] = 64
    max_waiting: Annotated[int, setting("requests", ge=1)] = 1024
    token_budget: Annotated[int, setting("tokens", ge=0)] = 0
    block_size: Annotated[int, setting("tokens", ge=1)] = 16
    kv_cache_tokens: Annotated[int, setting("tokens", ge=0)] = 0
    kv_memory_fraction: Annotated[float, setting(gt=0, lt=1)] = 0.4
    unavailable_wait_seconds: SecondsOrZero = 30.0
    threads: Threads = 0

    def __post_init__(self) -> None:
        check_settings("router", self)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Which of the large series are exported.

    Args:
        per_layer: balance gauges for each layer: L series each instead of one
        per_expert: `expert_tokens_total`, L x E series, of the `top_experts` busiest experts of each layer
        top_experts: how many experts of a layer `per_expert` exports
    """

    per_layer: bool = False
    per_expert: bool = False
    top_experts: Annotated[int, setting("experts", ge=1)] = 16

    def __post_init__(self) -> None:
        check_settings("metrics", self)
