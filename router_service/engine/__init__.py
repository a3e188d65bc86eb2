"""The engine: schedule, forward, sample. One thread drives it; no sockets."""
