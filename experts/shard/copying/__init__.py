"""Experts taken from another shard's memory instead of the checkpoint: as bytes, by pieces, between two shards."""
