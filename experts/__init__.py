"""What an expert is and how to reach it: weights, transports, shard worker, pool."""
