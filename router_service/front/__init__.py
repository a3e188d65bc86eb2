"""The Front: the gRPC API, text in and out, and the link to the routers. Imports neither torch nor Ray."""
