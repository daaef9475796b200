"""Pretrainers inside estimators: found, fitted once, and frozen."""

from __future__ import annotations

from typing import Any

import joblib
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sksubtomo._caching import fit_once
from sksubtomo._parameters import describe
from sksubtomo._volumes import check_fit_volumes
from sksubtomo.pretraining import ContrastivePretrainer

# What an estimator is told that does not change what it learns, or is replaced.
_WITHOUT_EFFECT = ("verbose", "memory", "n_jobs", "checkpoint_dir", "random_state")


def find_pretrainers(estimator: Any) -> list[ContrastivePretrainer]:
    """Return the pretrainers that an estimator is or has in it, but for frozen ones."""
    if isinstance(estimator, ContrastivePretrainer):
        return [estimator]
    return [
        pretrainer
        for child in _children(estimator).values()
        for pretrainer in find_pretrainers(child)
    ]


def freeze_pretrainers(
    estimator: Any, X: Any, memory: Any, seed: int, volume_shape: Any = None
) -> Any:
    """Return a clone whose pretrainers are fitted on X and frozen.

    In a pipeline they see X as the steps before them, fitted without labels, leave it.
    """
    estimator = clone(estimator)
    if isinstance(estimator, ContrastivePretrainer):
        if volume_shape is None:
            volume_shape = estimator.volume_shape
        estimator.set_params(random_state=seed)
        volumes = check_fit_volumes(
            estimator, X, volume_shape=volume_shape, min_volumes=2
        )
        return FrozenEstimator(fit_once(estimator, volumes, memory))
    shape = getattr(estimator, "volume_shape", None)
    holding = {
        name: child
        for name, child in _children(estimator).items()
        if find_pretrainers(child)
    }
    if not isinstance(estimator, Pipeline):
        return estimator.set_params(
            **{
                name: freeze_pretrainers(child, X, memory, seed, shape)
                for name, child in holding.items()
            }
        )
    for name, step in estimator.steps:
        if name in holding:
            step = freeze_pretrainers(step, X, memory, seed)
            estimator.set_params(**{name: step})
            del holding[name]
        if not holding:
            break
        if step not in (None, "passthrough"):
            X = clone(step).fit_transform(X)
    return estimator


def seed_parameters(estimator: Any, seed: int) -> Any:
    """Set each `random_state` of an estimator, and of those in it, to one seed."""
    return estimator.set_params(
        **{
            name: seed
            for name in estimator.get_params()
            if name.rpartition("__")[2] == "random_state"
        }
    )


def describe_estimator(estimator: Any) -> tuple[Any, ...]:
    """Write down what decides what an estimator learns, but for its seeds."""
    parameters = estimator.get_params()
    neutral = clone(estimator).set_params(
        **{
            name: None
            for name in parameters
            if name.rpartition("__")[2] in _WITHOUT_EFFECT
        }
    )
    frozen = {
        name: joblib.hash(value)
        for name, value in parameters.items()
        if isinstance(value, FrozenEstimator)
    }
    return sorted(describe({"": neutral}).items()), sorted(frozen.items())


def _children(estimator: Any) -> dict[str, Any]:
    """Return the estimators directly inside of one that is not frozen."""
    if isinstance(estimator, FrozenEstimator | type):
        return {}
    if not hasattr(estimator, "get_params"):
        return {}
    # The deep parameters of pipelines and ensembles have their parts by name.
    return {
        name: value
        for name, value in estimator.get_params().items()
        if "__" not in name and hasattr(value, "get_params")
    }
