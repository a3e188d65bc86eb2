"""Bytes from strangers, mutated a million times: only documented errors, and memory that stays flat."""
