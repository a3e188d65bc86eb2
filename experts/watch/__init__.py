"""Keeps a router connected to its shards, and watches whether they live."""
