"""Answers of a given form: JSON Schema, regular expressions, grammars; which tokens may come next."""
