"""How a command ends: exit status and one line for an error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

SUCCESS, FAILURE, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

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
        the device with status 1, and an interruption with status 130.
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
            work()
        except INPUT_ERRORS as error:
            return fail(command, error, BAD_INPUT)
        # Training that diverges, and what torch raises without memory or a device.
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            return fail(command, error, FAILURE)
        except KeyboardInterrupt:
            message = " ".join(f"interrupted. {on_interrupt}".split())
            print(f"sksubtomo {command}: {message}", file=sys.stderr)
            return INTERRUPTED
    return SUCCESS


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
