"""Authenticates and authorizes callers: tokens, roles and limits, the same for gRPC and HTTP."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import grpc

from experts.host.user_path import user_path
from experts.host.watched_files import WatchedFiles
from router_service.front.auth.caller_limits import CallerLimits
from router_service.front.auth.paths import OPEN as OPEN_PATHS
from router_service.front.auth.paths import is_inference
from router_service.front.auth.refusals import Refusals, RefusedError
from router_service.front.auth.tokens import Caller, Role, Token, digest_of, find_token, read_tokens

# Without a tokens file everyone may do everything; `FrontConfig` allows that on loopback only, unless told otherwise.
ANYONE = Caller("", Role.ADMIN)

# What front.api_key is called in logs and metrics.
API_KEY = "api_key"

# Health is open: load balancers and kubelets have no token, and it reveals one word. All other methods need an admin.
OPEN = "/grpc.health.v1.Health/"
INFERENCE = "/expertmesh.v1.Inference/"


def needed_role(method: str) -> Role | None:
    """Return the role that a gRPC method needs, None for none."""
    if method.startswith(OPEN):
        return None
    return Role.INFERENCE if method.startswith(INFERENCE) else Role.ADMIN


def needed_page_role(path: str, files: Container[str]) -> Role | None:
    """Return the role that a path of the HTTP server needs, None for none.

    As for gRPC, generating needs the role inference and everything not listed needs an admin. The page's own `files`
    hold no data and must load before the page can ask for a token; health and metrics are open.
    """
    if path in OPEN_PATHS or path in files:
        return None
    return Role.INFERENCE if is_inference(path) else Role.ADMIN


class Authenticator:
    """Admits or refuses calls. Used on one event loop.

    Args:
        tokens_file: see `read_tokens`; if empty, no token is required.
        count: called with the reason of each refusal, for metrics.
        max_request_bytes: the largest request of any caller; None is no limit.
        api_key: a token beside those of the file, "" for none; only its hash is kept. Its role is inference, or admin
            where there is no file, since then nobody else could administer.
    """

    def __init__(
        self,
        tokens_file: str,
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        max_request_bytes: int | None = None,
        api_key: str = "",
    ) -> None:
        """Read the tokens.

        Raises:
            ValueError: the file cannot be read or is invalid.
        """
        self.refusals = Refusals(count, clock)
        self._clock = clock
        self._limits = CallerLimits()
        self._max_bytes = max_request_bytes
        self._tokens = open_tokens(tokens_file, clock) if tokens_file else None
        role = Role.INFERENCE if tokens_file else Role.ADMIN
        self._keys = (Token(digest_of(api_key), Caller(API_KEY, role), None),) if api_key else ()

    def admit(self, authorization: Sequence[str], needed: Role) -> Caller:
        """Return the caller that the `authorization` headers identify, and count the request against its rate.

        Raises:
            RefusedError: no valid token, a role that does not suffice, or too many requests.
        """
        if self._tokens is None and not self._keys:
            return ANYONE
        # Looked up at each call, so that a removed token stops working when the file is reloaded.
        tokens = self._tokens.current() if self._tokens is not None else ()
        caller = _identify((*tokens, *self._keys), authorization)
        if needed is Role.ADMIN and caller.role is not Role.ADMIN:
            problem = f"token {caller.name} has the role {caller.role}, this needs the role {needed}"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, problem, "role", caller.name)
        self._limits.take_request(caller, self._clock())
        return caller

    def authorize(self, headers: Mapping[str, str], needed: Role, peer: str, path: str) -> Caller:
        """Return the caller of an HTTP request; see `admit`. A refusal is counted and logged here.

        Raises:
            RefusedError: with the `http_status` and the `headers` to answer with.
        """
        given = [value for name, value in headers.items() if name.lower() == "authorization"]
        try:
            return self.admit(given, needed)
        except RefusedError as error:
            self.refusals.note(error, peer, path)
            raise

    def stream(self, caller: Caller) -> AbstractContextManager[None]:
        """Count a streamed response while it lasts; see `CallerLimits.stream`."""
        return self._limits.stream(caller)

    def open_streams(self, name: str) -> int:
        """Streamed responses that the token `name` has open."""
        return self._limits.open_streams(name)

    def check_size(self, caller: Caller, size: int) -> None:
        """Check a request's size in bytes.

        Raises:
            RefusedError: it exceeds the limit of its caller, or of all callers.
        """
        self._limits.check_size(caller, size)
        if self._max_bytes is not None and size > self._max_bytes:
            problem = f"front.max_request_bytes is {self._max_bytes}: the request has {size} bytes"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, problem, "size", caller.name)


def open_tokens(file: str, clock: Callable[[], float] = time.monotonic) -> WatchedFiles[tuple[Token, ...]]:
    """Read a tokens file, and reload it whenever it changes.

    Raises:
        ValueError: see `read_tokens`.
    """
    path = user_path(file, "front.tokens_file")
    return WatchedFiles(f"front.tokens_file {path}", [path], lambda: read_tokens(path), clock)


def _identify(tokens: Sequence[Token], authorization: Sequence[str]) -> Caller:
    if not authorization:
        raise _unauthenticated("missing", "a token is required: send the header `authorization: Bearer TOKEN`")
    scheme, _, presented = authorization[0].partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer" or not presented.strip():
        raise _unauthenticated("malformed", "expected exactly one header `authorization: Bearer TOKEN`")
    token = find_token(tokens, presented.strip())
    if token is None:
        raise _unauthenticated("unknown", "the token is not known")
    if token.expires is not None and datetime.now(UTC) >= token.expires:
        problem = f"token {token.caller.name} has expired at {token.expires.isoformat()}"
        raise _unauthenticated("expired", problem, token.caller.name)
    return token.caller


def _unauthenticated(reason: str, problem: str, name: str = "") -> RefusedError:
    return RefusedError(grpc.StatusCode.UNAUTHENTICATED, problem, reason, name)
