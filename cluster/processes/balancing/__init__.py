"""The balancer beside the registry: what it is told there, what it does there, and when."""
