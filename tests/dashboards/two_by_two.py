"""Series of a cluster of two routers, r and s, and two Fronts, a and b, as promtool takes them.

Both Fronts show what routers and shards report; what a Front counts itself, it alone shows. Counters are given by their
increase a second.
"""

INTERVAL_S = 15
SAMPLES = 100
ROUTERS, FRONTS = ("r", "s"), ("a", "b")

# Series and labels to the values of routers r and s.
COUNTED_BY_ROUTERS: dict[str, tuple[float, float]] = {
    'step_seconds_sum{kind="decode"': (0.5, 0.25),
    'step_seconds_sum{kind="prefill"': (0.25, 0.25),
    'step_seconds_bucket{kind="decode", le="1"': (10, 0),
    'step_seconds_bucket{kind="decode", le="2"': (10, 10),
    'step_seconds_bucket{kind="decode", le="+Inf"': (10, 10),
    'step_stage_seconds_total{stage="wait"': (0.375, 0.125),
    "alltoall_exposed_seconds_total": (0.375, 0.125),
    "straggler_wait_seconds_total": (0.1875, 0.0625),
    'alltoall_phase_seconds_sum{shard="0", phase="compute"': (0.1, 0.2),
    'alltoall_phase_seconds_count{shard="0", phase="compute"': (10, 30),
    'alltoall_phase_seconds_sum{shard="0", phase="dispatch"': (0.2, 0.4),
    'alltoall_phase_seconds_count{shard="0", phase="dispatch"': (10, 30),
    'alltoall_phase_seconds_sum{shard="0", phase="combine"': (0.1, 0.1),
    'alltoall_phase_seconds_count{shard="0", phase="combine"': (10, 30),
    'alltoall_phase_seconds_bucket{shard="0", phase="compute", le="0.1"': (10, 10),
    'alltoall_phase_seconds_bucket{shard="0", phase="compute", le="0.2"': (10, 30),
    'alltoall_phase_seconds_bucket{shard="0", phase="compute", le="+Inf"': (10, 30),
    'alltoall_bytes_total{shard="0", direction="dispatch"': (100, 200),
    'alltoall_rows_total{shard="0"': (10, 30),
    'alltoall_assignments_total{shard="0"': (20, 60),
    # Less than the compute phases: what both asked for together is shared out.
    'expert_compute_seconds_total{shard="0"': (0.08, 0.17),
    'shard_load_imbalance_bucket{le="1"': (10, 0),
    'shard_load_imbalance_bucket{le="2"': (10, 10),
    'shard_load_imbalance_bucket{le="+Inf"': (10, 10),
    "shard_load_imbalance_sum": (10, 20),
    "shard_load_imbalance_count": (10, 10),
    'iteration_tokens_total_bucket{le="8"': (10, 0),
    'iteration_tokens_total_bucket{le="16"': (10, 10),
    'iteration_tokens_total_bucket{le="+Inf"': (10, 10),
    "num_preemptions_total": (0.5, 2),
    "prefix_cache_queries_total": (100, 400),
    "prefix_cache_hits_total": (75, 100),
    'expert_tokens_total{layer="0", expert="0"': (1, 2),
    'expert_tokens_total{layer="0", expert="1"': (4, 5),
    'dataplane_reconnects_total{shard="0"': (0.01, 0.02),
    # Each counts the lives that it saw.
    'shard_restarts_total{shard="0"': (0.01, 0.02),
    'dataplane_rejected_connections_total{shard="router", reason="secret"': (0.01, 0.02),
    'failovers_total{reason="eof"': (0.5, 1),
    'failovers_total{reason="suspect"': (2, 0),
    'failover_seconds_bucket{le="0.25"': (2, 0.5),
    'failover_seconds_bucket{le="+Inf"': (2.5, 1),
    "asks_total": (100, 50),
    "hedged_asks_total": (2, 1),
    "hedged_asks_won_total": (1, 0.5),
    "late_answers_total": (0.5, 0.25),
    "cancelled_asks_total": (1.5, 1),
    "suspicions_total": (0.5, 0.25),
    "suspicions_forgiven_total": (0.25, 0.25),
    'fallback_tokens_total{policy="drop"': (3, 1),
    'fallback_tokens_total{policy="wait"': (0, 2),
}
STATED_BY_ROUTERS: dict[str, tuple[float, float]] = {
    "num_requests_running": (3, 5),
    "num_requests_waiting": (1, 2),
    "kv_cache_usage_perc": (0.25, 0.5),
    'kv_cache_bytes{kind="used"': (100, 200),
    'parameters{kind="active"': (10, 10),
    'parameters{kind="total"': (40, 40),
    'weights_bytes{shard="router", kind="dense"': (50, 50),
    'checkpoint_load_seconds{shard="router"': (2, 4),
    'checkpoint_load_bytes_total{shard="router"': (200, 200),
    "router_ready": (1, 0),
    'shard_up{shard="0", replica="x"': (1, 1),
    'shard_up{shard="1", replica="y"': (1, 0),
    'shard_link_state{shard="0", state="live"': (1, 1),
    'shard_link_state{shard="1", state="live"': (1, 0),
    'shard_link_state{shard="1", state="suspect"': (0, 1),
    'expert_copies{shard="0"': (2, 2),
    'expert_copies{shard="1"': (2, 1),
    "experts_unavailable": (0, 3),
    "placement_epoch": (7, 6),
    "balancedness": (0.5, 1),
    "max_violation": (0.5, 0.25),
    'expert_load_imbalance{layer="0"': (1.5, 2.5),
    'router_entropy_ratio{layer="0"': (0.5, 0.75),
    'dead_experts{layer="0"': (1, 2),
    'dead_experts{layer="1"': (3, 0),
    "alltoall_overhead_ratio": (0.25, 0.5),
    'clock_offset_error_seconds{shard="0"': (0.001, 0.002),
}
# A shard says it once, whichever router passes it on.
COUNTED_BY_SHARDS: dict[str, float] = {
    'shard_tokens_total{shard="0"': 30,
    'shard_tokens_total{shard="1"': 10,
    'dataplane_rejected_connections_total{shard="0", reason="secret"': 0.01,
}
STATED_BY_SHARDS: dict[str, float] = {
    'weights_bytes{shard="0", kind="expert"': 300,
    'weights_bytes{shard="1", kind="expert"': 150,
}
# Series and labels to the values of Fronts a and b.
COUNTED_BY_FRONTS: dict[str, tuple[float, float]] = {
    "generation_tokens_total": (10, 20),
    "prompt_tokens_total": (100, 50),
    'request_success_total{finished_reason="stop"': (6, 3),
    'request_failures_total{code="UNAVAILABLE"': (0, 1),
    'request_failures_total{code="CANCELLED"': (2, 3),
    "request_queue_time_seconds_sum": (1, 5),
    "request_queue_time_seconds_count": (6, 3),
    'time_to_first_token_seconds_bucket{le="0.1"': (6, 0),
    'time_to_first_token_seconds_bucket{le="0.2"': (6, 3),
    'time_to_first_token_seconds_bucket{le="+Inf"': (6, 3),
}
STATED_BY_FRONTS: dict[str, tuple[float, float]] = {"routers_linked": (2, 1), "routers_configured": (2, 2)}


# What the control plane says, and both Fronts pass on.
COUNTED_BY_BALANCER: dict[str, float] = {
    "experts_moved_total": 0.02,
    'balancer_runs_total{result="kept"': 0.1,
    'balancer_runs_total{result="moved"': 0.01,
}
STATED_BY_BALANCER: dict[str, float] = {
    "balancer_last_run_timestamp_seconds": 200,
    "balancer_interval_seconds": 10,
    "placement_decided_epoch": 7,
    "shards_wanted": 2,
    'expert_replicas{shard="0"': 20,
    'expert_replicas{shard="1"': 12,
    "migration_in_progress": 1,
    "rebalance_predicted_gain_ratio": 0.25,
    "rebalance_measured_gain_ratio": 0.2,
}


def series(namespace: str = "", factor: float = 1.0) -> list[dict[str, str]]:
    """All series, of a namespace where one is given, their values times `factor`."""
    found = [
        _series(name, namespace, labels, value * factor, counted)
        for counted, table in ((True, COUNTED_BY_ROUTERS), (False, STATED_BY_ROUTERS))
        for name, pair in table.items()
        for router, value in zip(ROUTERS, pair, strict=True)
        for labels in (f'router="{router}", instance="{front}"' for front in FRONTS)
    ]
    found += [
        _series(name, namespace, f'instance="{front}"', value * factor, counted)
        for counted, shards, fronts in (
            (True, COUNTED_BY_SHARDS | COUNTED_BY_BALANCER, COUNTED_BY_FRONTS),
            (False, STATED_BY_SHARDS | STATED_BY_BALANCER, STATED_BY_FRONTS),
        )
        for name, pair in ({name: (value, value) for name, value in shards.items()} | fronts).items()
        for front, value in zip(FRONTS, pair, strict=True)
    ]
    return found


def _series(name: str, namespace: str, labels: str, value: float, counted: bool) -> dict[str, str]:
    bare, _, own = name.partition("{")
    place = [f'namespace="{namespace}"'] if namespace else []
    matchers = ", ".join([*([own] if own else []), *place, 'model="m"', labels])
    values = f"0+{value * INTERVAL_S}x{SAMPLES}" if counted else f"{value}x{SAMPLES}"
    return {"series": f"expertmesh_{bare}{{{matchers}}}", "values": values}
