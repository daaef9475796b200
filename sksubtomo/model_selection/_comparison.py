"""A comparison of estimators: what has to be fitted, the fits, and what is kept."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from itertools import product
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, clone
from sklearn.utils import _safe_indexing, column_or_1d, indexable
from sklearn.utils.validation import has_fit_parameter
from tqdm import tqdm

from sksubtomo._files import write_text
from sksubtomo._labels import check_labels
from sksubtomo._stored import StoredVolumes, digest, is_stored
from sksubtomo._training.runtime import draw_seed
from sksubtomo._version import __version__
from sksubtomo.model_selection._plan import (
    UNLABELED,
    VALIDATION_FROM,
    LabelSetting,
    Split,
    derive_seed,
    plan_label_settings,
    plan_splits,
)
from sksubtomo.model_selection._pretraining import (
    describe_estimator,
    find_pretrainers,
    freeze_pretrainers,
    seed_parameters,
)
from sksubtomo.semi_supervised import LabelFractionClassifier

Result = dict[str, Any]
"""What a task leaves: plain values, as JSON has them."""


@dataclass(frozen=True, eq=False)
class Pretraining:
    """A pretraining of the pretrainers in an estimator, and its seed."""

    method: str
    estimator: Any
    number: int
    split: Split
    seed: int

    @property
    def kind(self) -> str:
        """What warnings call it."""
        return f"pretraining {self.method}"

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.kind}, split {self.number}"

    @property
    def identity(self) -> tuple[Any, ...]:
        """What decides its result, beside the data and the versions."""
        pretrainers = map(describe_estimator, find_pretrainers(self.estimator))
        return ("pretraining", *pretrainers, self.split.digest, self.seed)

    @property
    def description(self) -> Result:
        """What a reader would ask for."""
        return {"pretraining": self.method, "split": self.number}

    def run(self, X: Any, y: NDArray[Any], memory: Any) -> Result:
        """Pretrain, so that the cache has it."""
        rows = _safe_indexing(X, self.split.train)
        start = time.perf_counter()
        freeze_pretrainers(self.estimator, rows, memory, self.seed)
        return {"seconds": round(time.perf_counter() - start, 2)}


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit and test on a part of the labels."""

    method: str
    estimator: Any
    number: int
    split: Split
    setting: LabelSetting
    repeat: int
    labeled: NDArray[np.bool_]
    unlabeled: Any
    validated: bool
    pretraining_seed: int
    label_seed: int
    seed: int

    @property
    def kind(self) -> str:
        """What warnings call it."""
        return f"fitting {self.method}"

    @property
    def name(self) -> str:
        """What errors call it."""
        return (
            f"{self.kind} on {sum(self.setting.counts[self.number])} labels "
            f"(label_fraction={self.setting.label_fraction:g}), split {self.number}, "
            f"repeat {self.repeat}"
        )

    @property
    def identity(self) -> tuple[Any, ...]:
        """What decides its result, beside the data and the versions."""
        return (
            "fit",
            describe_estimator(self.estimator),
            self.split.digest,
            # With the seed they decide which labels there are.
            self.setting.counts[self.number],
            self.unlabeled,
            self.validated,
            (self.label_seed, self.seed, self.pretraining_seed),
        )

    @property
    def description(self) -> Result:
        """What a reader would ask for."""
        return {
            "method": self.method,
            "label_fraction": self.setting.label_fraction,
            "labels_per_class": min(self.setting.counts[self.number]),
            "validation_labels": self.validation_labels,
            "split": self.number,
            "repeat": self.repeat,
        }

    @property
    def validation_labels(self) -> int:
        """Labels beside those that are trained on."""
        return len(self.split.validation) if self.validated else 0

    def run(self, X: Any, y: NDArray[Any], memory: Any) -> Result:
        """Fit on the training part and test on the test part."""
        estimator = seed_parameters(clone(self.estimator), self.seed)
        if find_pretrainers(estimator):
            rows = _safe_indexing(X, self.split.train)
            estimator = freeze_pretrainers(
                estimator, rows, memory, self.pretraining_seed
            )
        train = self.split.train
        if "unlabeled" in estimator.get_params(deep=False):
            estimator.set_params(unlabeled=self.unlabeled)
        else:
            train = train[self.labeled[train]]
        model = LabelFractionClassifier(
            estimator,
            label_fraction=self.setting.label_fraction,
            labels_per_class=self.setting.per_class,
            random_state=self.label_seed,
        )
        validation, test = self.split.validation, self.split.test
        start = time.perf_counter()
        model.fit(
            _safe_indexing(X, train),
            y[train],
            validation_data=(
                (_safe_indexing(X, validation), y[validation])
                if self.validated
                else None
            ),
        )
        correct = model.predict(_safe_indexing(X, test)) == y[test]
        return {
            "accuracy": float(np.mean(correct)),
            "seconds": round(time.perf_counter() - start, 2),
        }


Task = Pretraining | Fit
Warn = Callable[[str, type[Warning]], None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that is drawn, and nothing that is computed.

    `runs` are pairs of the numbers of a split and of a repeat.
    """

    estimators: Mapping[str, Any]
    X: Any
    y: NDArray[Any]
    labeled: NDArray[np.bool_]
    unlabeled: Any
    splits: Sequence[Split]
    settings: Sequence[LabelSetting]
    runs: Sequence[tuple[int, int]]
    seed: int

    def pretrainings(self) -> list[Pretraining]:
        """List the pretrainings: one a split for each estimator that has any."""
        return [
            Pretraining(name, estimator, number, split, self._pretraining_seed(number))
            for number, split in enumerate(self.splits)
            for name, estimator in self.estimators.items()
            if find_pretrainers(estimator)
        ]

    def fits(self) -> list[Fit]:
        """List the fits in the order of the rows."""
        return [
            Fit(
                method=name,
                estimator=estimator,
                number=number,
                split=self.splits[number],
                setting=setting,
                repeat=repeat,
                labeled=self.labeled,
                unlabeled=self.unlabeled,
                validated=self._validates(estimator, setting, number),
                pretraining_seed=self._pretraining_seed(number),
                # What all methods share within a repeat. The labels of a smaller
                # fraction are among those of a larger.
                label_seed=derive_seed(self.seed, "labels", number, repeat),
                seed=derive_seed(self.seed, "fine-tuning", number, repeat),
            )
            for setting in self.settings
            for name, estimator in self.estimators.items()
            for number, repeat in self.runs
        ]

    def _pretraining_seed(self, number: int) -> int:
        # One for all methods: they start from one encoder and take volumes in one
        # order.
        return derive_seed(self.seed, "pretraining", number)

    def _validates(self, estimator: Any, setting: LabelSetting, number: int) -> bool:
        return (
            setting.labels_per_class >= VALIDATION_FROM
            and len(self.splits[number].validation) > 0
            and has_fit_parameter(estimator, "validation_data")
            # Takes its validation part from the labels that it is given.
            and getattr(estimator, "validation_fraction", None) is None
        )

    def run(
        self,
        *,
        memory: Any,
        folder: Path | None,
        n_jobs: int | None,
        verbose: int,
        warn: Warn,
    ) -> tuple[list[float], list[Result]]:
        """Compute what is missing.

        Return the seconds of the pretrainings and the results of the fits, in their
        order. A pretraining that nothing asked for, or that is another method's, has
        NaN.
        """
        pretrainings, fits = self.pretrainings(), self.fits()
        tasks: list[Task] = [*pretrainings, *fits]
        store = Store(folder, self.X, self.y)
        results = [store.read(task) for task in tasks]
        missing = [n for n, result in enumerate(results) if result is None]
        n_done = len(tasks) - len(missing)
        first, second = _stages(tasks, missing)
        with ExitStack() as stack:
            if memory is None and folder is not None:
                # Workers may have been started in another working directory.
                memory = str(folder.absolute() / "cache")
            elif memory is None:
                memory = stack.enter_context(TemporaryDirectory(prefix="sksubtomo-"))
            progress = stack.enter_context(
                tqdm(
                    total=n_done + len(first) + len(second),
                    initial=n_done,
                    desc="fits",
                    unit="fit",
                    disable=not verbose,
                )
            )
            tell = _once(warn)
            for stage in (first, second):
                numbered = [(n, tasks[n]) for n in stage]
                finished = _run_tasks(numbered, self.X, self.y, memory, n_jobs)
                with closing(finished):
                    for n, result, messages in finished:
                        results[n] = result
                        store.write(tasks[n], result)
                        progress.update()
                        for message, category in messages:
                            tell(f"{tasks[n].kind}: {message}", category)
        durations = [
            float("nan") if result is None else float(result["seconds"])
            for result in results[: len(pretrainings)]
        ]
        return durations, [result for result in results[len(pretrainings) :] if result]


def plan_comparison(
    estimators: Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    label_fractions: Sequence[float] | float,
    labels_per_class: int | Sequence[int] | None,
    n_repeats: int,
    cv: Any,
    groups: Any,
    unlabeled: Any,
    test_size: float,
    validation_size: float,
    resplit: bool,
    random_state: Any,
) -> Comparison:
    """Do everything that can fail on bad input; arguments of `label_fraction_curve`."""
    _check_estimators(estimators, unlabeled)
    numbers: Sequence[int] = (
        [labels_per_class]
        if isinstance(labels_per_class, int | np.integer)
        else (labels_per_class or ())
    )
    fractions: Sequence[float] = (
        [label_fractions]
        if isinstance(label_fractions, int | float)
        else label_fractions
    )
    _check_label_numbers(fractions, numbers)
    if not isinstance(n_repeats, Integral) or n_repeats < 1:
        raise ValueError(f"n_repeats={n_repeats!r}; expected an integer of at least 1.")
    if not (0 < test_size < 1 and 0 <= validation_size < 1 - test_size):
        raise ValueError(
            f"test_size={test_size!r} and validation_size={validation_size!r}; "
            "expected parts of the volumes that leave some to train and to test on."
        )
    if resplit and cv is not None:
        raise ValueError(
            f"resplit=True was given with cv={cv!r}; expected a splitter that splits "
            "several times, such as RepeatedStratifiedKFold, or cv=None."
        )
    X, y, groups = indexable(X, y, groups)
    groups = None if groups is None else column_or_1d(groups)
    y, labeled = check_labels(BaseEstimator(), X, y, unlabeled=unlabeled)
    classes, known = np.unique(y[labeled], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"all {len(known)} volumes are of class {classes.tolist()[0]!r}; expected "
            "at least two classes."
        )
    codes = np.full(len(y), UNLABELED)
    codes[labeled] = known
    seed = draw_seed(random_state)
    splits = plan_splits(
        X,
        codes,
        classes,
        groups,
        cv=cv,
        n_splits=n_repeats if resplit else 1,
        test_size=test_size,
        validation_size=validation_size,
        seed=seed,
    )
    trained = [codes[split.train] for split in splits]
    return Comparison(
        estimators=dict(estimators),
        X=X,
        y=y,
        labeled=labeled,
        unlabeled=unlabeled,
        splits=splits,
        settings=plan_label_settings(
            [part[part != UNLABELED] for part in trained],
            fractions,
            numbers,
        ),
        runs=(
            [(repeat, repeat) for repeat in range(n_repeats)]
            if resplit
            else list(product(range(len(splits)), range(n_repeats)))
        ),
        seed=seed,
    )


def _check_estimators(estimators: Mapping[str, Any], unlabeled: Any) -> None:
    if not isinstance(estimators, Mapping) or not estimators:
        raise ValueError(
            f"estimators={estimators!r}; expected a dict of classifiers by name."
        )
    for name, estimator in estimators.items():
        if isinstance(estimator, type) or not (
            hasattr(estimator, "fit") and hasattr(estimator, "predict")
        ):
            raise TypeError(
                f"estimators[{name!r}] is {estimator!r}; expected an instance of a "
                "classifier."
            )
        if isinstance(estimator, LabelFractionClassifier):
            raise ValueError(
                f"estimators[{name!r}] is a LabelFractionClassifier, but labels are "
                "hidden already; expected the classifier in it."
            )
        for parameter, own in estimator.get_params().items():
            is_mark = parameter.rpartition("__")[2] == "unlabeled" and own is not None
            if is_mark and own != unlabeled:
                raise ValueError(
                    f"estimators[{name!r}] has {parameter}={own!r}, but "
                    f"unlabeled={unlabeled!r} was given; expected the same in both."
                )
        if any(hasattr(found, "encoder_") for found in find_pretrainers(estimator)):
            raise ValueError(
                f"estimators[{name!r}] has a fitted pretrainer, which would be fitted "
                "again; pass FrozenEstimator(pretrainer) to keep its weights, or an "
                "unfitted one."
            )


def _check_label_numbers(
    label_fractions: Sequence[float], labels_per_class: Sequence[int]
) -> None:
    for name, given in (
        ("label_fractions", label_fractions),
        ("labels_per_class", labels_per_class),
    ):
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"{name}={given!r}; expected a sequence of numbers.")
    for fraction in label_fractions:
        if not (isinstance(fraction, Real) and 0 < fraction <= 1):
            raise ValueError(
                f"label_fractions holds {fraction!r}; expected numbers above 0 and up "
                "to 1."
            )
    for count in labels_per_class:
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(
                f"labels_per_class holds {count!r}; expected integers of at least 1."
            )
    if not (len(label_fractions) or len(labels_per_class)):
        raise ValueError(
            "label_fractions and labels_per_class are both empty; expected at least "
            "one number of labels."
        )


def _stages(
    tasks: Sequence[Task], missing: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return what can begin at once, and what needs a pretraining.

    Fits that need none fill the cores that the last pretrainings leave idle. The more
    labels, the longer a fit takes, and the longest come first.
    """
    fits = [(n, task) for n in missing if isinstance(task := tasks[n], Fit)]
    fits.sort(key=lambda item: -sum(item[1].setting.counts[item[1].number]))
    needed = {(fit.method, fit.number) for _, fit in fits}
    pretraining: dict[str, int] = {}
    pretrained = set()
    for n, task in enumerate(tasks):
        if isinstance(task, Pretraining):
            pretrained.add((task.method, task.number))
            if n in missing and (task.method, task.number) in needed:
                # Of those that are equal, the first.
                pretraining.setdefault(repr(task.identity), n)
    second = [n for n, fit in fits if (fit.method, fit.number) in pretrained]
    first = [n for n, fit in fits if (fit.method, fit.number) not in pretrained]
    return [*pretraining.values(), *first], second


def _run_tasks(
    tasks: Sequence[tuple[int, Task]],
    X: Any,
    y: NDArray[Any],
    memory: Any,
    n_jobs: int | None,
) -> Generator[tuple[int, Result, list[tuple[str, type[Warning]]]], None, None]:
    """Yield number, result and warnings of each task as it is finished."""
    backend, _ = get_active_backend()
    streams = backend.supports_return_generator
    # That of scikit-learn also sets the warning filters in each task, and threads would
    # leave them changed.
    parallel = joblib.Parallel(
        n_jobs=n_jobs,
        return_as="generator_unordered" if streams else "list",
        # Batches would hold finished fits back.
        batch_size=1,
    )
    config = get_config()
    results = parallel(
        joblib.delayed(_run_task)(n, task, X, y, memory, config) for n, task in tasks
    )
    try:
        yield from results
    finally:
        # Ends the workers if the consumer was interrupted.
        if streams:
            results.close()


def _run_task(
    n: int,
    task: Task,
    X: Any,
    y: NDArray[Any],
    memory: Any,
    config: dict[str, Any],
) -> tuple[int, Result, list[tuple[str, type[Warning]]]]:
    with (
        config_context(**config),
        _recorded_warnings() as messages,
        _naming(task.name),
    ):
        result = task.run(X, y, memory)
    return n, result, messages


@contextmanager
def _recorded_warnings() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Collect warnings, which would be lost in another process.

    In a thread beside others they go where they would without: what is caught is the
    whole process's.
    """
    messages: list[tuple[str, type[Warning]]] = []
    if threading.current_thread() is not threading.main_thread():
        yield messages
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages.extend((str(warning.message), warning.category) for warning in caught)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Let an error say in which task it was."""
    try:
        yield
    except Exception as error:
        match error.args:
            case (str(message),):
                error.args = (f"{what}: {message}",)
            case _:
                error.add_note(what)
        raise


def _once(warn: Warn) -> Warn:
    """Return a function that passes each warning on once."""
    told = set()

    def tell(message: str, category: type[Warning]) -> None:
        if message not in told:
            told.add(message)
            warn(message, category)

    return tell


class Store:
    """Results in a folder, each in a file named by all that decides it."""

    def __init__(self, folder: Path | None, X: Any, y: NDArray[Any]) -> None:
        self._folder = None if folder is None else folder / "cells"
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._of_all = (_digest_rows(X), joblib.hash(y), package_versions())

    def read(self, task: Task) -> Result | None:
        """Return the result of a task, if it is there and whole."""
        if self._folder is None:
            return None
        try:
            stored = json.loads(self._path(task).read_text("utf-8"))
            result = {"seconds": float(stored["seconds"])}
            if isinstance(task, Fit):
                result["accuracy"] = float(stored["accuracy"])
                if not 0 <= result["accuracy"] <= 1:
                    return None
        # What was lost or damaged is computed again.
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return result

    def write(self, task: Task, result: Result) -> None:
        """Keep the result of a task."""
        if self._folder is not None:
            text = json.dumps({**task.description, **result}, indent=2)
            write_text(self._path(task), text + "\n")

    def _path(self, task: Task) -> Path:
        assert self._folder is not None
        # Of a text, for the hash of an object also depends on which parts are shared.
        key = joblib.hash(repr((task.identity, self._of_all)))
        return self._folder / f"{key}.json"


def package_versions() -> dict[str, str]:
    """Return the versions that results depend on, by package."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "skorch")
    versions = {name: installed_version(name) for name in packages}
    return {"sksubtomo": __version__, **versions}


def _digest_rows(X: Any) -> str:
    if is_stored(X) and X.ndim == 4:
        return digest(StoredVolumes(X, X.shape[1:]))
    key: str = joblib.hash(X, coerce_mmap=True)
    return key
