"""What a router logs of its steps. Ties a step's tag to the ids of its requests: shards know only the tag.

A shard's line of a slow call has its counterpart here, by the same two times and the same threshold.
"""

import logging
from typing import Any

from experts.host.log import LoggingConfig, fields, step_name
from experts.phase import Phase
from router_service.engine.stall_log import request_ids
from router_service.engine.step_record import StepRecord

log = logging.getLogger(__name__)


class StepLog:
    """Looks at each step's record; where nothing was slow that is two comparisons."""

    def __init__(self, config: LoggingConfig) -> None:
        self._slow_step_ns = config.slow_step_seconds * 1e9
        self._slow_call_ns = config.slow_call_seconds * 1e9

    def observe(self, record: StepRecord) -> None:
        """Log the step if it was slow, if one of its calls was, or if everything is logged."""
        # No call is longer than its step, so the calls of a quick step need not be looked at.
        slow = self._slow_shards(record) if record.duration_ns > self._slow_call_ns else []
        if slow:
            log.warning("slow call", extra=fields(**_values(record), shards=slow))
        elif record.duration_ns > self._slow_step_ns:
            log.warning("slow step", extra=fields(**_values(record)))
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("step", extra=fields(**_values(record)))

    def _slow_shards(self, record: StepRecord) -> list[int]:
        """Shards that have logged a call of this step: they count queue and compute, and so is it done here."""
        calls = (call for trip in record.trace.trips for call in trip.calls)
        return sorted(
            {call.shard for call in calls if call.ns(Phase.QUEUE) + call.ns(Phase.COMPUTE) > self._slow_call_ns}
        )


def _values(record: StepRecord) -> dict[str, Any]:
    return {
        "step": step_name(record.tag),
        "kind": record.kind,
        "seconds": record.duration_ns / 1e9,
        "tokens": record.prompt_tokens + record.decode_tokens,
        "requests": len(record.requests),
        "request_ids": request_ids(record.requests),
    }
