"""Authentication, limits of callers, and TLS certificates."""
