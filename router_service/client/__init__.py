"""The Python client of the gRPC API."""

from router_service.client.channel import Tls
from router_service.client.client import Client

__all__ = ["Client", "Tls"]
