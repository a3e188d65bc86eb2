"""Which tokens a step computes, and in which cache blocks."""
