"""Grammars that bind an answer to calls of tools, or to a form behind its reasoning."""
