"""Expert balance: how evenly tokens spread over shards and experts, each measure under its own name."""

from deploy.grafana.panel import ANSWERING, MOVED, Board, Kind, Panel, Query, Row
from deploy.grafana.promql import KEYS, MODEL, ROUTER, SHARD, increase, once, quantile, rate, told

SHARDS = Row(
    "Over shards",
    (
        Panel(
            "Balancedness",
            "Mean over layers of (mean / max over shards) of the last minute's tokens. 1 is perfect, 1 / shards the "
            "worst. Its inverse is the busiest shard's load as a multiple of its even share.",
            (
                Query(once(f"expertmesh_balancedness{{{ROUTER}}}"), "{{router}}"),
                Query(f"model:expertmesh_balancedness:avg5m{{{MODEL}}}", "{{model}} 5 min"),
            ),
            unit="percentunit",
            runbook="imbalance-high",
        ),
        Panel(
            "Max / mean of a window's tokens",
            "max over shards / mean over shards of the tokens of all layers together. Layers whose busiest "
            "shards differ cancel out here: compare with balancedness.",
            tuple(
                Query(f"model:expertmesh_shard_tokens:max_over_mean{window}{{{MODEL}}}", f"{{{{model}}}} {window}")
                for window in ("5m", "1h", "6h")
            ),
            runbook="imbalance-high",
        ),
        Panel(
            "Max / mean of a single call",
            "Per layer call: max / mean of (token, expert) pairs over shards; median, p95 and mean over calls. Small "
            "batches are uneven by nature.",
            (
                *(
                    Query(
                        quantile(number, once(rate("shard_load_imbalance_bucket", ROUTER), "le")),
                        f"{{{{model}}}} {number}",
                    )
                    for number in (0.5, 0.95)
                ),
                Query(f"model:expertmesh_shard_load_imbalance:mean5m{{{MODEL}}}", "{{model}} mean, 5 min"),
            ),
            states=ANSWERING,
        ),
        Panel(
            "Pairs/s by shard",
            "(token, expert) pairs that each shard computed, counted by the shard.",
            (Query(f"shard:expertmesh_shard_tokens:rate5m{{{SHARD}}}", "{{shard}}"),),
            Kind.STACKED,
            width=12,
        ),
        Panel(
            "Max / mean of single calls, all of them",
            "Layer calls per second in each bucket of max / mean over shards.",
            (Query(f"sum by (le) ({once(rate('shard_load_imbalance_bucket', ROUTER), 'le')})", "{{le}}"),),
            Kind.HEATMAP,
            width=12,
        ),
    ),
)

EXPERTS = Row(
    "Over experts",
    (
        Panel(
            "Max / mean over experts",
            "The last minute's tokens of a layer: max / mean over its experts. With metrics.per_layer one line a "
            "layer, else the mean over layers.",
            (Query(once(f"expertmesh_expert_load_imbalance{{{ROUTER}}}", "layer"), "{{router}} {{layer}}"),),
        ),
        Panel(
            "MaxVio",
            "Mean over layers of (max - mean) / mean over experts, last minute (arXiv 2408.15664). 0 is perfect.",
            (Query(once(f"expertmesh_max_violation{{{ROUTER}}}"), "{{router}}"),),
        ),
        Panel(
            "Entropy of the load",
            "Entropy of a layer's expert load / log(number of experts), last minute. 1 is perfectly even.",
            (Query(once(f"expertmesh_router_entropy_ratio{{{ROUTER}}}", "layer"), "{{router}} {{layer}}"),),
            unit="percentunit",
        ),
        Panel(
            "Dead experts",
            "Experts without a token in the last minute, once it holds 32 tokens per expert.",
            (
                Query(once(f"expertmesh_dead_experts{{{ROUTER}}}", "layer"), "{{router}} {{layer}}"),
                Query(f"model:expertmesh_dead_experts:sum{{{MODEL}}}", "{{model}} all layers"),
            ),
            width=12,
            runbook="dead-experts",
        ),
        Panel(
            "The ten busiest experts",
            "Tokens/s by layer and expert. Needs metrics.per_expert.",
            (
                Query(
                    f"topk(10, sum by ({KEYS}, layer, expert) "
                    f"({once(rate('expert_tokens_total', ROUTER), 'layer', 'expert')}))",
                    "layer {{layer}} expert {{expert}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Layer x expert",
            "Tokens of an expert / mean over its layer's experts, in the time shown; rows are layers, columns "
            "experts. 1 is an even share. Needs metrics.per_expert, which exports the metrics.top_experts busiest "
            "of each layer: a hole is a quiet expert, and the mean is of those exported. Choose one namespace and "
            "one model above.",
            (
                Query(
                    f"sum by ({KEYS}, layer, expert) "
                    f"({once(increase('expert_tokens_total', ROUTER), 'layer', 'expert')})"
                    f" / on ({KEYS}, layer) group_left () avg by ({KEYS}, layer) (sum by ({KEYS}, layer, expert) "
                    f"({once(increase('expert_tokens_total', ROUTER), 'layer', 'expert')}))"
                ),
            ),
            Kind.MATRIX,
            width=24,
            bounds=(1.5, 3),
            rows="layer",
            columns="expert",
        ),
    ),
)

BALANCER = Row(
    "Balance",
    (
        Panel(
            "Imbalance, and moves",
            "The busiest shard's load as a multiple of its even share, 1 / balancedness, of the placement in use: a "
            "move that pays lowers it. moving is 1 while shards load and routers change over.",
            (
                Query(f"1 / {once(f'expertmesh_balancedness{{{ROUTER}}}')}", "{{router}}"),
                Query(told(f"expertmesh_migration_in_progress{{{MODEL}}}"), "{{model}} moving"),
            ),
            runbook="migration-stuck",
        ),
        Panel(
            "Gain, promised and given",
            "The part of the slowest shard's time that the last move in effect promised to save, and has saved. The "
            "second is known once enough was routed.",
            (
                Query(told(f"expertmesh_rebalance_predicted_gain_ratio{{{MODEL}}}"), "{{model}} promised"),
                Query(told(f"expertmesh_rebalance_measured_gain_ratio{{{MODEL}}}"), "{{model}} given"),
            ),
            unit="percentunit",
            runbook="balancer-gain-missed",
            states=MOVED,
        ),
        Panel(
            "Epoch, decided and in use",
            "Of the placement that the control plane has decided on, and of the one that each router uses. A router "
            "that stays behind keeps a move from ending.",
            (
                Query(told(f"expertmesh_placement_decided_epoch{{{MODEL}}}"), "{{model}} decided"),
                Query(once(f"expertmesh_placement_epoch{{{ROUTER}}}"), "{{router}}"),
            ),
            runbook="migration-stuck",
        ),
        Panel(
            "Copies by shard",
            "Experts that each shard holds, over all layers; an expert on two shards counts on both.",
            (Query(told(f"expertmesh_expert_replicas{{{SHARD}}}", "shard"), "{{shard}}"),),
            Kind.STACKED,
        ),
        Panel(
            "Copies moved",
            "Copies of experts that shards took over in five minutes.",
            (Query(f"model:expertmesh_experts_moved:increase5m{{{MODEL}}}", "{{model}}"),),
        ),
        Panel(
            "Shards, wanted and up",
            "Shards that there are to be, and those that a router reaches. A shard that is still empty counts once it "
            "is reached.",
            (
                Query(told(f"expertmesh_shards_wanted{{{MODEL}}}"), "{{model}} wanted"),
                Query(f"sum by ({KEYS}) ({told(f'expertmesh_shard_up{{{MODEL}}}', 'shard')})", "{{model}} up"),
            ),
        ),
        Panel(
            "Since the balancer's last look",
            "Seconds, and after how many the balancer counts as dead: five intervals.",
            (
                Query(f"model:expertmesh_balancer_last_run:age_seconds{{{MODEL}}}", "{{model}}"),
                Query(f"5 * {told(f'expertmesh_balancer_interval_seconds{{{MODEL}}}')}", "{{model}} at most"),
            ),
            unit="s",
            width=12,
            runbook="balancer-dead",
        ),
        Panel(
            "Looks by result",
            "What the balancer's looks at the load led to, in the time shown. failed includes moves given up.",
            (Query(told(increase("balancer_runs_total", MODEL), "result"), "{{result}}"),),
            Kind.STAT,
            width=12,
            runbook="migration-failed",
        ),
    ),
)

BOARD = Board(
    "expertmesh-balance",
    "ExpertMesh: expert balance",
    "How evenly tokens spread over shards and experts. Each measure's formula is in its panel's description.",
    (SHARDS, EXPERTS, BALANCER),
)
