"""The Front: the gRPC API, tokenization, and the connections to the routers. Imports neither torch nor Ray."""
