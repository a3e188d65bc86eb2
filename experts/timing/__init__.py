"""How long layer calls take, phase by phase, and what a call costs a shard by that."""
