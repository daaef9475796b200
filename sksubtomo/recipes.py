"""Functions that return configured estimators."""

from __future__ import annotations

from typing import Any

from sksubtomo.augmentation import CropAffine, RotateShiftNoise
from sksubtomo.classification import RB3DClassifier
from sksubtomo.contrastive import MoCo, SimCLR, SwAV
from sksubtomo.networks import RB3D
from sksubtomo.pretraining import ContrastivePretrainer

_METHODS = ("moco", "simclr", "swav")
_QUEUE_SIZES = {"simulated": 128, "experimental": 64}


def gupta2022(
    method: str | None = "moco",
    *,
    data: str = "simulated",
    label_fraction: float = 1.0,
    **parameters: Any,
) -> RB3DClassifier:
    """Return the classifier of Gupta et al. (2022), with the paper's settings.

    RB3D without normalisation; pretraining with Adam, learning rate 1e-4, weight
    decay 1e-4, batches of 16, 200 epochs, and the in-plane augmentation;
    fine-tuning with stochastic gradient descent (momentum 0.9), learning rate 5e-4
    falling along a cosine, weight decay 1e-4, batches of 16, 50 epochs.

    The paper keeps the epoch of the best validation accuracy: pass its validation
    volumes to ``fit`` as `validation_data`, or give `validation_fraction`.

    Parameters
    ----------
    method : {"simclr", "moco", "swav"} or None, default="moco"
        The pretraining; None is random initialisation. Only MoCo's settings are
        printed in the paper: temperature 0.2, momentum 0.999. SimCLR's and SwAV's
        were "inherited" from work with batches of thousands of images, which has no
        counterpart here: they get this package's defaults and MoCo's optimiser.
    data : {"simulated", "experimental"}, default="simulated"
        Which of the paper's two protocols. On experimental data MoCo's queue holds
        64 keys in place of 128, and up to half of the labels the learning rate of
        fine-tuning is 1e-4.
    label_fraction : float, default=1.0
        Part of the labels that the classifier will be trained on. It decides the
        learning rate on experimental data and hides no labels; that is for
        :class:`~sksubtomo.LabelFractionClassifier`.
    **parameters
        Other parameters of the classifier, such as `random_state`, `memory` or
        `max_epochs`; with ``pretrainer__`` in front, of the pretrainer.

    Returns
    -------
    RB3DClassifier
        An unfitted classifier.

    Raises
    ------
    ValueError
        If `method` or `data` is not known, or something is given of the pretrainer
        that `method` None does not have.

    See Also
    --------
    recommended : Reaches far higher accuracy on few labels.

    References
    ----------
    T. Gupta et al., "Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms", Frontiers in Physiology 13,
    2022.

    Examples
    --------
    >>> from sksubtomo.recipes import gupta2022
    >>> classifier = gupta2022("moco", random_state=0)
    >>> classifier.optimizer, classifier.lr, classifier.pretrainer.max_epochs
    ('sgd', 0.0005, 200)
    """
    if data not in _QUEUE_SIZES:
        raise ValueError(f"data={data!r}; expected one of {sorted(_QUEUE_SIZES)}.")
    if method is not None and method not in _METHODS:
        raise ValueError(
            f"method={method!r}; expected None or one of {list(_METHODS)}."
        )
    pretrainer = None
    if method is not None:
        objectives = {
            "simclr": SimCLR(temperature=0.2),
            "swav": SwAV(
                n_prototypes=30,
                temperature=0.1,
                epsilon=0.03,
                n_iterations=3,
                frozen_epochs=1,
                queue_size=256,
            ),
            "moco": MoCo(
                temperature=0.2, queue_size=_QUEUE_SIZES[data], momentum=0.999
            ),
        }
        pretrainer = ContrastivePretrainer(
            objectives[method],
            encoder=RB3D(norm=None),
            augmentation=CropAffine(
                p_crop=0.5,
                crop_scale=(0.5, 1.0),
                p_affine=0.5,
                max_rotation=45.0,
                max_translation=0.1,
                max_scaling=0.1,
            ),
            normalize="dataset",
            mask=None,
            max_epochs=200,
            batch_size=16,
            optimizer="adam",
            lr=1e-4,
            schedule="constant",
            weight_decay=1e-4,
        )
    elif names := [name for name in parameters if name.startswith("pretrainer__")]:
        raise ValueError(
            f"{names[0]} is given, but method=None has no pretrainer; expected one of "
            f"{list(_METHODS)}."
        )
    few_experimental_labels = data == "experimental" and label_fraction <= 0.5
    classifier = RB3DClassifier(
        pretrainer,
        encoder=RB3D(norm=None),
        standardize_features=False,
        normalize="dataset",
        mask=None,
        augmentation=None,
        optimizer="sgd",
        schedule="cosine",
        lr=1e-4 if few_experimental_labels else 5e-4,
        encoder_lr=None,
        weight_decay=1e-4,
        label_smoothing=0.0,
        average_weights=None,
        batch_size=16,
        max_epochs=50,
        self_training=None,
        test_views=1,
    )
    return classifier.set_params(**parameters)


def recommended(**parameters: Any) -> RB3DClassifier:
    """Return the classifier that was best with few labels.

    Pretraining by SimCLR on RB3D with group normalisation, in batches of 64, with a
    learning rate of 1e-3 along a cosine after a warm-up. Views from all directions
    that know the tomogram: uniform rotations, after which the missing wedge is applied
    again where it was, exact half turns and mirror images, shifts and noise; a sphere
    is cut out of each. Fine-tuning on the same kind of views, with a third of the
    learning rate for the encoder. Probabilities are averaged over the four orientations
    that leave the missing wedge of a symmetric tilt range where it is. Both trainings
    run for at least 2,000 steps, however few the volumes, and the pretraining for at
    least 100 epochs.

    Each of these was measured on its own: :ref:`paper_tables` has the accuracy beside
    that of the paper's networks and recipes, and what it loses without each part.

    Parameters
    ----------
    **parameters
        Other parameters of the classifier, such as `random_state`, `memory`,
        `unlabeled` or `max_epochs`; with ``pretrainer__`` in front, of the pretrainer.
        With ``pretrainer=None`` the same network learns from random weights, on the
        same views and with the same mask, and the encoder at the head's rate. With a
        pretrainer of one's own, fine-tuning has its views unless `augmentation` is
        given.

    Returns
    -------
    RB3DClassifier
        An unfitted classifier.

    See Also
    --------
    gupta2022 : The paper's own settings.

    Notes
    -----
    It supposes that the class of a particle does not depend on its orientation, and
    that the particle lies near the centre. Change it where that is not so:

    - Particles larger than two thirds of the volume, or far off its centre, are cut by
      the mask: compare with ``pretrainer__mask=None``.
    - Volumes that were aligned, or membrane proteins whose orientation tells them
      apart, need views that keep it: an `augmentation` of
      ``RotateShiftNoise(rotate=False, flips=None)``, ``test_views=1``.
    - Beam and tilt axis are taken to run along axes of the volume. Where they do not,
      such as after an alignment, ``RotateShiftNoise(wedge=None)`` in both places.
    - Classes that are mirror images of each other need ``flips="half_turns"``.

    Examples
    --------
    >>> from sksubtomo.recipes import recommended
    >>> classifier = recommended(unlabeled=-1, pretrainer__max_epochs=100)
    >>> classifier.pretrainer.encoder, classifier.pretrainer.max_epochs
    (RB3D(norm='group'), 100)
    """
    pretrainer = ContrastivePretrainer(
        SimCLR(),
        encoder=RB3D(norm="group"),
        augmentation=RotateShiftNoise(wedge="estimate", flips="mirrors"),
        mask="sphere",
        max_epochs="auto",
        batch_size=64,
        optimizer="adam",
        lr=1e-3,
        schedule="warmup_cosine",
        weight_decay=1e-4,
    )
    classifier = RB3DClassifier(
        pretrainer,
        augmentation=RotateShiftNoise(wedge="estimate", flips="mirrors"),
        max_epochs="auto",
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        encoder_lr=3e-4,
        schedule="warmup_cosine",
        weight_decay=1e-4,
        test_views=4,
    )
    if parameters.get("pretrainer", pretrainer) is None:
        # The pretrainer had the mask, and weights to be kept.
        classifier.set_params(mask="sphere", encoder_lr=None)
    elif "pretrainer" in parameters and not any(
        name.startswith("augmentation") for name in parameters
    ):
        # Who made it has said there which views suit the data.
        classifier.set_params(augmentation="auto")
    return classifier.set_params(**parameters)
