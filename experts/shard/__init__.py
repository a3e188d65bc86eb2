"""A shard: its experts' weights, and the two ways to reach it, in the process and on sockets."""
