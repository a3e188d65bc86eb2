"""The gRPC API: proto files, and the Python stubs that `python -m router_service.protocol.generate` makes of them."""
