"""Opens the record of each request, with metrics, log and (if sampled) spans as its listeners."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from experts.host.log import current_request
from router_service.front.telemetry.metrics import FrontMetrics, RequestMetrics
from router_service.front.telemetry.request_log import RequestLog
from router_service.front.telemetry.request_record import RequestRecord, log_observer_fault
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import new_request_id, shown_request_id

if TYPE_CHECKING:
    from router_service.front.telemetry.spans import Tracer


class RequestTelemetry:
    """The observers of requests. `tracer` is None if tracing is off."""

    def __init__(self, metrics: FrontMetrics, tracer: "Tracer | None") -> None:
        self._listeners = (RequestLog(),)
        self._counters = (RequestMetrics(metrics),)
        self._tracer = tracer

    def begin(self, request: pb.GenerateRequest, metadata: Mapping[str, str], request_id: str = "") -> RequestRecord:
        """Return the record of a new request; without `request_id` it gets one, see `new_request_id`.

        From now on log lines of the running task carry the id.
        """
        request_id = request_id or new_request_id(request.request_id, metadata)
        shown = shown_request_id(request_id)
        current_request.set(shown)
        record = RequestRecord(request_id, asyncio.get_running_loop().time, self._listeners, self._counters)
        try:
            # A fault of tracing must not fail the request.
            if self._tracer is not None and (spans := self._tracer.begin(request, shown, metadata)) is not None:
                record.listen(spans, spans.trace_id)
        except Exception as error:
            log_observer_fault(type(self._tracer).__name__, error)
        return record
