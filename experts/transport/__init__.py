"""Ways to carry frames between a router and its shards."""
