"""Settings of the router: its engine and its metrics."""

from dataclasses import dataclass
from typing import Annotated, Literal

from experts.host.bounds import SecondsOrZero, Threads, check_settings, setting

Overlap = Literal["auto", "on", "off"]
# The values of `router_service.protocol.fallback.Fallback`.
FallbackName = Literal["wait", "drop", "next_best", "fail"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a router batches, and how much memory its KV cache takes.

    Args:
        max_sequences: requests that run concurrently
        max_waiting: requests that may wait while max_sequences run; further ones are refused with RESOURCE_EXHAUSTED
        max_waiting_tokens: tokens that the waiting requests may hold together, each about 36 bytes of memory; further
            requests are refused with RESOURCE_EXHAUSTED
        token_budget: most tokens in one step; 0 allows 2048 tokens of prompts beside all running requests
        target_step_seconds: most seconds of a step that reads part of a prompt while others decode; 0 allows 2.5 times
            one without prompts
        block_size: tokens per KV block
        kv_cache_tokens: tokens that the KV cache holds; 0 sizes it by the available memory
        kv_memory_fraction: fraction of the available memory that an automatically sized KV cache may take;
            the routers of one node share it, on GPUs each has its own
        prefix_caching: keep what is computed and reuse it for requests that begin alike
        unavailable_wait_seconds: how long a request waits for an unavailable shard before it fails with UNAVAILABLE
        fallback: what becomes of a token if an expert that the gate chose for it has no living copy, where the request
            does not say. wait stalls the request until there is one; drop computes with the token's other experts;
            next_best takes the next best experts that live; fail ends the request
        overlap: whether a step runs as two batches, one's attention while the other's experts compute. auto measures
            both ways and takes two where that is faster
        threads: CPU threads of the router's computation; 0 uses all cores that the process may use
    """

    max_sequences: Annotated[int, setting("requests", ge=1)] = 256
    max_waiting: Annotated[int, setting("requests", ge=1)] = 1024
    max_waiting_tokens: Annotated[int, setting("tokens", ge=1)] = 8 << 20
    token_budget: Annotated[int, setting("tokens", ge=0)] = 0
    target_step_seconds: SecondsOrZero = 0.0
    block_size: Annotated[int, setting("tokens", ge=1)] = 16
    kv_cache_tokens: Annotated[int, setting("tokens", ge=0)] = 0
    kv_memory_fraction: Annotated[float, setting(gt=0, lt=1)] = 0.4
    prefix_caching: bool = True
    unavailable_wait_seconds: SecondsOrZero = 30.0
    fallback: FallbackName = "wait"
    overlap: Overlap = "auto"
    threads: Threads = 0

    def __post_init__(self) -> None:
        check_settings("router", self)

    @property
    def lanes(self) -> int:
        """How many calls to a shard may be in flight, each on a connection of its own."""
        return 1 if self.overlap == "off" else 2


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Which of the large metric families are exported.

    Args:
        per_layer: export balance gauges per layer: L series each instead of one
        per_expert: export `expert_tokens_total` for the `top_experts` busiest experts of each layer
        top_experts: how many experts of a layer `per_expert` exports
    """

    per_layer: bool = False
    per_expert: bool = False
    top_experts: Annotated[int, setting("experts", ge=1)] = 16

    def __post_init__(self) -> None:
        check_settings("metrics", self)
