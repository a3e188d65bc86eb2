"""Settings of the router: its engine and its metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a router batches and what memory its KV cache takes.

    Args:
        max_sequences: requests that run at once [requests; at least 1]
        max_waiting: requests that may wait while max_sequences run; one more is refused with RESOURCE_EXHAUSTED
            [requests; at least 1]
        token_budget: tokens of one step; 0 is what the context needs, at most 8192 prompt tokens [tokens; at least 0]
        block_size: tokens of one KV block [tokens; at least 1]
        kv_cache_tokens: tokens that the KV cache holds; 0 sizes it from the memory available [tokens; at least 0]
        kv_memory_fraction: the part of the available memory that an automatic KV cache may take [-; over 0, below 1]
        unavailable_wait_seconds: how long a request waits for a shard that is away [seconds; at least 0]
        threads: CPU threads of the router's computation; 0 is all cores that the process may use [threads; at least 0]
    """

    max_sequences: int = 64
    max_waiting: int = 1024
    token_budget: int = 0
    block_size: int = 16
    kv_cache_tokens: int = 0
    kv_memory_fraction: float = 0.4
    unavailable_wait_seconds: float = 30.0
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("max_sequences", "max_waiting", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"router.{name} is {getattr(self, name)}, it must be at least 1")
        for name in ("token_budget", "kv_cache_tokens", "unavailable_wait_seconds", "threads"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"router.{name} is {getattr(self, name)}, it must not be negative")
        if not 0 < self.kv_memory_fraction < 1:
            raise ValueError(f"router.kv_memory_fraction is {self.kv_memory_fraction}, it must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Which of the large series are exported.

    Args:
        per_layer: balance gauges for each layer: L series each instead of one
        per_expert: `expert_tokens_total`, L x E series, of the `top_experts` busiest experts of each layer
        top_experts: how many experts of a layer `per_expert` exports [experts; at least 1]
    """

    per_layer: bool = False
    per_expert: bool = False
    top_experts: int = 16

    def __post_init__(self) -> None:
        if self.top_experts < 1:
            raise ValueError(f"metrics.top_experts is {self.top_experts}, it must be at least 1")
