"""An update in place: which of the new processes are there before those that they replace end."""
