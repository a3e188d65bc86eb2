"""How a router is known to its peers."""

from dataclasses import dataclass

from experts.transport.trust.credentials import Credentials


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Who this router is, where it binds, and what it proves to its peers."""

    index: int
    replica: str
    model: str
    node: str
    host: str
    credentials: Credentials
