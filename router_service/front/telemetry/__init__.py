"""What the Front tells of requests: metrics, log lines, spans."""
