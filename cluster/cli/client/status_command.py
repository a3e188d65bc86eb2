"""`expertmesh status`: a table of a running cluster's shards and routers, and what its balancer does."""

import argparse
import json
import time

from cluster.cli.client.balance_text import UNHEARD, balance_lines
from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.generate_command import Subparsers
from cluster.cli.client.plain import plain
from cluster.table import duration, size, table
from experts.timing.phase import PHASES
from router_service.protocol import cluster_pb2 as pb

TIMEOUT_S = 10.0
SHARD_COLUMNS = ("shard", "replica", "state", "node", "pid", "experts", "copies", "epoch", "memory", "rows/s")
SHARD_HEADER = (*SHARD_COLUMNS, *PHASES, "imbalance")
ROUTER_HEADER = ("router", "running", "waiting", "kv cache", "tokens/s", "all-to-all", "shard imb.", "expert imb.")
NONE = "-"


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", help="show shards, experts, memory, rows/s, phase times and imbalance")
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_status(args), args.target)


async def _status(args: argparse.Namespace) -> None:
    async with client_of(args) as client:
        state = await client.cluster(timeout=TIMEOUT_S)
    print(json.dumps(plain(state), ensure_ascii=False) if args.json else render(state, time.time()))


def render(state: pb.ClusterState, now: float) -> str:
    """Return the tables of a cluster's shards and routers, and lines about its balancer; `-` stands for what is not
    known. `now` is in seconds since 1970.
    """
    shards = table(SHARD_HEADER, [_shard(shard) for shard in state.shards], left=4)
    routers = table(ROUTER_HEADER, [_router(router) for router in state.routers])
    faults = [f"shard {shard.shard} {shard.replica}: {shard.last_error}" for shard in state.shards if shard.last_error]
    balance = list(balance_lines(state.balance, now)) if state.HasField("balance") else [UNHEARD]
    return "\n".join([f"model {state.model}", "", shards, "", routers, "", *balance, *faults])


def _shard(shard: pb.Shard) -> list[str]:
    busy = shard.HasField("phase_seconds")
    phases = [duration(getattr(shard.phase_seconds, phase)) if busy else NONE for phase in PHASES]
    return [
        str(shard.shard),
        shard.replica or NONE,
        shard.state,
        shard.node[:12] or NONE,
        str(shard.pid or NONE),
        str(shard.experts),
        str(shard.copies) if shard.HasField("copies") else NONE,
        str(shard.epoch or NONE),
        size(shard.weights_bytes),
        f"{shard.rows_per_second:.1f}" if shard.HasField("rows_per_second") else NONE,
        *phases,
        f"{shard.imbalance:.2f}" if shard.HasField("imbalance") else NONE,
    ]


def _router(router: pb.Router) -> list[str]:
    used = router.kv_blocks_used / router.kv_blocks_total if router.kv_blocks_total else 0.0
    return [
        router.router,
        str(router.running),
        str(router.waiting),
        f"{used:.1%}",
        f"{router.decode_tokens_per_second:.1f}",
        f"{router.overhead_ratio:.1%}" if router.HasField("overhead_ratio") else NONE,
        f"{router.shard_imbalance:.2f}" if router.HasField("shard_imbalance") else NONE,
        f"{router.expert_imbalance:.2f}" if router.HasField("expert_imbalance") else NONE,
    ]
