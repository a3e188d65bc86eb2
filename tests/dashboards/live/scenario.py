"""What happens to a cluster while Prometheus watches: health, overload, lost shards, a lost router, skew, recovery."""

import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.panel import State
from tests.dashboards.live.checkpoints import SHARDS, write_even, write_skewed
from tests.dashboards.live.harm import kill_routers, slowed
from tests.dashboards.live.load import Load, cluster_state
from tests.dashboards.live.server import DISCOVERED, Prometheus, free_port, prometheus
from tests.dashboards.live.waiting import POLL_S, wait_until
from tests.e2e.server import Server, serving

# Ten minutes of production, and what the largest window of an instant needs to fill.
HEALTHY_S = 45.0
# As long as a mean over five minutes of production remembers, so that what is seen then is of the even cluster alone.
RECOVERED_S = 25.0
ALERT_S = 120.0
REPLACED_S = 90.0
VICTIM = 1
CONFIG = {
    "metrics": {"per_layer": True, "per_expert": True},
    # 128 blocks of KV cache and short waits, so that a burst and a dead shard show soon.
    "router": {"kv_cache_tokens": 2048, "unavailable_wait_seconds": 4.0},
    "experts": {"call_timeout_seconds": 1.0, "shards": SHARDS},
}


@dataclass
class Record:
    """What was seen. Moments are in Prometheus' time; it still runs and can be asked about any of them.

    `page` is the metrics page in good health, `discovered` shards as another Prometheus saw them, which asked /sd.
    """

    prometheus: Prometheus
    instants: dict[State, float] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    page: str = ""
    discovered: list[dict[str, Any]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """Note that something begins or ends now."""
        self.marks[name] = time.time()

    def wait_for(self, *alerts: str, firing: bool = True) -> None:
        """Wait until all alerts fire, or none does. The tests judge what came too late, so this does not raise."""
        deadline = time.monotonic() + ALERT_S
        while time.monotonic() < deadline:
            now = self.prometheus.firing()
            if set(alerts) <= now if firing else not set(alerts) & now:
                return
            time.sleep(POLL_S)


@contextmanager
def played(folder: Path) -> Iterator[Record]:
    """Play everything once; Prometheus answers until the block ends."""
    even, skewed, port = folder / "even" / "tiny", folder / "skewed" / "tiny", free_port()
    write_even(even)
    write_skewed(skewed)
    with prometheus(folder, f"127.0.0.1:{port}") as server:
        record = Record(server)
        with _cluster(even, port) as cluster, Load(cluster.target) as load:
            with prometheus(folder / "discovered", f"127.0.0.1:{port}", DISCOVERED) as other:
                _healthy(record, cluster)
                record.discovered = other.query("expertmesh_shard_up", time.time())
            _slow(record, cluster)
            _overload(record, load)
            _lose_a_shard(record, cluster)
            _lose_it_again(record, cluster)
            _lose_the_router(record, cluster)
            record.mark("target gone")
        with _cluster(skewed, port) as cluster, Load(cluster.target):
            record.mark("target back")
            _skewed(record)
        with _cluster(even, port) as cluster, Load(cluster.target):
            record.mark("skew ends")
            record.wait_for("ExpertMeshImbalanceHigh", "ExpertMeshDeadExperts", firing=False)
            time.sleep(RECOVERED_S)
            record.mark("end")
        yield record


@contextmanager
def _cluster(checkpoint: Path, port: int) -> Iterator[Server]:
    config = checkpoint.parent / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    log = checkpoint.parent / f"log-{time.time():.0f}"
    with serving(str(checkpoint), "--config", str(config), "--metrics-port", str(port), log=log) as server:
        yield server


def _healthy(record: Record, cluster: Server) -> None:
    record.wait_for("ExpertMeshTargetMissing", firing=False)
    record.mark("health begins")
    time.sleep(HEALTHY_S)
    record.mark("health ends")
    record.instants[State.HEALTHY] = time.time()
    with urllib.request.urlopen(cluster.metrics, timeout=10) as response:
        record.page = response.read().decode()


def _slow(record: Record, cluster: Server) -> None:
    """One shard answers late: its dispatch and queue grow, everyone waits for it."""
    record.mark("shard slows")
    with slowed(_shard_pid(cluster)):
        record.wait_for("ExpertMeshAllToAllOverheadHigh")
    record.mark("shard is fast")


def _overload(record: Record, load: Load) -> None:
    record.mark("overload begins")
    load.burst(True)
    record.wait_for("ExpertMeshKVCacheNearFull", "ExpertMeshQueueGrowing")
    load.burst(False)
    record.mark("overload ends")
    record.wait_for("ExpertMeshKVCacheNearFull", "ExpertMeshQueueGrowing", firing=False)


def _lose_a_shard(record: Record, cluster: Server) -> None:
    """Stop a shard's process, as a hung device does: it neither answers nor dies, until Serve replaces it."""
    victim = _shard_pid(cluster)
    record.mark("shard hangs")
    os.kill(victim, signal.SIGSTOP)
    record.wait_for("ExpertMeshShardDown")
    record.instants[State.DEAD] = time.time()
    record.wait_for("ExpertMeshErrorBudgetBurn/1h")
    _await_replacement(cluster, victim)
    record.mark("shard back")
    record.wait_for("ExpertMeshShardDown", "ExpertMeshErrorBudgetBurn/1h", firing=False)


def _lose_it_again(record: Record, cluster: Server) -> None:
    record.mark("shard restarts")
    for _ in range(2):
        victim = _shard_pid(cluster)
        os.kill(victim, signal.SIGKILL)
        _await_replacement(cluster, victim)
    record.wait_for("ExpertMeshShardRestarting")
    record.mark("shard stays")


def _lose_the_router(record: Record, cluster: Server) -> None:
    """Kill the router and every successor, until that is noticed: Serve would have a new one in four seconds."""
    record.mark("router gone")
    deadline = time.monotonic() + ALERT_S
    while "ExpertMeshRouterNotReady" not in record.prometheus.firing() and time.monotonic() < deadline:
        kill_routers(cluster)
        time.sleep(POLL_S)
    wait_until("a new router", REPLACED_S, lambda: bool(cluster_state(cluster.target).routers))
    record.mark("router back")
    record.wait_for("ExpertMeshRouterNotReady", firing=False)


def _skewed(record: Record) -> None:
    record.mark("skew begins")
    record.wait_for("ExpertMeshImbalanceHigh", "ExpertMeshDeadExperts")
    record.instants[State.SKEWED] = time.time()


def _shard_pid(cluster: Server) -> int:
    return next(s.pid for s in cluster_state(cluster.target).shards if s.shard == VICTIM)


def _await_replacement(cluster: Server, victim: int) -> None:
    def replaced() -> bool:
        state = cluster_state(cluster.target)
        return any(s.shard == VICTIM and s.state == "ready" and s.pid != victim for s in state.shards)

    wait_until(f"a replacement of shard {VICTIM}", REPLACED_S, replaced)
