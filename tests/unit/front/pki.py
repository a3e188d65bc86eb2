"""An authority for servers and one for clients."""

from pathlib import Path

from router_service.client.channel import Tls
from tests.support.certificates import Certificate


class Pki:
    """An authority for servers and one for clients, with files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers = Certificate.authority("servers")
        self.clients = Certificate.authority("clients")
        self.ca, _ = self.servers.write(directory, "servers")
        self.client_ca, _ = self.clients.write(directory, "clients")
        self.cert, self.key = self.servers.sign("server").write(directory, "server")

    def settings(self, mutual: bool = False) -> dict[str, str]:
        named = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return named | ({"tls_client_ca": str(self.client_ca)} if mutual else {})

    def client(self, name: str, days: float = 1, issuer: Certificate | None = None) -> Tls:
        return Tls(self.ca, *(issuer or self.clients).sign(name, days).write(self.directory, name))
