"""How placement maps follow one another: pure parts of the registry."""
