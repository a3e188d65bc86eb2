"""Placements compared: baselines, loads, recordings of the bundled model's routing."""
