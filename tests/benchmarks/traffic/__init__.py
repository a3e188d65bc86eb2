"""The rows of `bench_traffic`, and what they share."""
