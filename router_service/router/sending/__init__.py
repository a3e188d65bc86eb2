"""What a router sends to a Front: in which order, in which pieces, and the thread that does it."""
