"""Load on a running server and what it measures: prompts, arrivals, records, percentiles. Neither torch nor numpy."""
