"""Reasoning and tool calls, taken out of an answer's text while it streams."""
