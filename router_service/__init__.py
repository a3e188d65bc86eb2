"""Everything a request touches up to the gate: Front, Router, engine, sampler."""
