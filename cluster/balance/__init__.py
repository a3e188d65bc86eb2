"""Where experts are to live: from what was routed, which placement is best, whether a move is worth it, when."""
