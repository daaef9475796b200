"""Parameters that are given as a name or as an object."""

from __future__ import annotations

import copyreg
import hashlib
from collections.abc import Mapping
from numbers import Integral, Real
from pickle import PicklingError
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
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
        Values by name, those inside an object as ``name__parameter``; the same in every
        process. Two equal descriptions mean equal parameters, but for functions and
        classes, which are described by their names, and for objects that cannot be
        pickled, which are described by their types.
    """
    described = {}
    for name, value in parameters.items():
        if _is_parameter_object(value):
            described[name] = _name(type(value))
            inner = value.get_params(deep=False)
            described |= describe({f"{name}__{key}": inner[key] for key in inner})
        else:
            described[name] = _write(value, ())
    return described


def _write(value: Any, around: tuple[int, ...]) -> str:
    """Write a value down; `around` are the ids of the objects that it is inside of."""
    if id(value) in around:
        return "..."
    inside = (*around, id(value))
    match value:
        case None | bool() | np.bool_():
            return repr(value if value is None else bool(value))
        case str():
            return str.__repr__(value)
        case Integral():
            return repr(int(value))
        case Real():
            # NumPy's numbers, and 0 and 0.0, mean the same as Python's.
            number = float(value)
            return repr(int(number) if number.is_integer() else number)
        case complex():
            return repr(complex(value))
        case bytes() | bytearray():
            return f"{len(value)} bytes {_hash(value)}"
        case type() | FunctionType():
            return _name(value)
        case BuiltinFunctionType() if value.__module__ is not None:
            return _name(value)
        case np.ndarray() if not value.dtype.hasobject:
            contents = _hash(np.ascontiguousarray(value).tobytes())
            return f"array of {value.dtype.str} {value.shape} {contents}"
        case np.ndarray():
            return f"array of objects {value.shape} {_write(value.tolist(), inside)}"
        case torch.Tensor():
            flat = value.detach().cpu().reshape(-1).view(torch.uint8)
            contents = _hash(flat.numpy().tobytes())
            return f"tensor of {value.dtype} {tuple(value.shape)} {contents}"
    if type(value) in (list, tuple):
        listed = ", ".join(_write(item, inside) for item in value)
        return f"[{listed}]" if isinstance(value, list) else f"({listed})"
    if type(value) in (set, frozenset):
        return "{" + ", ".join(sorted(_write(item, inside) for item in value)) + "}"
    if type(value) is dict:
        items = (f"{_write(k, inside)}: {_write(v, inside)}" for k, v in value.items())
        return "{" + ", ".join(sorted(items)) + "}"
    if _is_parameter_object(value):
        return _name(type(value)) + _write(value.get_params(deep=False), inside)
    return _name(type(value)) + _write_state(value, inside)


def _write_state(value: Any, inside: tuple[int, ...]) -> str:
    """Write down what pickle would keep of an object.

    A repr would not do: it may leave things out, or have an address in it.
    """
    try:
        reducer = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(2) if reducer is None else reducer(value)
    except (PicklingError, AttributeError, TypeError, RuntimeError):
        return ""
    if isinstance(reduced, str):
        return f" {reduced}"
    _, arguments, *rest = reduced
    state, *items = [*rest, None][: 1 + len(rest)]
    kept = [*arguments, state, *(list(part) for part in items if part is not None)]
    described = [
        _write(part, inside)
        for part in kept
        if part is not None and part is not type(value) and part is not value
    ]
    return f"({', '.join(described)})"


def _is_parameter_object(value: Any) -> bool:
    return hasattr(value, "get_params") and not isinstance(value, type)


def _name(value: Any) -> str:
    """Return where a class or function is defined, and its name."""
    return f"{value.__module__}.{value.__qualname__}"


def _hash(contents: bytes | bytearray) -> str:
    return hashlib.blake2b(contents, digest_size=16).hexdigest()
