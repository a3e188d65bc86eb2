"""Connections to routers, and the streams on them."""
