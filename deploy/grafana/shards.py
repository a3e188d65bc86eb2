"""Shards: which are up, which restart, which peers are refused, and what their failures cost."""

from deploy.grafana.panel import Board, Kind, Panel, Query, Row
from deploy.grafana.promql import KEYS, MODEL, NAMESPACE, ROUTER, ROUTER_SHARD, SHARD, increase, once, rate

UP = Row(
    "Availability",
    (
        Panel(
            "Shards, as each router sees them",
            "Whether a router reaches a shard's last known replica.",
            (
                Query(
                    once(f"expertmesh_shard_up{{{ROUTER_SHARD}}}", "shard", "replica"),
                    "{{shard}} {{replica}} by {{router}}",
                ),
            ),
            Kind.STATES,
            width=12,
            runbook="shard-down",
        ),
        Panel(
            "Routers and Fronts",
            "A router is ready when it reaches every shard; a target is a Front's metrics page.",
            (
                Query(once(f"expertmesh_router_ready{{{ROUTER}}}"), "router {{router}}"),
                Query(f'up{{job="expertmesh", {NAMESPACE}}}', "{{instance}}"),
            ),
            Kind.STATES,
            width=12,
            runbook="router-not-ready",
        ),
        Panel(
            "Restarts",
            "Replaced shard processes, in the time shown.",
            (
                Query(
                    f"max by ({KEYS}, shard) ({increase('shard_restarts_total', ROUTER_SHARD)})",
                    "{{shard}}",
                ),
            ),
            Kind.STAT,
            runbook="shard-restarting",
        ),
        Panel(
            "Reconnects",
            "Connections to a shard after the first one, in the time shown.",
            (
                Query(
                    f"sum by ({KEYS}, shard) ({once(increase('dataplane_reconnects_total', ROUTER_SHARD), 'shard')})",
                    "{{shard}}",
                ),
            ),
            Kind.STAT,
        ),
        Panel(
            "Routers linked, of configured",
            "Routers that each Front is connected to, and how many there should be. One that never gets ready shows "
            "only here.",
            (
                Query(f"max by ({KEYS}, instance) (expertmesh_routers_linked{{{MODEL}}})", "{{instance}}"),
                Query(f"max by ({KEYS}) (expertmesh_routers_configured{{{MODEL}}})", "configured"),
            ),
            Kind.STAT,
            bounds=(1, 0.5),
            runbook="routers-missing",
        ),
    ),
)

FAILURE = Row(
    "Failure",
    (
        Panel(
            "Links by state",
            "Links of routers to shards. suspect: beats or an answer are late, and calls go elsewhere as well.",
            (
                Query(
                    f"sum by ({KEYS}, state) "
                    f"({once(f'expertmesh_shard_link_state{{{ROUTER_SHARD}}}', 'shard', 'state')})",
                    "{{state}}",
                ),
            ),
            Kind.STACKED,
            runbook="link-suspect",
        ),
        Panel(
            "Living copies",
            "The least number of reachable shards that hold one of a shard's experts, by the router that reaches "
            "fewest; and experts without any.",
            (
                Query(f"min by ({KEYS}, shard) (expertmesh_expert_copies{{{ROUTER_SHARD}}})", "{{shard}}"),
                Query(f"max by ({KEYS}) (expertmesh_experts_unavailable{{{ROUTER}}})", "experts without a copy"),
            ),
            runbook="experts-unavailable",
        ),
        Panel(
            "Placement epoch",
            "Of the placement that each router works by. They differ for a moment while it changes.",
            (Query(once(f"expertmesh_placement_epoch{{{ROUTER}}}"), "{{router}}"),),
            Kind.STAT,
        ),
        Panel(
            "Failovers/s by reason",
            "Layer calls that were repeated on another shard.",
            (
                Query(
                    f"sum by ({KEYS}, reason) ({once(rate('failovers_total', ROUTER), 'reason')})",
                    "{{reason}}",
                ),
            ),
            Kind.STACKED,
            runbook="failovers-frequent",
        ),
        Panel(
            "Failover time",
            "Failovers per second in each bucket of seconds, from the fault seen to the layer's answer complete.",
            (Query(f"sum by (le) ({once(rate('failover_seconds_bucket', ROUTER), 'le')})", "{{le}}"),),
            Kind.HEATMAP,
        ),
        Panel(
            "Calls/s, and what is hedged",
            "hedged: sent while another replica was still expected to answer. won: answered first. late: answers that "
            "nobody waited for. cancelled: calls whose answer had come from elsewhere.",
            tuple(
                Query(f"sum by ({KEYS}) ({once(rate(f'{series}_total', ROUTER))})", f"{{{{model}}}} {legend}")
                for series, legend in (
                    ("asks", "all"),
                    ("hedged_asks", "hedged"),
                    ("hedged_asks_won", "won"),
                    ("late_answers", "late"),
                    ("cancelled_asks", "cancelled"),
                )
            ),
            runbook="hedged-asks-high",
        ),
        Panel(
            "Suspicions/s",
            "Links that became suspect, and those that were found to live.",
            tuple(
                Query(f"sum by ({KEYS}) ({once(rate(f'{series}_total', ROUTER))})", f"{{{{model}}}} {legend}")
                for series, legend in (("suspicions", "suspected"), ("suspicions_forgiven", "forgiven"))
            ),
            width=12,
            runbook="link-suspect",
        ),
        Panel(
            "Tokens/s that lost an expert",
            "By the policy that decided. drop and next_best go on with degraded tokens; wait and fail do not.",
            (
                Query(
                    f"sum by ({KEYS}, policy) ({once(rate('fallback_tokens_total', ROUTER), 'policy')})",
                    "{{policy}}",
                ),
            ),
            Kind.STACKED,
            width=12,
            runbook="degraded-tokens",
        ),
    ),
)

WORK = Row(
    "Load",
    (
        Panel(
            "Busy: compute time per second",
            "Seconds per second in which a shard computes. 1 is a shard that is never idle.",
            (
                Query(
                    f"sum by ({KEYS}, shard) ({once(rate('expert_compute_seconds_total', ROUTER_SHARD), 'shard')})",
                    "{{shard}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            "Waiting before compute",
            "Mean seconds of a call in a shard's queue.",
            (
                Query(
                    f'shard_phase:expertmesh_alltoall_phase_seconds:mean5m{{{SHARD}, phase="queue"}}',
                    "{{shard}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Refused connections",
            "Unauthenticated peers and invalid frames, in the time shown.",
            (
                Query(
                    f"sum by ({KEYS}, shard, reason) (max by ({KEYS}, router, shard, reason) "
                    f"({increase('dataplane_rejected_connections_total', MODEL)}))",
                    "{{shard}} {{reason}}",
                ),
            ),
            Kind.STAT,
        ),
    ),
)

START = Row(
    "Starting",
    (
        Panel(
            "Time to load the weights",
            "Of each shard's last start, and the router's.",
            (Query(f"max by ({KEYS}, shard) (expertmesh_checkpoint_load_seconds{{{MODEL}}})", "{{shard}}"),),
            Kind.STAT,
            "s",
            12,
        ),
        Panel(
            "Loading speed",
            "Bytes kept / seconds, of the last start.",
            (
                Query(
                    f"max by ({KEYS}, shard) (expertmesh_checkpoint_load_bytes_total{{{MODEL}}})"
                    f" / max by ({KEYS}, shard) (expertmesh_checkpoint_load_seconds{{{MODEL}}})",
                    "{{shard}}",
                ),
            ),
            Kind.STAT,
            "Bps",
            12,
        ),
    ),
)

BOARD = Board(
    "expertmesh-shards",
    "ExpertMesh: shards",
    "Which shards are up, which restart, what their failures cost, how busy each one is.",
    (UP, FAILURE, WORK, START),
)
