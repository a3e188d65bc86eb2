"""Memory and size: what a sparse model loads against what it uses."""

from deploy.grafana.panel import Board, Kind, Panel, Query, Row
from deploy.grafana.promql import KEYS, MODEL, ROUTER

SIZE = Row(
    "The model",
    (
        Panel(
            "Parameters",
            "Total, and active: those used by one token, all of the router and K experts per layer.",
            (Query(f"max by ({KEYS}, kind) (expertmesh_parameters{{{ROUTER}}})", "{{model}} {{kind}}"),),
            Kind.STAT,
        ),
        Panel(
            "Active / total",
            "The share of the parameters that a token uses. A dense model has 100%.",
            (
                Query(
                    f'max by ({KEYS}) (expertmesh_parameters{{{ROUTER}, kind="active"}})'
                    f' / max by ({KEYS}) (expertmesh_parameters{{{ROUTER}, kind="total"}})',
                    "{{model}}",
                ),
            ),
            Kind.STAT,
            "percentunit",
        ),
        Panel(
            "Experts' share of the weights",
            "Bytes of experts / bytes of all weights, one router counted.",
            (
                Query(
                    f'sum by ({KEYS}) (max by ({KEYS}, shard) (expertmesh_weights_bytes{{{MODEL}, kind="expert"}}))'
                    f" / sum by ({KEYS}) (max by ({KEYS}, shard, kind) (expertmesh_weights_bytes{{{MODEL}}}))",
                    "{{model}}",
                ),
            ),
            Kind.STAT,
            "percentunit",
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        Panel(
            "Weights by kind",
            "Experts are on the shards, dense weights and shared experts on every router.",
            (
                Query(
                    f"sum by ({KEYS}, kind) "
                    f"(max by ({KEYS}, router, shard, kind) (expertmesh_weights_bytes{{{MODEL}}}))",
                    "{{kind}}",
                ),
            ),
            Kind.STACKED,
            "bytes",
        ),
        Panel(
            "Weights by shard",
            "Bytes that each process holds; a router's line has its name.",
            (
                Query(
                    f"sum by ({KEYS}, router, shard) "
                    f"(max by ({KEYS}, router, shard, kind) (expertmesh_weights_bytes{{{MODEL}}}))",
                    "{{shard}} {{router}}",
                ),
            ),
            unit="bytes",
        ),
        Panel(
            "KV cache",
            "Bytes reserved when the router started, and bytes in use.",
            (Query(f"max by ({KEYS}, router, kind) (expertmesh_kv_cache_bytes{{{ROUTER}}})", "{{router}} {{kind}}"),),
            unit="bytes",
            runbook="kv-cache-near-full",
        ),
    ),
)

BOARD = Board(
    "expertmesh-memory",
    "ExpertMesh: memory and size",
    "What the model loads against what a token uses, and where the memory is.",
    (SIZE, MEMORY),
)
