"""What a router counts, in plain arrays, and the Prometheus series made of it."""
