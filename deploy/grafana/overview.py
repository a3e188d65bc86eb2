"""Serving overview: what clients get, and whether there is room for more."""

from deploy.grafana.panel import ALL, ANSWERING, Board, Kind, Panel, Query, Row, State
from deploy.grafana.promql import KEYS, MODEL, NAMESPACE, ROUTER, once, quantile, rate

NOW = Row(
    "Now",
    (
        Panel(
            "Shards up",
            "Shards that a router reaches. Compare with the number of shards that was configured.",
            (Query(f"sum(max by ({KEYS}, shard) (expertmesh_shard_up{{{MODEL}}}))"),),
            Kind.STAT,
            width=3,
            bounds=(1, 0.5),
            runbook="shard-down",
        ),
        Panel(
            "Routers ready",
            "Routers that reach every shard.",
            (Query(f"sum(max by ({KEYS}, router) (expertmesh_router_ready{{{ROUTER}}}))"),),
            Kind.STAT,
            width=3,
            bounds=(1, 0.5),
            runbook="router-not-ready",
        ),
        Panel(
            "Tokens/s generated",
            "Over five minutes.",
            (Query(f"sum(model:expertmesh_generation_tokens:rate5m{{{MODEL}}})"),),
            Kind.STAT,
            width=3,
        ),
        Panel(
            "First token, p95",
            "95% of requests got their first token within this time, over five minutes.",
            (Query(f'max(model:expertmesh_time_to_first_token_seconds:quantile5m{{{MODEL}, quantile="0.95"}})'),),
            Kind.STAT,
            "s",
            3,
        ),
        Panel(
            "All-to-all overhead",
            "Share of step time that communication with the experts takes, over five minutes; the worst router.",
            (Query(f"max(router:expertmesh_alltoall_overhead_ratio:avg5m{{{ROUTER}}})"),),
            Kind.STAT,
            "percentunit",
            3,
            runbook="alltoall-overhead-high",
        ),
        Panel(
            "Busiest shard / mean",
            "1 / balancedness: how many times its even share the busiest shard computes. 1 is perfect.",
            (Query(f"max(1 / model:expertmesh_balancedness:avg5m{{{MODEL}}})"),),
            Kind.STAT,
            width=3,
            bounds=(1.3, 1.5),
            runbook="imbalance-high",
        ),
        Panel(
            "KV cache in use",
            "The fullest router's. Cached beginnings that no request uses count as free.",
            (Query(f"max(expertmesh_kv_cache_usage_perc{{{ROUTER}}})"),),
            Kind.STAT,
            "percentunit",
            3,
            (0.8, 0.95),
            "kv-cache-near-full",
        ),
        Panel(
            "Errors",
            "Requests that failed through no fault of the client, over five minutes.",
            (Query(f"max(model:expertmesh_request_errors:ratio_rate5m{{{MODEL}}})"),),
            Kind.STAT,
            "percentunit",
            3,
            (0.001, 0.0144),
            "error-budget-burn",
        ),
    ),
)

REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests/s by outcome",
            "Successful requests by finish reason, errors by gRPC status.",
            (
                Query(
                    f"sum by ({KEYS}, finished_reason) ({rate('request_success_total', MODEL)})",
                    "finished: {{finished_reason}}",
                ),
                Query(f"sum by ({KEYS}, code) ({rate('request_failures_total', MODEL)})", "error: {{code}}"),
            ),
            unit="reqps",
            runbook="error-budget-burn",
        ),
        Panel(
            "Tokens/s",
            "Prompt tokens count when their request gets its first token.",
            (
                Query(f"sum by ({KEYS}) ({rate('prompt_tokens_total', MODEL)})", "{{model}} prompt"),
                Query(f"sum by ({KEYS}) ({rate('generation_tokens_total', MODEL)})", "{{model}} generated"),
            ),
        ),
        Panel(
            "Queue",
            "Requests that have KV blocks, and requests that wait for room.",
            (
                Query(once(f"expertmesh_num_requests_running{{{ROUTER}}}"), "{{router}} running"),
                Query(once(f"expertmesh_num_requests_waiting{{{ROUTER}}}"), "{{router}} waiting"),
            ),
            runbook="queue-growing",
        ),
    ),
)


def _quantiles(title: str, about: str, series: str) -> Panel:
    expr = f"model:expertmesh_{series}_seconds:quantile5m{{{MODEL}}}"
    return Panel(title, about, (Query(expr, "{{model}} {{quantile}}"),), unit="s")


LATENCY = Row(
    "Latency",
    (
        _quantiles("Time to first token", "From a request's arrival, over five minutes.", "time_to_first_token"),
        _quantiles("Between two tokens", "Of one stream, over five minutes.", "inter_token_latency"),
        _quantiles("End to end", "Of requests that succeeded, over five minutes.", "e2e_request_latency"),
        Panel(
            "Time to first token, all requests",
            "Requests per second in each bucket.",
            (Query(f"sum by (le) ({rate('time_to_first_token_seconds_bucket', MODEL)})", "{{le}}"),),
            Kind.HEATMAP,
            "s",
            12,
        ),
        Panel(
            "Where a request's time goes",
            "Means: waiting for the first step, from there to the first token, from there to the last.",
            tuple(
                Query(
                    f"sum by ({KEYS}) ({rate(f'request_{part}_time_seconds_sum', MODEL)})"
                    f" / (sum by ({KEYS}) ({rate(f'request_{part}_time_seconds_count', MODEL)}) > 0)",
                    f"{{{{model}}}} {part}",
                )
                for part in ("queue", "prefill", "decode")
            ),
            Kind.STACKED,
            "s",
            12,
            states=ANSWERING,
        ),
    ),
)

ENGINE = Row(
    "Engine",
    (
        Panel(
            "KV cache by router",
            "Share of the blocks in use.",
            (Query(once(f"expertmesh_kv_cache_usage_perc{{{ROUTER}}}"), "{{router}}"),),
            unit="percentunit",
            bounds=(0.8, 0.95),
            runbook="kv-cache-near-full",
        ),
        Panel(
            "Preemptions/s",
            "Requests that lost their KV blocks to older ones. Their tokens are computed again.",
            (Query(once(rate("num_preemptions_total", ROUTER)), "{{router}}"),),
            unit="cps",
            runbook="kv-cache-near-full",
        ),
        Panel(
            "Prefix cache hit rate",
            "Share of the admitted requests' tokens that were in the cache already, and were not computed.",
            (
                Query(
                    f"{once(rate('prefix_cache_hits_total', ROUTER))}"
                    f" / ({once(rate('prefix_cache_queries_total', ROUTER))} > 0)",
                    "{{router}}",
                ),
            ),
            unit="percentunit",
            states=ANSWERING,
        ),
        Panel(
            "Tokens of a step, p50 and p95",
            "How well steps are batched: prompt and decode tokens together.",
            tuple(
                Query(
                    quantile(number, once(rate("iteration_tokens_total_bucket", ROUTER), "le"), "router"),
                    f"{{{{router}}}} {number}",
                )
                for number in (0.5, 0.95)
            ),
            width=12,
            states=ANSWERING,
        ),
        Panel(
            "Step time, p95",
            "One engine step, by what it computed.",
            (
                Query(
                    quantile(0.95, once(rate("step_seconds_bucket", ROUTER), "kind", "le"), "router", "kind"),
                    "{{router}} {{kind}}",
                ),
            ),
            unit="s",
            width=12,
            states=ANSWERING,
        ),
    ),
)

ERRORS = Row(
    "Errors and alerts",
    (
        Panel(
            "Error ratio by window",
            "Failed through no fault of the client / all such requests. The budget is 0.1%; an alert looks at a long "
            "window and a short one together.",
            tuple(
                Query(f"model:expertmesh_request_errors:ratio_rate{window}{{{MODEL}}}", f"{{{{model}}}} {window}")
                for window in ("5m", "30m", "1h", "6h", "1d")
            ),
            unit="percentunit",
            width=12,
            runbook="error-budget-burn",
        ),
        Panel(
            "Firing alerts",
            "Each has a runbook of the same name.",
            (
                Query(
                    f"max by (alertname, severity, {KEYS}, shard, router, instance) "
                    f'(ALERTS{{alertname=~"ExpertMesh.+", alertstate="firing", {NAMESPACE}}})'
                ),
            ),
            Kind.TABLE,
            width=12,
            states=ALL - {State.HEALTHY},
        ),
    ),
)

BOARD = Board(
    "expertmesh-overview",
    "ExpertMesh: serving",
    "What clients get (throughput, latency, errors), and whether there is room for more.",
    (NOW, REQUESTS, LATENCY, ENGINE, ERRORS),
)
