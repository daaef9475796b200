"""How a command ends: exit status and one line for an error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

SUCCESS, FAILURE, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

# What the package raises for bad input, bad files and missing extras.
INPUT_ERRORS = (ValueError, TypeError, OSError, ImportError)


def guard(command: str, work: Callable[[], object], on_interrupt: str = "") -> int:
    """Do the work of a command; errors and warnings become one line each.

    Parameters
    ----------
    command : str
        Name of the command, for the messages.
    work : callable
        What to do. An error of bad input ends with status 2, one of training or of
        the device with status 1, an interruption with status 130, and a SIGTERM,
        such as that of a batch system at the time limit, with status 143.
    on_interrupt : str, default=""
        What to say about what was done so far.

    Returns
    -------
    int
        The exit status.
    """
    with warnings.catch_warnings():
        show_warnings(command)
        try:
            with _raising_at_sigterm():
                work()
        # Whoever reads the output has left, which is no fault of the input.
        except BrokenPipeError as error:
            return fail(command, error, FAILURE)
        except INPUT_ERRORS as error:
            return fail(command, error, BAD_INPUT)
        # Training that diverges, and what torch raises without memory or a device.
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            return fail(command, error, FAILURE)
        except KeyboardInterrupt:
            message = " ".join(f"interrupted. {on_interrupt}".split())
            print(f"sksubtomo {command}: {message}", file=sys.stderr)
            return INTERRUPTED
        except _Terminated:
            message = " ".join(f"terminated. {on_interrupt}".split())
            print(f"sksubtomo {command}: {message}", file=sys.stderr)
            return TERMINATED
    return SUCCESS


class _Terminated(BaseException):
    """Raised by SIGTERM; no KeyboardInterrupt, for skorch swallows those."""


@contextlib.contextmanager
def _raising_at_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, so that clean-up runs as after an interruption."""
    # Python allows only the main thread to set a handler. And of processes that train
    # together only the first has something to clean up; another may be waiting for it
    # where no Python runs, and would not end.
    helps = os.environ.get("RANK", "0") != "0"
    if helps or threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        # A second one must not break off the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        # None stands for a handler that is not Python's and cannot be set again.
        signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)


def fail(command: str, error: BaseException, status: int) -> int:
    """Print an error as one line.

    Parameters
    ----------
    command : str
        Name of the command.
    error : BaseException
        What happened.
    status : int
        The exit status.

    Returns
    -------
    int
        The status.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"sksubtomo {command}: error: {message}", file=sys.stderr)
    return status


def show_warnings(command: str) -> None:
    """Show warnings as one line each from here on.

    Python's own format would bury the message in source lines.

    Parameters
    ----------
    command : str
        Name of the command.
    """

    def show(message: Any, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        print(f"sksubtomo {command}: warning: {text}", file=sys.stderr)

    warnings.showwarning = show
