"""The gRPC services, and a request's way from its message to what a router is asked."""
