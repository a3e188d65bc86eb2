"""Whether a move is worth it, when, and what it gave: pure, from reports, with times handed in."""
