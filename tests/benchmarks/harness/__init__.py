"""What the benchmarks share: checkpoints, the sides that they compare, processes and reports."""
