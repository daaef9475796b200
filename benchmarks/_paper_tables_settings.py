"""What the tables of `paper_tables` are made of: data, epochs and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sksubtomo import (
    ContrastivePretrainer,
    RB3DClassifier,
    SelfDistillation,
    SubtomogramClassifier,
    contrastive,
    networks,
    recipes,
)
from sksubtomo.datasets.presets import PRESETS

COMPLEXES = (
    *("1bxn", "1mnf", "1qvr", "1u6g", "2cg9"),
    *("3cf3", "3gl1", "3hhb", "3j9i", "4v1w"),
)

# Of the kind of Noble's seven: a proteasome, apoferritin, and further enzymes.
SEVEN = ("1bxn", "1mnf", "1u6g", "3cf3", "3gl1", "3j9i", "4v1w")

# Below this many labels a class, a validation part would outnumber the labels that are
# studied, and none is used.
VALIDATION_FROM = 20


@dataclass(frozen=True)
class DataSet:
    """Simulated volumes, split 60:20:20 class by class.

    Parameters
    ----------
    classes : tuple of str
        PDB entries.
    snrs : tuple of float
        Signal-to-noise ratios, a column each.
    n_per_class : int
        Volumes of each class to split.
    n_extra : int
        Further volumes of each class, which are in the test part of every repeat.
    size : int
        Side of the volumes in voxels.
    simulation : dict
        Further parameters of `make_subtomograms`.
    preset : str, default=None
        A `simulation_preset` that these parameters are added to.
    protocol : {"simulated", "experimental"}, default="simulated"
        Which of the paper's two protocols its rows follow.
    """

    classes: tuple[str, ...]
    snrs: tuple[float, ...]
    n_per_class: int
    n_extra: int
    size: int
    simulation: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    protocol: str = "simulated"

    @property
    def n_held_out(self) -> int:
        """Validation volumes of each class, and test volumes without the extra ones."""
        return round(self.n_per_class / 5)

    @property
    def n_train(self) -> int:
        """Training volumes of each class."""
        return self.n_per_class - 2 * self.n_held_out

    def n_labels(self, label: str) -> int:
        """Return the labels of each class that "5" or "25%" stands for."""
        if label.endswith("%"):
            return max(1, round(float(label[:-1]) / 100 * self.n_train))
        return min(int(label), self.n_train)


@dataclass(frozen=True)
class Scale:
    """What a table is made of.

    Parameters
    ----------
    data : dict of str to DataSet
        By the name that the table has.
    labels : tuple of str
        Numbers of labels of each class, or percentages of the training part.
    repeats : int
        Repeats of each row; each has its own split, labels, seed and pretraining.
    pretrain_epochs : int
        Of every pretrained row.
    fine_tune_epochs, fine_tune_steps : int
        The least of both, of every row but those with epochs of their own.
    data_seed : int
        Seed of the simulation.
    paper_repeats : int, default=None
        Repeats of the paper's rows, where there are more of these: pretraining is worth
        few points there, and three repeats show no difference of that size.
    """

    data: Mapping[str, DataSet]
    labels: tuple[str, ...]
    repeats: int
    pretrain_epochs: int
    fine_tune_epochs: int = 50
    fine_tune_steps: int = 2000
    data_seed: int = 0
    paper_repeats: int | None = None

    def repeats_of(self, method: str) -> int:
        """Return the repeats of a row."""
        if method in PAPER_ROWS and self.paper_repeats is not None:
            return self.paper_repeats
        return self.repeats


SCALES = {
    "small": Scale(
        data={
            "ten_complexes": DataSet(
                classes=COMPLEXES,
                snrs=(2.0,),
                n_per_class=60,
                n_extra=88,
                size=12,
                simulation={"n_neighbors": 1},
            )
        },
        labels=("5", "15", "25%", "100%"),
        repeats=3,
        pretrain_epochs=300,
        paper_repeats=5,
    ),
    # Other volumes of the same kind, on which the recipe was chosen.
    "development": Scale(
        data={
            "ten_complexes": DataSet(
                classes=COMPLEXES,
                snrs=(2.0,),
                n_per_class=60,
                n_extra=88,
                size=12,
                simulation={"n_neighbors": 1},
            )
        },
        labels=("5", "25%", "100%"),
        repeats=3,
        pretrain_epochs=300,
        data_seed=1000,
    ),
    "paper": Scale(
        data={
            "gupta2022": DataSet(
                classes=PRESETS["gupta2022"],
                snrs=(float("inf"), 0.05, 0.03),
                n_per_class=500,
                n_extra=0,
                size=32,
                preset="gupta2022",
            ),
            "experimental_like": DataSet(
                classes=SEVEN,
                snrs=(0.1,),
                n_per_class=400,
                n_extra=0,
                size=28,
                # A purified sample: the particle alone, or nearly so, and centred.
                simulation={"voxel_size": 10.0, "n_neighbors": 1, "max_shift": 0.05},
                protocol="experimental",
            ),
        },
        labels=("5", "25%", "50%", "75%", "100%"),
        repeats=5,
        pretrain_epochs=200,
    ),
}

# Of the paper's rows, the Che networks and the batch-normalised one. Written out, for
# the defaults of the estimators are not the baseline's. The scale's epochs are set when
# a cell is computed.
FINE_TUNING: dict[str, Any] = {
    "standardize_features": True,
    "normalize": "dataset",
    "mask": None,
    "augmentation": None,
    "optimizer": "adam",
    "lr": 1e-3,
    "encoder_lr": None,
    "schedule": "cosine",
    "weight_decay": 1e-4,
    "label_smoothing": 0.0,
    "average_weights": None,
    "test_views": 1,
    "batch_size": 16,
    "max_epochs": 50,
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Parameters
    ----------
    build : callable
        Maps the paper's protocol ("simulated" or "experimental") and the fraction of
        labels to an unfitted classifier, with its pretrainer if it has one.
    own_epochs : bool, default=False
        Whether it is fine-tuned for its own `max_epochs` and not for the scale's.
    late : bool, default=False
        Whether a repeat's other rows come first: for expensive ones that no goal asks
        for.
    labels : tuple of str, default=None
        Some of the scale's labels, for a row that is not computed at all of them.
    steps : int, default=None
        The least number of steps, where it is not the scale's.
    """

    build: Callable[[str, float], SubtomogramClassifier]
    own_epochs: bool = False
    late: bool = False
    labels: tuple[str, ...] | None = None
    steps: int | None = None


def paper_row(method: str | None) -> Row:
    """Return the paper's pretraining with a fine-tuning that learns.

    As in the paper's experimental protocol, the learning rate is lower with up to half
    of the labels, here that of a pretrained encoder: with the head's it soon forgets.
    From random weights the head's is better at any number of labels.
    """

    def build(protocol: str, fraction: float) -> SubtomogramClassifier:
        classifier = recipes.gupta2022(method, data=protocol, label_fraction=fraction)
        classifier.set_params(**FINE_TUNING)
        if method is not None and fraction <= 0.5:
            classifier.set_params(encoder_lr=1e-4)
        return classifier

    return Row(build)


def letter_row(method: str | None) -> Row:
    """Return the paper's pretraining and fine-tuning."""
    return Row(
        lambda protocol, fraction: recipes.gupta2022(
            method, data=protocol, label_fraction=fraction
        ),
        own_epochs=True,
    )


def scratch_row(
    build_encoder: Callable[[], Any],
    changes: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Row:
    """Return a network that is trained on the labels only."""
    return Row(
        lambda protocol, fraction: SubtomogramClassifier(
            encoder=build_encoder(), **{**FINE_TUNING, **(changes or {})}
        ),
        **kwargs,
    )


def recommended_row(**changes: Any) -> Row:
    """Return the recommended recipe, or one with a component changed.

    A change of the views is one of pretraining and of fine-tuning.
    """
    for name in [name for name in changes if name.startswith("views__")]:
        value = changes.pop(name)
        for place in ("augmentation", "pretrainer__augmentation"):
            changes[name.replace("views", place, 1)] = value
    return Row(
        lambda protocol, fraction: recipes.recommended().set_params(**changes),
        own_epochs=True,
        labels=_FEW if changes else None,
    )


def other_encoder_row(build_encoder: Callable[[], Any]) -> Row:
    """Return the recommended recipe on an encoder of another family than RB3D."""

    def build(protocol: str, fraction: float) -> SubtomogramClassifier:
        recipe = recipes.recommended(pretrainer__encoder=build_encoder())
        return SubtomogramClassifier(**recipe.get_params(deep=False))

    return Row(build, own_epochs=True, labels=_FEW)


# The paper's, all of whose best the goals compare with.
PAPER_ROWS = {
    "random": paper_row(None),
    "simclr": paper_row("simclr"),
    "swav": paper_row("swav"),
    "moco": paper_row("moco"),
    "random_sgd": letter_row(None),
    "simclr_sgd": letter_row("simclr"),
    "swav_sgd": letter_row("swav"),
    "moco_sgd": letter_row("moco"),
}

_FEW = ("5", "25%")

# One component at a time.
ABLATIONS = {
    "recommended_without_pretraining": Row(
        lambda protocol, fraction: recipes.recommended(
            pretrainer=None, encoder=networks.RB3D(norm="group")
        ),
        own_epochs=True,
    ),
    "recommended_without_norm": recommended_row(pretrainer__encoder__norm=None),
    "recommended_without_rotations": recommended_row(views__rotate=False),
    "recommended_without_wedge": recommended_row(views__wedge=None),
    "recommended_without_flips": recommended_row(views__flips=None),
    "recommended_without_noise": recommended_row(views__noise=0.0),
    "recommended_without_mask": recommended_row(pretrainer__mask=None),
    "recommended_without_schedule": recommended_row(
        pretrainer__schedule="constant", schedule="constant"
    ),
    "recommended_without_fine_tuning_views": recommended_row(augmentation=None),
    "recommended_without_many_steps": recommended_row(max_epochs=50),
    "recommended_without_encoder_lr": recommended_row(encoder_lr=None),
    "recommended_without_test_views": recommended_row(test_views=1),
}

# What was tried beside it, on the development data only.
CANDIDATES = {
    "recommended_with_resnet3d": other_encoder_row(lambda: networks.ResNet3D()),
    "recommended_with_bn_cnn": other_encoder_row(lambda: networks.BatchNormCNN()),
    "recommended_with_byol": recommended_row(pretrainer__method=contrastive.BYOL()),
    "recommended_with_vicreg": recommended_row(pretrainer__method=contrastive.VICReg()),
    "recommended_with_moco": recommended_row(
        pretrainer__method=contrastive.MoCo(momentum=0.99)
    ),
    "recommended_with_decoupled_loss": recommended_row(
        pretrainer__method__decoupled=True
    ),
    "recommended_with_temperature_0.5": recommended_row(
        pretrainer__method__temperature=0.5
    ),
    "recommended_with_contrast": recommended_row(views__contrast=0.2),
    "recommended_with_half_turns": recommended_row(views__flips="half_turns"),
    "recommended_with_given_wedge": recommended_row(views__wedge=(-60.0, 60.0)),
    "recommended_with_batches_of_128": recommended_row(
        pretrainer__batch_size=128, pretrainer__lr=2e-3
    ),
    "recommended_with_adamw": recommended_row(
        pretrainer__optimizer="adamw",
        optimizer="adamw",
        pretrainer__weight_decay=0.05,
        weight_decay=0.05,
    ),
    "recommended_with_label_smoothing": recommended_row(label_smoothing=0.1),
    "recommended_with_averaged_weights": recommended_row(average_weights=0.99),
    "recommended_with_self_distillation": recommended_row(
        self_training=SelfDistillation(max_epochs=60)
    ),
    "recommended_with_sharp_self_distillation": recommended_row(
        self_training=SelfDistillation(
            temperature=0.5, max_epochs=60, from_teacher=True
        )
    ),
    "recommended_with_24_test_views": recommended_row(test_views=24),
    # What the views, the mask and the training are worth to other networks, and the
    # network without them.
    "bn_cnn_with_views": Row(
        lambda protocol, fraction: SubtomogramClassifier(
            **recipes.recommended(
                pretrainer=None, encoder=networks.BatchNormCNN()
            ).get_params(deep=False)
        ),
        own_epochs=True,
    ),
    "rb3d_with_norm": scratch_row(lambda: networks.RB3D(norm="group")),
    "defaults": Row(
        lambda protocol, fraction: RB3DClassifier(ContrastivePretrainer()),
        own_epochs=True,
    ),
    "defaults_without_pretraining": Row(
        lambda protocol, fraction: RB3DClassifier(), own_epochs=True
    ),
    # Baselines at a lower rate.
    "rb3d_che2018_with_lr_1e-4": scratch_row(
        lambda: networks.RB3D(variant="che2018"), {"lr": 1e-4}, labels=("25%",)
    ),
    "dsrf3d_v2_with_lr_1e-4": scratch_row(
        lambda: networks.DSRF3D(), {"lr": 1e-4}, labels=("25%",)
    ),
    "bn_cnn_with_lr_1e-4": scratch_row(
        lambda: networks.BatchNormCNN(), {"lr": 1e-4}, labels=("25%",)
    ),
}

ROWS: dict[str, Row] = {
    **PAPER_ROWS,
    "rb3d_che2018": scratch_row(lambda: networks.RB3D(variant="che2018")),
    "dsrf3d_v2": scratch_row(lambda: networks.DSRF3D()),
    # Of 46 million weights at 12^3: 1,000 steps take a quarter of an hour on one core.
    # At the others' rate it hardly learns.
    "cb3d": scratch_row(
        lambda: networks.CB3D(),
        {"lr": 1e-4},
        late=True,
        labels=("25%", "100%"),
        steps=1000,
    ),
    "bn_cnn": scratch_row(lambda: networks.BatchNormCNN()),
    "recommended": recommended_row(),
    **ABLATIONS,
    **CANDIDATES,
}
