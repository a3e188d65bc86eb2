"""The `expertmesh` command: a module for each of its commands."""
