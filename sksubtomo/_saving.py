"""Fitted estimators as a folder of JSON and safetensors, without pickles.

A folder holds ``model.json``, which says everything but the weights in words and
numbers, and one safetensors file that it names. Nothing in them is code: objects are
stored as their names in the package's own tables and their parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sksubtomo._files import check_folder_writable, write_atomically
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.distribution import is_main
from sksubtomo._training.portable import PortableNetworkMixin
from sksubtomo._training.runtime import Device
from sksubtomo._version import __version__
from sksubtomo.augmentation import AUGMENTATIONS
from sksubtomo.contrastive import METHODS
from sksubtomo.networks import ENCODERS
from sksubtomo.semi_supervised import SelfDistillation

_FORMAT = "sksubtomo model"
_FORMAT_VERSION = 1
_MODEL = "model.json"
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
_TABLES: dict[str, Mapping[str, type]] = {
    "method": METHODS,
    "encoder": ENCODERS,
    "augmentation": AUGMENTATIONS,
    "self_training": {"self_distillation": SelfDistillation},
}

# What belongs to a run, not to a model: callbacks are code, a generator's state and
# a folder of checkpoints are of no use to others, and a joblib cache is a folder of
# pickles that whoever wrote the model could name.
_NOT_STORED = ("callbacks", "checkpoint_dir", "memory")

# No label is longer; a forged file could ask for all memory.
_MAX_ITEM_BYTES = 1 << 20

_NORMALIZER = tuple(field.name for field in fields(Normalizer))

# Marks the JSON objects that stand for something else than a dict.
_KIND = "is"

_ESTIMATORS: dict[str, type[SavedModelMixin]] = {}

Tensors = dict[str, npt.NDArray[Any]]
_Estimator = TypeVar("_Estimator", bound="SavedModelMixin")


class SavedModelMixin(PortableNetworkMixin):
    """Save a fitted estimator that holds a network, and load it again.

    The JSON file has the parameters of ``get_params`` and the fitted attributes of
    ``__getstate__``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("sksubtomo."):
            _ESTIMATORS[cls.__name__] = cls

    def save(self, folder: str | Path) -> None:
        """Write the fitted estimator into a folder.

        The folder gets ``model.json``, which is made to be read, and a safetensors
        file with the weights. A saved model that is there already is replaced: a crash
        leaves the old one or the new one. `callbacks`, `checkpoint_dir`, `memory` and a
        `random_state` that is a RandomState are stored as None, and the file says so;
        an unfitted pretrainer is stored as its parameters, a frozen one with its
        weights. Of the processes of ``torchrun``, only the first one writes.

        Parameters
        ----------
        folder : str or Path
            The folder, which is made if it does not exist.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If it holds something that is not the package's own, such as an encoder of
            another class, or the folder holds something else than a saved model.
        """
        if is_main():
            _write_model(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an estimator that ``save`` wrote.

        It predicts what the saved one does, bit for bit on the same machine. Nothing
        is unpickled: a folder from someone else can hold wrong numbers, but no code.

        Parameters
        ----------
        folder : str or Path
            The folder.

        Returns
        -------
        estimator object
            The fitted estimator.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If it is of another class or of a newer format, or a file is damaged.

        Examples
        --------
        >>> import tempfile
        >>> from sksubtomo import ContrastivePretrainer
        >>> from sksubtomo.datasets import make_subtomograms
        >>> X, y = make_subtomograms(n_per_class=1, size=8, random_state=0,
        ...                          return_X_y=True)
        >>> pretrainer = ContrastivePretrainer(max_epochs=1, random_state=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pretrainer.save(folder)
        ...     loaded = ContrastivePretrainer.load(folder)
        >>> bool((loaded.transform(X) == pretrainer.transform(X)).all())
        True
        """
        return _read_model(cls, Path(folder))


def check_model_folder(folder: Path) -> bool:
    """Refuse to save into what is something else than a saved model.

    Parameters
    ----------
    folder : Path
        Where a model is to be saved.

    Returns
    -------
    bool
        Whether there is a saved model already.

    Raises
    ------
    ValueError
        If there is a file of that name, or a folder of something else.
    """
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder}: is a file; expected a folder for a model.")
        return False
    # A save that was broken off may have left the weights alone.
    if all(_WEIGHTS.search(path.name) for path in folder.iterdir()):
        return False
    try:
        found = json.loads((folder / _MODEL).read_bytes())["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        found = None
    if found != _FORMAT:
        raise ValueError(
            f"{folder}: is a folder of something else; expected a new or empty folder, "
            "or one that holds a saved model."
        )
    return True


def check_saveable(estimator: SavedModelMixin, folder: Path) -> None:
    """Find out before a fit whether ``save`` will work after it.

    Parameters
    ----------
    estimator : SavedModelMixin
        The estimator, which need not be fitted.
    folder : Path
        Where it is to be saved.

    Raises
    ------
    ValueError
        If the estimator is or holds something that cannot be saved, or the folder is of
        something else.
    OSError
        If the folder cannot be made or written into.
    """
    check_model_folder(folder)
    encoder = _Encoder()
    encoder._name_of_estimator(estimator, "")
    encoder._parameters(estimator, "")
    # The folders that one process makes to try would come and go under another's.
    if is_main():
        check_folder_writable(folder, f"weights-{'0' * 16}.safetensors")


def _write_model(estimator: SavedModelMixin, folder: Path) -> None:
    check_model_folder(folder)
    encoder = _Encoder()
    described = encoder.estimator(estimator, "")
    weights = safetensors.save(encoder.tensors)
    digest = hashlib.sha256(weights).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    model = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "class": described["class"],
        "not_stored": encoder.not_stored,
        "parameters": described["parameters"],
        "fitted": described["fitted"],
        "weights": {"file": name, "sha256": digest},
        "provenance": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "sksubtomo": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scikit-learn")},
            "platform": f"{platform.system()} {platform.machine()}",
        },
    }
    model["sha256"] = _digest(model)
    text = json.dumps(model, indent=2, ensure_ascii=False, allow_nan=False)
    content = f"{text}\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    # The weights first, under a name of their own: until model.json is replaced, it
    # names the old ones.
    write_atomically(folder / name, lambda beside: beside.write_bytes(weights))
    write_atomically(folder / _MODEL, lambda beside: beside.write_bytes(content))
    for path in folder.iterdir():
        if _WEIGHTS.fullmatch(path.name) and path.name != name:
            path.unlink(missing_ok=True)


def _read_model(cls: type[_Estimator], folder: Path) -> _Estimator:
    path = folder / _MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no saved model; expected a folder with {_MODEL}."
        )
    try:
        model = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged, it is no JSON ({error}).") from error
    if not isinstance(model, dict) or model.get("format") != _FORMAT:
        raise ValueError(f"{path}: is no saved model of sksubtomo.")
    with _complaints(path):
        found = model["format_version"]
        if type(found) is not int or found < 1:
            raise ValueError(f"it has format_version {found!r}; expected 1 or more.")
        if found > _FORMAT_VERSION:
            raise ValueError(
                f"it has format {found}, written by sksubtomo "
                f"{model['provenance']['sksubtomo']}; sksubtomo {__version__} reads "
                f"formats up to {_FORMAT_VERSION}."
            )
        if model.pop("sha256") != _digest(model):
            raise ValueError("it is damaged, or was changed after it was written.")
        if model["class"] != cls.__name__:
            raise ValueError(
                f"it holds a {model['class']}; load it with {model['class']}.load, or "
                f"choose a folder with a {cls.__name__}."
            )
        name = model["weights"]["file"]
        if not _WEIGHTS.fullmatch(name):
            raise ValueError(f"it names the weights {name!r}.")
    tensors = _read_weights(folder / name, model["weights"]["sha256"])
    with _complaints(path):
        decoder = _Decoder(tensors)
        estimator = decoder.estimator(model, "")
        if decoder.tensors:
            raise ValueError(
                f"{name} has the tensors {sorted(decoder.tensors)}, which it does not "
                "name."
            )
    return estimator


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Turn whatever a wrong content trips over into one error that names the file."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, ValueError):
            what = str(error)
        raise ValueError(f"{path}: cannot be loaded: {what}") from error


def _read_weights(path: Path, sha256: str) -> Tensors:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: there is no such file, but {_MODEL} beside it names it."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path}: is damaged: its sha256 is {digest}; {_MODEL} expects {sha256}."
        )
    try:
        return safetensors.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: is no safetensors file ({error}).") from error


def _digest(model: dict[str, Any]) -> str:
    """Hash the content of the JSON, whatever its spaces and order."""
    text = json.dumps(model, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class _Encoder:
    """Turns values into what JSON knows, and collects the tensors on the way."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self.not_stored: list[str] = []
        self._seen: dict[int, str] = {}

    def estimator(self, estimator: Any, path: str) -> dict[str, Any]:
        """Describe a fitted estimator; `path` is where it is in the outermost one."""
        name = self._name_of_estimator(estimator, path)
        check_is_fitted(estimator)
        self._seen[id(estimator)] = path
        parameters = self._parameters(estimator, path)
        state = estimator.__getstate__()
        fitted: dict[str, Any] = {}
        for attribute, value in state.items():
            if attribute in parameters:
                continue
            where = _join(path, attribute)
            if attribute == estimator._network_attribute:
                for tensor, values in value.items():
                    self.tensors[_join(where, tensor)] = values
                fitted[attribute] = {_KIND: "network"}
            else:
                fitted[attribute] = self.value(value, where)
        return {"class": name, "parameters": parameters, "fitted": fitted}

    def value(self, value: Any, path: str) -> Any:
        """Describe any other value."""
        if isinstance(value, (np.bool_, np.int64, np.float64, np.str_)):
            value = value.item()
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                finite = math.isfinite(value)
                return value if finite else _tag("float", value=str(value))
            case np.generic() | np.ndarray():
                return self._array(np.asarray(value), path)
            case list():
                return self._list(value, path)
            case tuple():
                return _tag("tuple", values=self._list(value, path))
            case dict():
                return self._dict(value, path)
            case Normalizer():
                fields = {name: getattr(value, name) for name in _NORMALIZER}
                return _tag("normalizer", **fields)
            case FrozenEstimator():
                return _tag("frozen", estimator=self._nested(value.estimator, path))
            case SavedModelMixin():
                return self._nested(value, path)
        for kind, table in _TABLES.items():
            for name, registered in table.items():
                if type(value) is registered:
                    parameters = self._parameters(value, path)
                    return _tag(kind, name=name, parameters=parameters)
        raise ValueError(_cannot_store(path, value))

    def _nested(self, estimator: Any, path: str) -> dict[str, Any]:
        if id(estimator) in self._seen:
            return _tag("same", path=self._seen[id(estimator)])
        return _tag("estimator", **self.estimator(estimator, path))

    def _parameters(self, owner: Any, path: str) -> dict[str, Any]:
        described: dict[str, Any] = {}
        for name, value in owner.get_params(deep=False).items():
            where = _join(path, name)
            generator = isinstance(value, np.random.RandomState)
            if generator or (name in _NOT_STORED and value is not None):
                self.not_stored.append(where)
                described[name] = None
            elif isinstance(value, SavedModelMixin):
                # A fit would clone it, so what it has learned is no part of it.
                described[name] = _tag(
                    "estimator",
                    **{"class": self._name_of_estimator(value, where)},
                    parameters=self._parameters(value, where),
                    fitted=None,
                )
            elif isinstance(value, Device):
                described[name] = str(value)
            else:
                described[name] = self.value(value, where)
        return described

    @staticmethod
    def _name_of_estimator(estimator: Any, path: str) -> str:
        name = type(estimator).__name__
        if _ESTIMATORS.get(name) is not type(estimator):
            raise ValueError(_cannot_store(path or "the estimator", estimator))
        return name

    def _array(self, array: npt.NDArray[Any], path: str) -> dict[str, Any]:
        if array.dtype == np.float32 and array.ndim > 0:
            self.tensors[path] = np.ascontiguousarray(array)
            return _tag("tensor")
        if array.dtype.kind not in "biufUO" or array.dtype == np.longdouble:
            raise ValueError(_cannot_store(path, array))
        values = self.value(array.tolist(), path)
        return _tag("array", dtype=array.dtype.str, values=values)

    def _list(self, values: list[Any] | tuple[Any, ...], path: str) -> list[Any]:
        return [self.value(value, f"{path}[{i}]") for i, value in enumerate(values)]

    def _dict(self, values: dict[Any, Any], path: str) -> dict[str, Any]:
        if _KIND not in values and all(type(key) is str for key in values):
            return {
                key: self.value(value, f"{path}[{key!r}]")
                for key, value in values.items()
            }
        items = [list(item) for item in values.items()]
        return _tag("dict", items=self._list(items, path))


class _Decoder:
    """Undoes what the encoder does; tensors are taken out as they are used."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self._made: dict[str, Any] = {}

    def estimator(self, described: dict[str, Any], path: str) -> Any:
        """Rebuild an estimator, fitted if its description has what was fitted."""
        cls = _ESTIMATORS[described["class"]]
        estimator: Any = self._construct(cls, described["parameters"], path)
        estimator._validate_params()
        if described["fitted"] is None:
            return estimator
        self._made[path] = estimator
        network = estimator._network_attribute
        parameters = estimator.get_params(deep=False)
        for attribute, value in described["fitted"].items():
            if hasattr(cls, attribute) or attribute in parameters:
                raise ValueError(f"{attribute!r} is no fitted attribute.")
            if attribute != network:
                where = _join(path, attribute)
                setattr(estimator, attribute, self.value(value, where))
        if math.prod(estimator.volume_shape_) != estimator.n_features_in_:
            raise ValueError(
                f"volume_shape_={estimator.volume_shape_} and "
                f"n_features_in_={estimator.n_features_in_} contradict each other."
            )
        _check_fitted(estimator)
        prefix = _join(path, network) + "."
        names = [name for name in self.tensors if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): self.tensors.pop(name) for name in names}
        estimator._load_network(weights)
        return estimator

    def value(self, value: Any, path: str) -> Any:
        """Rebuild any other value."""
        if isinstance(value, list):
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if _KIND not in value:
            return {
                key: self.value(item, f"{path}[{key!r}]") for key, item in value.items()
            }
        kind = value[_KIND]
        if kind in _TABLES:
            cls = _TABLES[kind][value["name"]]
            return self._construct(cls, value["parameters"], path)
        rebuild: dict[str, Callable[[], Any]] = {
            "float": lambda: float(value["value"]),
            "tuple": lambda: tuple(self.value(value["values"], path)),
            "dict": lambda: dict(self.value(value["items"], path)),
            "array": lambda: self._array(value, path),
            "tensor": lambda: self.tensors.pop(path),
            "normalizer": lambda: _normalizer(value),
            "estimator": lambda: self.estimator(value, path),
            "frozen": lambda: FrozenEstimator(self.value(value["estimator"], path)),
            "same": lambda: self._made[value["path"]],
        }
        return rebuild[kind]()

    def _construct(self, cls: Any, parameters: dict[str, Any], path: str) -> Any:
        unknown = parameters.keys() - cls().get_params(deep=False).keys()
        if unknown:
            raise ValueError(
                f"{cls.__name__} of sksubtomo {__version__} has no parameter "
                f"{sorted(unknown)}."
            )
        for name in _NOT_STORED:
            if parameters.get(name) is not None:
                raise ValueError(
                    f"{_join(path, name)} is {parameters[name]!r}; expected None, for "
                    "it is never stored."
                )
        return cls(
            **{
                name: self.value(value, _join(path, name))
                for name, value in parameters.items()
            }
        )

    def _array(self, value: dict[str, Any], path: str) -> Any:
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "biufUO" or dtype.itemsize > _MAX_ITEM_BYTES:
            raise ValueError(f"{path} has dtype {dtype}.")
        values = self.value(value["values"], path)
        array = np.array(values, dtype)
        if array.tolist() != values:
            raise ValueError(f"{path} has values that are not of dtype {dtype}.")
        return array[()]


def _normalizer(described: dict[str, Any]) -> Normalizer:
    """Rebuild a normaliser; fields that its version did not have get their defaults."""
    values = {name: value for name, value in described.items() if name != _KIND}
    unknown = values.keys() - set(_NORMALIZER)
    if unknown:
        raise ValueError(
            f"the normalizer of sksubtomo {__version__} has no {sorted(unknown)}."
        )
    for name, value in values.items():
        if name not in ("mean", "scale"):
            right = isinstance(value, bool)
        else:
            # Too large a whole number is an OverflowError.
            right = type(value) in (int, float) and math.isfinite(value)
        if not right or (name == "scale" and value <= 0):
            raise ValueError(f"the normalizer has {name}={value!r}.")
    return Normalizer(**values)


def _check_fitted(estimator: Any) -> None:
    """Refuse values that would only be noticed in what is computed with them."""
    classes = getattr(estimator, "classes_", None)
    if classes is not None and not np.array_equal(np.unique(classes), classes):
        raise ValueError("classes_ are not sorted, or not different.")
    voxel_size = getattr(estimator, "voxel_size_", None)
    if voxel_size is not None and not (
        type(voxel_size) in (int, float) and 0 < voxel_size < math.inf
    ):
        raise ValueError(f"voxel_size_ is {voxel_size!r}; expected a length.")


def _tag(kind: str, **content: Any) -> dict[str, Any]:
    return {_KIND: kind, **content}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _cannot_store(path: str, value: Any) -> str:
    return (
        f"{path} is {value!r} of type {type(value).__name__}, which cannot be saved as "
        f"JSON and safetensors; expected the package's own objects: "
        f"{sorted(set().union(*_TABLES.values()))}. joblib.dump stores any estimator, "
        f"as a pickle that only those should load who trust you."
    )
