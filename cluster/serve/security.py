"""The credentials of the data plane, and checks of certificates, tokens and secrets before anything is started."""

import os
import secrets
from pathlib import Path

from cluster.config import ClusterConfig
from experts.host.user_path import user_path
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.secret import SecretFile, read_secrets
from router_service.front.auth.authenticator import open_tokens
from router_service.front.auth.tls import ServerTls
from router_service.front.config import is_loopback

SECRET_VARIABLE = "EXPERTMESH_SECRET"


def fixed_secret(config: ClusterConfig) -> bytes:
    """The secret that is handed to the processes: EXPERTMESH_SECRET or drawn anew; none where they read a file."""
    if config.cluster.secret_file:
        return b""  # each process reads the file itself, so that a rotation needs no restart
    given = os.environ.get(SECRET_VARIABLE, "")
    return given.encode() if given else secrets.token_bytes(32)


def credentials_of(config: ClusterConfig, fixed: bytes, digest: bytes) -> Credentials:
    """What this process proves to its peers: the secret, and the deployment's digest as it was handed to all.

    Raises:
        ValueError: the file of secrets is wrong.
    """
    secret = SecretFile(_secret_path(config)) if config.cluster.secret_file else fixed
    return Credentials(secret, digest)


def check_security(config: ClusterConfig) -> None:
    """Find out what is wrong with certificates, tokens and secret before any process is started.

    Raises:
        ValueError: naming setting and file.
    """
    if config.cluster.secret_file:
        read_secrets(_secret_path(config))
    if config.front.tls_cert:
        ServerTls(config.front)
    if config.front.tokens_file:
        open_tokens(config.front.tokens_file)


def security_warnings(config: ClusterConfig) -> list[str]:
    """What an operator should know who exposes the API or the live page to other machines."""
    front = config.front
    hosts = [front.host] if front.http_port is None else [front.host, front.http_host]
    reached = [host for host in dict.fromkeys(hosts) if not is_loopback(host)]
    if not reached:
        return []
    if not front.authenticates:
        where = " or ".join(reached)
        return [f"front.allow_unauthenticated: whoever reaches {where} may use everything without a token"]
    if not front.tls_cert:
        return ["front.tls_cert is not set: tokens, prompts and answers cross the network in clear"]
    return []


def _secret_path(config: ClusterConfig) -> Path:
    return user_path(config.cluster.secret_file, "cluster.secret_file")
