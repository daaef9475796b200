"""Parameters that are given as a name or as an object."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from sklearn.base import clone


def resolve(value: Any, table: Mapping[str, type], parameter: str) -> Any:
    """Return the parameter object that a name or an object stands for.

    Parameters
    ----------
    value : str or object
        A key of `table`, which stands for the object with its defaults, or an
        object with a ``build`` method.
    table : mapping of str to type
        The known names and their classes.
    parameter : str
        Name of the estimator's parameter, for the error message.

    Returns
    -------
    object
        A fresh parameter object; the one that was passed in is never shared.

    Raises
    ------
    ValueError
        If `value` is a string that is not in `table`.
    TypeError
        If `value` is a class, or has no ``build`` method.
    """
    if isinstance(value, str):
        if value not in table:
            raise ValueError(
                f"{parameter}={value!r} is not known; expected one of "
                f"{sorted(table)} or an object with a build method."
            )
        return table[value]()
    if isinstance(value, type):
        raise TypeError(
            f"{parameter} is the class {value.__name__}; expected an instance of "
            f"it, such as {value.__name__}()."
        )
    if not callable(getattr(value, "build", None)):
        raise TypeError(
            f"{parameter} is {value!r} of type {type(value).__name__}; expected one "
            f"of {sorted(table)} or an object with a build method."
        )
    return clone(value, safe=False)


def describe(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Write parameters down, those of parameter objects included.

    Parameters
    ----------
    parameters : mapping of str to object
        Plain values and parameter objects by name.

    Returns
    -------
    dict of str to str
        Values by name, those inside an object as ``name__parameter``. Two equal
        descriptions mean equal parameters.
    """
    described = {}
    for name, value in parameters.items():
        if hasattr(value, "get_params"):
            kind = type(value)
            described[name] = f"{kind.__module__}.{kind.__qualname__}"
            inner = value.get_params(deep=False)
            described |= describe({f"{name}__{key}": inner[key] for key in inner})
        elif isinstance(value, Real) and not isinstance(value, bool):
            # NumPy's numbers, and 0 and 0.0, mean the same as Python's.
            number = float(value)
            whole = number.is_integer()
            described[name] = repr(int(number) if whole else number)
        elif repr(value) == object.__repr__(value):
            # It has an address, which another process has not.
            described[name] = f"{type(value).__module__}.{type(value).__qualname__}"
        else:
            described[name] = repr(value)
    return described
