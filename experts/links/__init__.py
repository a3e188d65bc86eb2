"""A router's links to the shards: what state each is in, and what failures have cost."""
