"""A router's process: the engine's thread, the Fronts that it serves, its reports and logs."""
