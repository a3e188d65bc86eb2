"""An object in a fresh process: a clean peak of memory, its own threads and its own way of waiting for them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Self

READY_SECONDS = 600.0


class Worker:
    """Makes `factory(*args)` in a new process and calls its methods there. A context manager; leaving ends the process.

    Args:
        environment: variables that the process has from its first instruction on; None removes one.
    """

    def __init__(
        self, factory: Callable[..., Any], *args: Any, environment: Mapping[str, str | None] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, args), daemon=True)
        with _changed(environment or {}):
            self._process.start()
        theirs.close()
        try:
            self._result()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any) -> Any:
        """Call a method and return what it returns; `RuntimeError` with its words if it raises."""
        self.begin(method, *args)
        return self._result()

    def begin(self, method: str, *args: Any) -> None:
        """Start a call whose result nobody waits for: nothing else may be called after it."""
        self._pipe.send((method, args))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def peak_bytes(self) -> int:
        """The most memory that was ever resident."""
        return peak_bytes(self._process.pid or 0)

    def _result(self) -> Any:
        if not self._pipe.poll(READY_SECONDS):
            raise RuntimeError(f"no word from the worker in {READY_SECONDS:.0f} s")
        try:
            good, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the worker died") from None
        if not good:
            raise RuntimeError(value)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def peak_bytes(pid: int) -> int:
    """VmHWM of a process, 0 once it has gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


@contextmanager
def _changed(environment: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    _set(environment)
    try:
        yield
    finally:
        _set(before)


def _set(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _serve(pipe: Connection, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        done, target = _attempt(factory, args)
        pipe.send((done, None if done else target))
        while done:
            method, arguments = pipe.recv()
            pipe.send(_attempt(getattr(target, method), arguments))
    except (EOFError, ConnectionError):
        pass  # the parent has had enough


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*arguments)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
