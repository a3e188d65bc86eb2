"""How a plan is made: copies, packing, swaps, and what layers take from which plan. All layers at once, in arrays."""
