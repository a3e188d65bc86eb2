"""Attention over the paged cache, and rotary embedding."""
