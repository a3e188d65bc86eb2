"""What decides when a request runs and whose cached prefixes it may use: its caller, its priority and its salt.

And what it does where a router has lost experts.
"""

import hashlib
from contextvars import ContextVar

from router_service.front.errors import invalid
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.fallback import Fallback
from router_service.protocol.inference_pb2 import GenerateRequest

MAX_PRIORITY = 100
MAX_SALT_CHARACTERS = 256
SALT_BYTES = 16

FALLBACKS = {
    pb.FALLBACK_UNSPECIFIED: "",
    pb.WAIT: Fallback.WAIT.value,
    pb.DROP: Fallback.DROP.value,
    pb.NEXT_BEST: Fallback.NEXT_BEST.value,
    pb.FAIL: Fallback.FAIL.value,
}

# The caller of the call that the running task answers: its token's name, without tokens its connection. Set where calls
# are authenticated, by `set_caller`.
_caller: ContextVar[str] = ContextVar("caller", default="")


def set_caller(token: str, connection: str) -> None:
    """Say who the caller of this task's call is: `token` is the name of its token, "" if it has none.

    Without tokens it is the connection and not the host, since then most callers are on this one.
    """
    _caller.set(token or connection)


def current_caller() -> str:
    """Return the caller of this task's call, "" where nobody said."""
    return _caller.get()


def check_scheduling(request: GenerateRequest) -> None:
    """Check the request's priority and the length of its salt.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field and its bounds.
    """
    if not -MAX_PRIORITY <= request.priority <= MAX_PRIORITY:
        raise invalid("priority", f"must be -{MAX_PRIORITY} to {MAX_PRIORITY}, got {request.priority}")
    if len(request.cache_salt) > MAX_SALT_CHARACTERS:
        raise invalid("cache_salt", f"at most {MAX_SALT_CHARACTERS} characters, has {len(request.cache_salt)}")


def fallback_of(request: GenerateRequest) -> str:
    """Return what `Submit.fallback` says of a request, "" where the server's default counts.

    Raises:
        RequestError: INVALID_ARGUMENT, the number has no meaning here.
    """
    if request.fallback not in FALLBACKS:
        raise invalid("fallback", f"must be one of {', '.join(pb.Fallback.keys())}, got {request.fallback}")
    return FALLBACKS[request.fallback]


def fallback_named(name: str) -> pb.Fallback:
    """Return the policy of this name, the server's default for "".

    Raises:
        RequestError: INVALID_ARGUMENT, there is no such policy.
    """
    named = {policy: value for value, policy in FALLBACKS.items()}
    if name not in named:
        raise invalid("fallback", f"must be one of {', '.join(filter(None, named))}, or empty, got {name[:64]!r}")
    return named[name]


def salt_of(caller: str, salt: str) -> bytes:
    """Return what a router's prefix cache hashes: 16 bytes, none if both are empty.

    `caller` is empty where callers share their cached prefixes. No two different pairs have the same salt.
    """
    if not caller and not salt:
        return b""
    parts = [part.encode() for part in (caller, salt)]
    # The first part's length keeps the two apart.
    text = len(parts[0]).to_bytes(4, "little") + parts[0] + parts[1]
    return hashlib.blake2b(text, digest_size=SALT_BYTES, person=b"cache salt").digest()
