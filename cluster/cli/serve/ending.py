"""How `serve` ends when a start does not come to its end."""

import os
import signal
import sys
from typing import NoReturn

from cluster.processes.signals import Interrupts

EXIT_RAY_FAILED = 1
TRIES = 3
# Which try this process is: it is replaced by the next one.
TRY_VARIABLE = "EXPERTMESH_START_TRY"


def stopped_early() -> int:
    """Say that a signal came first; return the exit code."""
    print("stopping: a signal came before the cluster was ready", file=sys.stderr, flush=True)
    return 0


def start_again(reason: str, interrupts: Interrupts) -> int:
    """Begin anew in this process's place, or return the exit code: a signal has come, or it was the last try.

    A try that Ray's own processes failed leaves threads that hang in Ray, and Ray starts only once in a process. What
    takes this one's place has its number and its open files; no signal is lost in between.
    """
    number = int(os.environ.get(TRY_VARIABLE, "1"))
    if interrupts():
        return stopped_early()
    if number >= TRIES:
        print(f"expertmesh: {reason}; gave up after {number} tries", file=sys.stderr, flush=True)
        return EXIT_RAY_FAILED
    print(f"expertmesh: {reason}; trying again ({number + 1} of {TRIES})", file=sys.stderr, flush=True)
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    environment = os.environ | {TRY_VARIABLE: str(number + 1)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    raise AssertionError("what takes this process's place does not return")


def end_at_once(code: int) -> NoReturn:
    """Exit without waiting for threads, some of which may hang in calls of Ray."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
