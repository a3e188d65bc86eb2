"""What a router logs when it loses a shard and when it is back, with the ids of the requests that waited."""

import logging
from collections.abc import Iterable, Mapping

from experts.host.log import MAX_IDS, fields, step_name
from experts.transport.base import ShardUnavailable
from router_service.engine.request import Request

log = logging.getLogger(__name__)


def request_ids(requests: Iterable[Request]) -> list[str]:
    """The ids, at most as many as a line should hold."""
    return [request.request_id for request in requests][:MAX_IDS]


def log_lost(step: int, failures: Mapping[int, ShardUnavailable], stalled: list[Request]) -> None:
    """Log the shards that did not reply in this step; `stalled` wait for them."""
    for shard, failure in failures.items():
        values = {"reason": failure.reason, "stalled": len(stalled), "request_ids": request_ids(stalled)}
        log.warning("shard %d lost: %s", shard, failure, extra=fields(step=step_name(step), **values))


def log_back(shards: Iterable[int], requests: Iterable[Request]) -> None:
    """Log that all missing shards are back; those of `requests` that waited continue."""
    stalled = [request for request in requests if request.stalled_since]
    values = {"shards": sorted(shards), "stalled": len(stalled), "request_ids": request_ids(stalled)}
    log.info("shards are back", extra=fields(**values))
