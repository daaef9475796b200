"""Functions that return configured estimators."""

from __future__ import annotations

from typing import Any

from sksubtomo.classification import RB3DClassifier
from sksubtomo.contrastive import METHODS, MoCo
from sksubtomo.pretraining import ContrastivePretrainer

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
        If `method` or `data` is not known.

    See Also
    --------
    sksubtomo.RB3DClassifier : Its own defaults reach far higher accuracy on few
        labels than the paper's fine-tuning does.

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
    if method is not None and method not in METHODS:
        raise ValueError(
            f"method={method!r}; expected None or one of {sorted(METHODS)}."
        )
    pretrainer = None
    if method is not None:
        objective = METHODS[method]()
        if method == "moco":
            objective = MoCo(
                temperature=0.2, queue_size=_QUEUE_SIZES[data], momentum=0.999
            )
        pretrainer = ContrastivePretrainer(
            objective,
            encoder="rb3d",
            augmentation="crop_affine",
            max_epochs=200,
            batch_size=16,
            lr=1e-4,
            weight_decay=1e-4,
        )
    few_experimental_labels = data == "experimental" and label_fraction <= 0.5
    classifier = RB3DClassifier(
        pretrainer,
        standardize_features=False,
        optimizer="sgd",
        lr=1e-4 if few_experimental_labels else 5e-4,
        weight_decay=1e-4,
        batch_size=16,
        max_epochs=50,
    )
    return classifier.set_params(**parameters)
