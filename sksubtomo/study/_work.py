"""The work, in processes of their own: pretraining and fine-tuning."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sksubtomo._files import write_atomically
from sksubtomo.model_selection import LabelFractionRow
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.study._data import Parts
from sksubtomo.study._plan import Cell, Pretraining, Task


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining leaves on disk."""

    pretrainer: ContrastivePretrainer
    seconds: float
    messages: list[tuple[str, type[Warning]]]


def run_tasks(
    tasks: Sequence[Task], parts: Parts, n_jobs: int | None
) -> Iterator[tuple[Cell, LabelFractionRow] | None]:
    """Yield each cell with its row as it is finished, and None for a pretraining."""
    n_jobs = -1 if n_jobs is None else n_jobs
    with joblib.parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=1):
        # Batches would hold finished cells back.
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        results = parallel(joblib.delayed(_run_task)(task, parts) for task in tasks)
    try:
        yield from results
    finally:
        # Ends the workers if the consumer was interrupted.
        results.close()


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one thread: sums then have one order, whatever `n_jobs`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@single_thread()
def _run_task(task: Task, parts: Parts) -> tuple[Cell, LabelFractionRow] | None:
    if isinstance(task, Cell):
        return task, _fine_tune(task, parts)
    _pretrain(task, parts)
    return None


def _pretrain(task: Pretraining, parts: Parts) -> None:
    """Pretrain, and leave the result on disk, whatever becomes of the parent."""
    start = time.perf_counter()
    # Warnings of other processes would be lost; they are kept for the report.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pretrainer = clone(task.pretrainer).fit(parts.X_train)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"pretraining {task.method} with {task.views} views: {error}"
            ) from error
    messages = {str(warning.message): warning.category for warning in caught}
    result = Pretrained(
        pretrainer=pretrainer,
        seconds=round(time.perf_counter() - start, 1),
        messages=list(messages.items()),
    )
    task.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(task.path, lambda path: joblib.dump(result, path))


def load_pretrained(path: Path) -> Pretrained | None:
    """Load what a pretraining left, if it is there and intact."""
    try:
        loaded = joblib.load(path)
    # A damaged pickle raises anything. What was lost is computed again.
    except Exception:
        return None
    return loaded if isinstance(loaded, Pretrained) else None


def _fine_tune(cell: Cell, parts: Parts) -> LabelFractionRow:
    classifier = clone(cell.classifier)
    if cell.start is not None:
        pretrainer = joblib.load(cell.start.path).pretrainer
        classifier.set_params(estimator__pretrainer=FrozenEstimator(pretrainer))
    start = time.perf_counter()
    try:
        classifier.fit(
            parts.X_train,
            parts.y_train,
            validation_data=(
                (parts.X_val, parts.y_val) if cell.validation_labels else None
            ),
        )
    except FloatingPointError as error:
        _, method, *_ = cell.key
        raise FloatingPointError(
            f"fine-tuning from {method} on {cell.setting.n_labels} labels, repeat "
            f"{cell.repeat}: {error}"
        ) from error
    accuracy = float(np.mean(classifier.predict(parts.X_test) == parts.y_test))
    seconds = time.perf_counter() - start
    return LabelFractionRow(*cell.key[1:], accuracy, round(seconds, 2))
