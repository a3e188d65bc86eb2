"""How requests come into the engine: those whose answers must have a form, once their grammars are compiled."""
