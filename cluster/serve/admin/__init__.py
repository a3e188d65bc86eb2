"""What a Front needs to act for operators: calls of the balancer, and what it last reported."""
