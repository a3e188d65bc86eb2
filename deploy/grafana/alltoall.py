"""All-to-all: what the exchange with the experts costs, by shard and phase."""

from deploy.grafana.panel import ANSWERING, Board, Kind, Panel, Query, Row
from deploy.grafana.promql import COMPUTE, KEYS, ROUTER, ROUTER_SHARD, SHARD, mean, once, quantile, rate

PHASE_TEXT = (
    "pack: grouping and copying on the router. dispatch: from the router's send to the last byte received by the "
    "shard. queue, compute: on the shard. combine: from the shard's send to the last byte received by the router. "
    "reduce: adding the partial sums. They add up to the call."
)
STEP_TIME = f"(sum by ({KEYS}, router) ({once(rate('step_seconds_sum', ROUTER), 'kind')}) > 0)"


def _share(series: str) -> str:
    return f"{once(rate(series, ROUTER))} / {STEP_TIME}"


OVERHEAD = Row(
    "What it costs",
    (
        Panel(
            "Overhead ratio",
            "Wait that is not expert compute, plus pack and reduce, over step time: the router's last minute, and the "
            "mean of five.",
            (
                Query(once(f"expertmesh_alltoall_overhead_ratio{{{ROUTER}}}"), "{{router}}"),
                Query(f"router:expertmesh_alltoall_overhead_ratio:avg5m{{{ROUTER}}}", "{{router}} 5 min"),
            ),
            unit="percentunit",
            runbook="alltoall-overhead-high",
        ),
        Panel(
            "Where step time goes",
            "Shares of the stages; they add up to 1. wait is for experts, their compute included.",
            (
                Query(
                    f"avg by ({KEYS}, stage) (router_stage:expertmesh_step_stage:ratio_rate5m{{{ROUTER}}})",
                    "{{model}} {{stage}}",
                ),
            ),
            Kind.STACKED,
            "percentunit",
        ),
        Panel(
            "Exposed wait and stragglers",
            "Shares of step time. Exposed: waiting for experts with nothing else to do, their compute included. "
            "Straggler: the slowest shard's reply minus the mean of all replies.",
            (
                Query(_share("alltoall_exposed_seconds_total"), "{{router}} exposed"),
                Query(_share("straggler_wait_seconds_total"), "{{router}} straggler"),
            ),
            unit="percentunit",
            states=ANSWERING,
            runbook="alltoall-overhead-high",
        ),
    ),
)

PHASES = Row(
    "Phases of a call, by shard",
    (
        Panel(
            "Shard $shard: mean call",
            PHASE_TEXT,
            (Query(mean("alltoall_phase_seconds", ROUTER_SHARD, "shard", "phase"), "{{phase}}"),),
            Kind.STACKED,
            "s",
            12,
            repeat="shard",
            states=ANSWERING,
        ),
        Panel(
            "Phases over five minutes",
            PHASE_TEXT,
            (Query(f"shard_phase:expertmesh_alltoall_phase_seconds:mean5m{{{SHARD}}}", "{{shard}} {{phase}}"),),
            unit="s",
            width=12,
        ),
        Panel(
            "Phases, p99",
            PHASE_TEXT,
            (
                Query(
                    quantile(
                        0.99,
                        once(rate("alltoall_phase_seconds_bucket", ROUTER_SHARD), "shard", "phase", "le"),
                        "shard",
                        "phase",
                    ),
                    "{{shard}} {{phase}}",
                ),
            ),
            unit="s",
            width=12,
            states=ANSWERING,
        ),
        Panel(
            "In transit: dispatch and combine together",
            "Mean seconds of a call that its data are in transit. Across hosts this sum is exact; its split into the "
            "two depends on an estimated clock offset.",
            (
                Query(
                    f"sum by ({KEYS}, shard) (shard_phase:expertmesh_alltoall_phase_seconds:mean5m"
                    f'{{{SHARD}, phase=~"dispatch|combine"}})',
                    "{{shard}}",
                ),
            ),
            unit="s",
            width=12,
        ),
        Panel(
            "Clock error",
            "Bound on the time that may be attributed to dispatch instead of combine, or the reverse; 0 on one host.",
            (
                Query(
                    once(f"expertmesh_clock_offset_error_seconds{{{ROUTER_SHARD}}}", "shard"), "{{router}} to {{shard}}"
                ),
            ),
            unit="s",
            width=12,
        ),
    ),
)

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Bytes/s",
            "On the wire, headers included.",
            (
                Query(
                    f"sum by ({KEYS}, shard, direction) "
                    f"({once(rate('alltoall_bytes_total', ROUTER_SHARD), 'shard', 'direction')})",
                    "{{shard}} {{direction}}",
                ),
            ),
            unit="Bps",
        ),
        Panel(
            "Calls/s and rows/s",
            "Calls of a layer, and token rows sent: a token goes once to a shard and layer.",
            (
                Query(
                    f"sum by ({KEYS}, shard) ({once(rate('alltoall_phase_seconds_count', COMPUTE), 'shard')})",
                    "{{shard}} calls",
                ),
                Query(
                    f"sum by ({KEYS}, shard) ({once(rate('alltoall_rows_total', ROUTER_SHARD), 'shard')})",
                    "{{shard}} rows",
                ),
            ),
        ),
        Panel(
            "Experts per row",
            "(token, expert) pairs / rows. At most the number of experts of a token; more means less traffic for the "
            "same work.",
            (
                Query(
                    f"sum by ({KEYS}, shard) ({once(rate('alltoall_assignments_total', ROUTER_SHARD), 'shard')})"
                    f" / (sum by ({KEYS}, shard) ({once(rate('alltoall_rows_total', ROUTER_SHARD), 'shard')}) > 0)",
                    "{{shard}}",
                ),
            ),
            states=ANSWERING,
        ),
    ),
)

BOARD = Board(
    "expertmesh-alltoall",
    "ExpertMesh: all-to-all",
    "What the exchange with the experts costs, which shard, which phase.",
    (OVERHEAD, PHASES, TRAFFIC),
)
