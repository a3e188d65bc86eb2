"""What a router logs of its steps. A line relates the step's tag to its request ids, because shards only know the tag.

A shard's line about a slow call has its counterpart here: both compare queue plus compute with the same threshold.
"""

import logging
from typing import Any

from experts.host.log import LoggingConfig, fields, step_name
from experts.timing.phase import Phase
from router_service.engine.stall_log import request_ids
from router_service.engine.step.step_record import StepRecord

log = logging.getLogger(__name__)


class StepLog:
    """Looks at each step's record, at the cost of two comparisons if nothing was slow."""

    def __init__(self, config: LoggingConfig) -> None:
        self._slow_step_ns = config.slow_step_seconds * 1e9
        self._slow_call_ns = config.slow_call_seconds * 1e9

    def observe(self, record: StepRecord) -> None:
        """Log the step if it or one of its calls was slow, or at level DEBUG."""
        # No call is longer than its step, so the calls of a quick step need not be looked at.
        slow = self._slow_shards(record) if record.duration_ns > self._slow_call_ns else []
        if slow:
            log.warning("slow call", extra=fields(**_values(record), shards=slow))
        elif record.duration_ns > self._slow_step_ns:
            log.warning("slow step", extra=fields(**_values(record)))
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("step", extra=fields(**_values(record)))

    def _slow_shards(self, record: StepRecord) -> list[int]:
        """Shards that have logged a slow call of this step: as they do, it adds queue and compute."""
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
