"""What every process logs, and how: one line per event, JSON or text, with the request's id where one is at hand.

No line ever holds a prompt or generated text. Loggers are the standard library's; values go beside the message:

    log.info("request finished", extra=fields(request_id=request.request_id, tokens=12))
"""

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TextIO

from experts.host.bounds import Seconds, check_settings, setting
from experts.host.log_limit import LogLimit

# Our packages log from the configured level on, everyone else's from WARNING.
PACKAGES = ("kernels", "experts", "router_service", "cluster")
MAX_IDS = 64

# The request that the current task or thread works for, so that all its log lines can be found by its id.
current_request: ContextVar[str] = ContextVar("current_request", default="")


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """What the processes write to standard error, which Ray keeps in its session's logs directory.

    Args:
        format: json writes one object a line, text a line for people, auto takes text on a terminal and json elsewhere
        level: the least important lines that are written, of ours; of libraries at least warning
        burst: lines of one message within an interval; of the others only the number is written
        interval_seconds: the interval of burst
        slow_call_seconds: a layer's call that takes a shard longer, waiting included, is logged by the shard, and
            by its router with the request ids
        slow_step_seconds: a router's step that takes longer is logged with the request ids
    """

    format: Literal["auto", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    burst: Annotated[int, setting("lines", ge=1)] = 100
    interval_seconds: Seconds = 10.0
    slow_call_seconds: Seconds = 1.0
    slow_step_seconds: Seconds = 5.0

    def __post_init__(self) -> None:
        check_settings("logging", self)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Values for a log call's `extra`."""
    return {"fields": values}


def step_name(tag: int) -> str:
    """How lines name a router's step: the router's life, then the step's number. Shards know no more of a request."""
    return f"{tag >> 32:08x}-{tag & 0xFFFFFFFF}"


def stack_of(error: BaseException) -> str:
    """Where an error was raised, without its message: that may quote what a client sent."""
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, role: str, replica: str) -> None:
        super().__init__()
        self._process = {"role": role, "replica": replica}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = {"time": _time(record), "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        values = _values(record)
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values | head | self._process, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, process, logger, message, values."""

    def __init__(self, role: str, replica: str) -> None:
        super().__init__()
        self._process = f"{role} {replica}".strip()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        values = "".join(f" {key}={_shown(value)}" for key, value in _values(record).items())
        # A message may quote a peer: no line break or escape sequence of it may reach a terminal.
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.getMessage())
        line = f"{_time(record)} {record.levelname} [{self._process}] {record.name}: {message}{values}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_handler(config: LoggingConfig, role: str, replica: str, stream: TextIO) -> logging.Handler:
    """A handler that writes to `stream` in the configured format, rate-limited."""
    text = config.format == "text" or (config.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter((TextFormatter if text else JsonFormatter)(role, replica))
    handler.addFilter(LogLimit(handler.handle, config.burst, config.interval_seconds))
    return handler


def set_up_logging(config: LoggingConfig, role: str, replica: str) -> None:
    """Make this process log to standard error, in place of what was set up before."""
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler(config, role, replica, sys.stderr)], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(config.level.upper())


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _values(record: logging.LogRecord) -> dict[str, Any]:
    values: dict[str, Any] = dict(getattr(record, "fields", {}))
    if "request_id" not in values and (current := current_request.get()):
        values["request_id"] = current
    return values


def _shown(value: object) -> str:
    """A value in text: quoted where it could be taken for something else, or would break the line."""
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
