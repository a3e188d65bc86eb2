"""What a shard holds of each layer, and what brings it there."""
