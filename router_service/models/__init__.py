"""A model without its routed experts: its spec, its families, attention, the paged cache."""
