"""The Front's telemetry of requests: metrics, log lines, spans."""
