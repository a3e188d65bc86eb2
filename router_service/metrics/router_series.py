"""A router's Prometheus series, by the names of the metrics contract, built from plain arrays about once a second."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from experts.balance import Counts, Floats, balancedness, dead_experts, entropy_ratio, max_over_mean, mean_max_violation
from experts.timing.phase import PHASES
from router_service.config import MetricsConfig
from router_service.engine.admission.constraints import ConstraintFigures
from router_service.metrics.collector import KINDS, Statistics
from router_service.metrics.failure_series import FailureGauges, failure_series
from router_service.metrics.histogram import phase_bounds
from router_service.metrics.series_builder import SeriesBuilder, by_shard, rejections, thread_failures
from router_service.metrics.windows import WindowSums
from router_service.protocol.messages import MetricFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionGauges:
    """What a router knows of its connection to one shard; `replica` is the last known one, "" before the first."""

    replica: str
    up: bool
    restarts: int
    reconnects: int
    clock_error_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The router's current state."""

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_bytes: int
    dense_bytes: int
    shared_expert_bytes: int
    parameters_total: int
    parameters_active: int
    router_load_seconds: float
    preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    rejected: Mapping[str, int]
    connections: tuple[ConnectionGauges, ...]
    thread_failures: Mapping[str, int] = field(default_factory=dict)
    observer_failures: Mapping[str, int] = field(default_factory=dict)
    nonfinite_logits: int = 0
    request_faults: int = 0
    sound: bool = True
    failure: FailureGauges = field(default_factory=FailureGauges)
    constraints: ConstraintFigures = field(default_factory=ConstraintFigures)


def router_series(
    stats: Statistics, window: WindowSums, gauges: Gauges, labels: dict[str, str], config: MetricsConfig
) -> list[MetricFamily]:
    """All series that carry this router's label."""
    builder = SeriesBuilder(labels)
    _requests(builder, stats, gauges)
    _all_to_all(builder, stats, window, gauges)
    _balance(builder, stats, window, config)
    _failure(builder, gauges)
    failure_series(builder, gauges.failure)
    _memory(builder, gauges)
    return builder.metric_families


def _requests(builder: SeriesBuilder, stats: Statistics, gauges: Gauges) -> None:
    builder.one("num_requests_running", "gauge", "Requests that have KV blocks", gauges.running)
    builder.one("num_requests_waiting", "gauge", "Requests that wait for a place and KV blocks", gauges.waiting)
    usage = gauges.kv_blocks_used / gauges.kv_blocks_total
    builder.one("kv_cache_usage_perc", "gauge", "KV blocks in use, 1 is full; cached ones count as free", usage)
    text = "Tokens of admitted requests, looked up in the prefix cache"
    builder.one("prefix_cache_queries", "counter", text, gauges.prefix_cache_queries)
    builder.one("prefix_cache_hits", "counter", "Tokens found in the prefix cache", gauges.prefix_cache_hits)
    text = "How often a request was preempted, because KV blocks ran out"
    builder.one("num_preemptions", "counter", text, gauges.preemptions)
    text = "Tokens computed by a step"
    builder.histogram("iteration_tokens_total", text, [(stats.iteration_tokens, 0, {})])
    _structured(builder, gauges.constraints)


def _structured(builder: SeriesBuilder, figures: ConstraintFigures) -> None:
    builder.one("structured_tokens", "counter", "Tokens of answers that must have a form", figures.tokens)
    text = "Time the engine waited for the masks of such answers, which are made while a step computes"
    builder.one("structured_mask_wait_seconds", "counter", text, figures.mask_wait_seconds)
    text = "Time until such requests could be queued: their grammars compiled, on threads beside the engine's"
    builder.one("structured_compile_seconds", "counter", text, figures.compile_seconds)


def _all_to_all(builder: SeriesBuilder, stats: Statistics, window: WindowSums, gauges: Gauges) -> None:
    shards = gauges.failure.among(stats.known_shards)
    phases = [
        (stats.phases, shard * len(PHASES) + number, {"shard": str(shard), "phase": phase})
        for shard in shards
        for number, phase in enumerate(PHASES)
    ]
    text = "One MoE layer's call to one shard, by phase"
    builder.histogram("alltoall_phase_seconds", text, phases, phase_bounds(len(phases)))
    text = "Error bound of dispatch against combine"
    errors = by_shard((connection.clock_error_s for connection in gauges.connections), shards)
    builder.add("clock_offset_error_seconds", "gauge", text, errors)
    wire = [
        ({"shard": str(shard), "direction": direction}, float(stats.bytes_SD[shard, column]))
        for shard in shards
        for column, direction in enumerate(("dispatch", "combine"))
    ]
    builder.add("alltoall_bytes", "counter", "Bytes on the wire, headers included", wire)
    builder.add("alltoall_rows", "counter", "Token rows sent", by_shard(stats.cumulative.rows_S, shards))
    pairs = by_shard(stats.cumulative.assignments_S, shards)
    builder.add("alltoall_assignments", "counter", "(token, expert) pairs sent", pairs)
    text = "Expert compute of this router's rows: its share where calls of several routers were computed together"
    builder.add("expert_compute_seconds", "counter", text, by_shard(stats.compute_ns_S / 1e9, shards))
    text = "Time the engine waited for experts with nothing else to do"
    builder.one("alltoall_exposed_seconds", "counter", text, stats.exposed_seconds)
    text = "Over layer calls: slowest shard's answer minus the mean"
    builder.one("straggler_wait_seconds", "counter", text, stats.straggler_seconds)
    kinds = [(stats.steps, row, {"kind": kind}) for row, kind in enumerate(KINDS)]
    builder.histogram("step_seconds", "One engine step", kinds)
    stages = [({"stage": stage.value}, seconds) for stage, seconds in stats.stage_seconds.items()]
    builder.add("step_stage_seconds", "counter", "The engine's time by stage", stages)
    builder.one(
        "alltoall_overhead_ratio", "gauge", "Communication's share of step time, last minute", window.overhead_ratio
    )


def _balance(builder: SeriesBuilder, stats: Statistics, window: WindowSums, config: MetricsConfig) -> None:
    text = "Per layer call: max / mean of assignments over the shards that hold experts of the layer"
    builder.histogram("shard_load_imbalance", text, [(stats.shard_imbalance, 0, {})])
    layers = np.flatnonzero(stats.cumulative.expert_tokens_LE.any(axis=1))
    if config.per_expert and len(layers):
        _expert_tokens(builder, stats.cumulative.expert_tokens_LE, layers, config.top_experts)
    # Without tokens there is no balance: an idle router must not raise the mean over routers.
    if window.expert_tokens_LE.any():
        _layers_balance(builder, layers, window.expert_tokens_LE[layers], config)
    # Of the placement in use; a new one has no load yet.
    if len(ratios_L := window.load.ratios()):
        text = "Mean over layers of mean / max over shards that hold experts of the layer"
        builder.one("balancedness", "gauge", text, balancedness(ratios_L))


def _layers_balance(builder: SeriesBuilder, layers: Counts, counts_LE: Counts, config: MetricsConfig) -> None:
    _per_layer(
        builder, "expert_load_imbalance", "Max / mean of tokens over experts", layers, max_over_mean(counts_LE), config
    )
    builder.one("max_violation", "gauge", "Mean over layers of (max - mean) / mean", mean_max_violation(counts_LE))
    _per_layer(
        builder, "router_entropy_ratio", "Entropy of expert load over log(E)", layers, entropy_ratio(counts_LE), config
    )
    if (dead_L := dead_experts(counts_LE)) is not None:
        values = (
            [({"layer": str(n)}, v) for n, v in zip(layers, dead_L, strict=True)]
            if config.per_layer
            else [({}, dead_L.sum())]
        )
        builder.add("dead_experts", "gauge", "Experts without a token in the last minute", values)


def _per_layer(
    builder: SeriesBuilder, name: str, text: str, layers: Counts, values_L: Floats, config: MetricsConfig
) -> None:
    if config.per_layer:
        builder.add(name, "gauge", text, [({"layer": str(n)}, v) for n, v in zip(layers, values_L, strict=True)])
    else:
        builder.one(name, "gauge", f"{text}, mean over layers", float(values_L.mean()))


def _expert_tokens(builder: SeriesBuilder, counts_LE: Counts, layers: Counts, top: int) -> None:
    values = [
        ({"layer": str(layer), "expert": str(expert)}, float(counts_LE[layer, expert]))
        for layer in layers
        # Stable, so that experts with equal counts do not alternate.
        for expert in np.argsort(-counts_LE[layer], kind="stable")[:top]
    ]
    builder.add("expert_tokens", "counter", "Tokens routed to each of a layer's busiest experts", values)


def _failure(builder: SeriesBuilder, gauges: Gauges) -> None:
    connections, failure = gauges.connections, gauges.failure
    reaches = not failure.unavailable if failure.copies else all(connection.up for connection in connections)
    text = "1 when every expert can be asked for and what the router is given does not fail whatever it is"
    builder.one("router_ready", "gauge", text, reaches and gauges.sound)
    shown = failure.among(range(len(connections)))
    # One that holds nothing is not down: it may be on its way, and nobody waits for it.
    lives = [(shard, connections[shard]) for shard in shown if connections[shard].up or failure.needs(shard)]
    replicas = [({"shard": str(shard), "replica": one.replica}, one.up) for shard, one in lives]
    builder.add("shard_up", "gauge", "1 connected to the shard's last known replica, 0 unreachable", replicas)
    text = "Restarts of a shard, as seen by this router"
    builder.add("shard_restarts", "counter", text, by_shard((one.restarts for one in connections), shown))
    text = "Connections to a shard after the first one"
    builder.add("dataplane_reconnects", "counter", text, by_shard((one.reconnects for one in connections), shown))
    refused = rejections({"shard": "router"}, gauges.rejected)
    builder.add("dataplane_rejected_connections", "counter", "Connections closed, by reason", refused)
    failed = thread_failures({"shard": "router"}, gauges.thread_failures)
    builder.add("thread_failures", "counter", "Threads that ended by an exception, by kind", failed)
    observers = [({"observer": name}, count) for name, count in gauges.observer_failures.items()]
    text = "Exceptions in observers: a statistic or a log line is missing, requests are not affected"
    builder.add("observer_failures", "counter", text, observers)
    text = "Requests that ended because the model's logits were not finite"
    builder.one("nonfinite_logits", "counter", text, gauges.nonfinite_logits)
    text = "Requests that ended with INTERNAL because computing them raised; others of their steps went on"
    builder.one("request_faults", "counter", text, gauges.request_faults)


def _memory(builder: SeriesBuilder, gauges: Gauges) -> None:
    kinds = (("total", gauges.parameters_total), ("active", gauges.parameters_active))
    builder.add("parameters", "gauge", "Parameters held, and used for one token", [({"kind": k}, v) for k, v in kinds])
    used = gauges.kv_bytes * gauges.kv_blocks_used / gauges.kv_blocks_total
    sizes = (("reserved", gauges.kv_bytes), ("used", used))
    builder.add("kv_cache_bytes", "gauge", "Bytes of the KV cache", [({"kind": k}, v) for k, v in sizes])
    held = (("dense", gauges.dense_bytes), ("shared_expert", gauges.shared_expert_bytes))
    values = [({"shard": "router", "kind": kind}, size) for kind, size in held]
    builder.add("weights_bytes", "gauge", "Bytes of weights held", values)
    seconds = [({"shard": "router"}, gauges.router_load_seconds)]
    builder.add("checkpoint_load_seconds", "gauge", "Seconds it took to load the weights", seconds)
    loaded = [({"shard": "router"}, gauges.dense_bytes + gauges.shared_expert_bytes)]
    builder.add("checkpoint_load_bytes", "counter", "Bytes of weights loaded, as held in memory", loaded)
