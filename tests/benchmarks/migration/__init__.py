"""Experts that move under load: the parts of `bench_migration`."""
