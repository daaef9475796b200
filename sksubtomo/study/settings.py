"""What a study is told to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from sksubtomo._parameters import resolve
from sksubtomo.augmentation import AUGMENTATIONS, RotateShiftNoise
from sksubtomo.contrastive import METHODS, MoCo, SimCLR, SwAV
from sksubtomo.networks import ENCODERS

BASELINE = "random"
"""The method that starts from random weights."""

RECIPES = ("gupta2022", "recommended")
"""The functions of ``sksubtomo.recipes`` that a study knows."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What a study does; all defaults of ``python -m sksubtomo study``.

    Attributes
    ----------
    data : str, Path or None, default=None
        MRC stack of the user's volumes. None means that volumes are simulated.
    labels : str, Path or None, default=None
        CSV file with a column ``label`` in the order of the stack.
    structures : str, Path, sequence or None, default=None
        The classes to simulate, as for `make_subtomograms`; None means six of the
        embedded phantoms, the first in the order of their names.
    size : int, default=12
        Side of the simulated volumes in voxels.
    voxel_size : float, default=None
        In angstroms; None means the smallest that fits.
    resolution : float, default=None
        In angstroms; None means two voxels.
    snr : float, default=1.0
        Signal-to-noise variance ratio.
    n_neighbors : int, default=1
        Complexes around the target.
    max_shift : float, default=0.1
        Largest shift off the centre, as a fraction of the side.
    n_per_class : int, default=70
        Simulated volumes of each class, of which 60 % are for training.
    fractions : tuple of float, default=(0.25, 1.0)
        Parts of the training labels to fine-tune on.
    labels_per_class : tuple of int, default=(5,)
        Numbers of labels of each class to fine-tune on.
    repeats : int, default=3
        Number of label subsets and seeds of fine-tuning.
    methods : dict of str to method, default SimCLR, SwAV and MoCo
        The contrastive methods, by the name that the tables have. MoCo's momentum is
        0.99: at the paper's 0.999 the key encoder would hardly move in so few steps.
    encoder : str or object, default="rb3d"
        The network of every row but the recipes'.
    views : str or object, default=RotateShiftNoise(max_translation=0.05)
        The augmentation of pretraining.
    recipes : tuple of str, default=("gupta2022", "recommended")
        Functions of `sksubtomo.recipes` that are shown beside the methods. They have
        their own encoder, views and training, but for `epochs` and, unless it is None,
        `fine_tune_epochs`.
    epochs : int, default=70
        Of pretraining, in every row that has one.
    batch_size : int, default=16
        Of pretraining.
    lr : float, default=5e-4
        Learning rate of pretraining.
    weight_decay : float, default=1e-4
        Of pretraining.
    fine_tune_epochs : int, default=None
        Of fine-tuning, in every row. None means 50 epochs, and in the row of
        `recommended` at least 2,000 steps. But for the recipes', the rows are
        fine-tuned without views; everything else is the classifier's or recipe's
        default.
    device : str, default="cpu"
        Where to compute. On small volumes an accelerator gains little, and the CPU
        gives the same numbers on most machines.
    seed : int, default=0
        Determines data, split, weights, views and label subsets.
    """

    data: str | Path | None = None
    labels: str | Path | None = None
    structures: str | Path | Sequence[Any] | None = None
    size: int = 12
    voxel_size: float | None = None
    resolution: float | None = None
    snr: float = 1.0
    n_neighbors: int = 1
    max_shift: float = 0.1
    n_per_class: int = 70
    fractions: Sequence[float] = (0.25, 1.0)
    labels_per_class: Sequence[int] = (5,)
    repeats: int = 3
    methods: Mapping[str, Any] = field(
        default_factory=lambda: {
            "simclr": SimCLR(),
            "swav": SwAV(),
            "moco": MoCo(momentum=0.99),
        }
    )
    encoder: Any = "rb3d"
    views: Any = field(default_factory=lambda: RotateShiftNoise(max_translation=0.05))
    recipes: Sequence[str] = RECIPES
    epochs: int = 70
    batch_size: int = 16
    lr: float = 5e-4
    weight_decay: float = 1e-4
    fine_tune_epochs: int | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        minima = {"repeats": 1, "epochs": 1, "batch_size": 1, "seed": 0}
        if self.fine_tune_epochs is not None:
            minima["fine_tune_epochs"] = 1
        for name, minimum in minima.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise ValueError(
                    f"{name}={value!r}; expected an integer of at least {minimum}."
                )
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"fractions holds {fraction!r}; expected numbers above 0 and up to "
                    "1."
                )
        for count in self.labels_per_class:
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(
                    f"labels_per_class holds {count!r}; expected integers of at least "
                    "1."
                )
        if not (self.fractions or self.labels_per_class):
            raise ValueError(
                "fractions and labels_per_class are both empty; expected at least one "
                "number of labels."
            )
        taken = {BASELINE, *RECIPES} & set(self.methods)
        if not self.methods or taken:
            raise ValueError(
                f"methods has the names {sorted(self.methods)}; expected at least one, "
                f"and none that is called {' or '.join(map(repr, sorted(taken)))}."
                if taken
                else "methods is empty; expected at least one."
            )
        for recipe in self.recipes:
            if recipe not in RECIPES:
                raise ValueError(
                    f"recipes holds {recipe!r}; expected some of {list(RECIPES)}."
                )
        for given, missing in (("data", "labels"), ("labels", "data")):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                raise ValueError(
                    f"{given} was given without {missing}; expected both, a stack of "
                    "volumes and a CSV file with their labels, or neither."
                )
        if self.data is not None and self.structures is not None:
            raise ValueError(
                "data and structures were both given; expected volumes of your own or "
                "structures to simulate."
            )
        for name, method in self.methods.items():
            resolve(method, METHODS, f"methods[{name!r}]")
        resolve(self.encoder, ENCODERS, "encoder")
        resolve(self.views, AUGMENTATIONS, "views")
