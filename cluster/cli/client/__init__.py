"""Commands for a running server, by its gRPC API."""
