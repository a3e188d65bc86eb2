"""Shared parts of the Front's HTTP servers: guard, bodies, authentication, server-sent events, assets."""
