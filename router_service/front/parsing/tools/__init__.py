"""Readers of tool calls, one per form that models write."""
