"""How a layer's (token, expert) pairs are divided into parts, each asked of one shard and answered as one."""
