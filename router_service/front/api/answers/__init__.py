"""One request's answers, from a router's outputs to the responses of a call."""
