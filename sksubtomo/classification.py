"""Classifiers of volumes, from pretrained or random weights."""

import warnings
from dataclasses import replace
from functools import partial
from inspect import cleandoc
from numbers import Integral, Real
from os import PathLike

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from sksubtomo._caching import fit_once
from sksubtomo._labels import (
    check_labels,
    draw_by_class,
    encode_labels,
    unpack_validation_data,
)
from sksubtomo._parameters import resolve
from sksubtomo._saving import SavedModelMixin
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.distribution import agree, join_processes
from sksubtomo._training.fitting import (
    OPTIMIZERS,
    SCHEDULES,
    ClassifierNetwork,
    TrainingOptions,
    enough_epochs,
    fine_tune,
)
from sksubtomo._training.inference import apply_in_batches, class_probabilities
from sksubtomo._training.precision import PRECISIONS, computing
from sksubtomo._training.runtime import (
    Device,
    draw_seed,
    inference_device,
    resolve_device,
    spawn_seeds,
)
from sksubtomo._volumes import check_fit_volumes, check_predict_volumes
from sksubtomo.augmentation import AUGMENTATIONS
from sksubtomo.networks import CB3D, DSRF3D, ENCODERS, RB3D
from sksubtomo.pretraining import ContrastivePretrainer
from sksubtomo.semi_supervised import SelfDistillation

# Rows of a table whose length is a cube are read as volumes, but rarely as large ones.
_SMALLEST_SIDE_OF_VIEWS = 8


class SubtomogramClassifier(
    SavedModelMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Classify volumes with any encoder and a linear head.

    The encoder starts from random weights or from those of a
    :class:`~sksubtomo.ContrastivePretrainer`, and is trained on the labelled
    volumes, by default with Adam and a learning rate that falls to zero along a cosine.
    ``transform`` gives the features that the head sees.

    Read more in the :ref:`User Guide <estimators>`.

    Parameters
    ----------
    pretrainer : ContrastivePretrainer or FrozenEstimator, default=None
        Where the weights start. None is random initialisation. An unfitted
        pretrainer is cloned and fitted on all rows of X, labelled or not;
        ``FrozenEstimator(fitted_pretrainer)`` lends its weights and is never
        changed. The network and the normalisation of intensities come from the
        pretrainer, whose own parameters are not changed either.
    encoder : {"rb3d", "dsrf3d", "cb3d", "bn_cnn", "resnet3d"} or object, default=None
        The network: a name or an object such as ``RB3D(norm=None)``, RB3D as
        published. None is the network of the classifier's name, of RB3D the one with
        ``norm="group"``; the name "rb3d" is the one without. With a pretrainer the
        network is the pretrainer's, and an encoder of another family is an error.
    freeze_encoder : bool, default=False
        Whether to train the linear head only (the linear probe).
    standardize_features : bool, default=True
        Whether the head sees the encoder's features less their mean and divided by
        their spread, as they were over the training volumes before fine-tuning.
        Contrastive pretraining leaves both to chance, and the learning rate suits
        one scale only.
    volume_shape : tuple of int, default=None
        Depth, height and width in voxels of the volumes that flat rows stand for.
        By default the pretrainer's; without one, a row whose length is a cube is a
        cubic volume, and any other row a line of voxels. Volumes given as such
        have their own shape.
    normalize : {"dataset", "volume"} or None, default="dataset"
        As for the pretrainer; ignored if there is one.
    mask : {"sphere"} or None, default=None
        As for the pretrainer; ignored if there is one.
    augmentation : {"auto", "crop_affine", "rotate_shift_noise", ...} or object, \
            default="auto"
        Applied to training batches; None for no augmentation. "auto" is the
        pretrainer's, and "rotate_shift_noise" without one: volumes are then supposed
        to be of the same class however they lie. It is none where the encoder is
        frozen, and none for volumes with a side of fewer than eight voxels, in which
        most tables of other data come. Those of 512 or 1,000 columns need None.
    max_epochs : int or "auto", default="auto"
        Passes over the labelled volumes. "auto" is 50, and with few volumes as many as
        make 2,000 steps: with an `augmentation`, which shows each volume anew in every
        pass, many passes over few volumes teach more than few.
    batch_size : int, default=16
        Volumes in a step.
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
        The optimiser; "sgd" has momentum 0.9.
    lr : float, default=1e-3
        Learning rate, of which `schedule` is a course.
    encoder_lr : float, default=None
        Learning rate of the encoder's weights, where it is not that of the head's.
        Pretrained weights may need smaller steps than a new head.
    schedule : {"constant", "cosine", "warmup_cosine"}, default="cosine"
        How the learning rate changes from epoch to epoch: not at all, from `lr` to zero
        along a cosine, or up to `lr` in equal steps over the first tenth of the epochs,
        and then so.
    weight_decay : float, default=1e-4
        L2 penalty of the optimiser (decoupled for "adamw").
    label_smoothing : float, default=0.0
        The part of each training label, below 1, that is spread evenly over all
        classes. ``valid_loss`` is that of the labels as they are.
    average_weights : float, default=None
        Decay, between 0 and 1, of an exponential moving average of the weights over
        the training steps, such as 0.99. The averaged weights are validated and
        predicted with. However near 1 the decay is, what is older than the last tenth
        or so of the steps counts next to nothing. None is no average.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss, by label; "balanced" is inverse to
        their frequencies.
    validation_fraction : float, default=None
        Part of the labelled volumes, drawn class by class, that is not trained on
        but used to choose the best epoch. None trains on all of them and keeps the
        last epoch.
    unlabeled : int, float, str or None, default=None
        The label that marks unlabelled rows. They take part in pretraining and
        self-training only, and the mark is not one of ``classes_``. None means all rows
        are labelled.
    self_training : SelfDistillation or None, default=None
        How the unlabelled rows are learned from after fine-tuning. Without such rows
        it has no effect.
    memory : str, path or object with the joblib.Memory interface, default=None
        Caches the fitting of the nested pretrainer, so that a search over the
        classifier's parameters pretrains once a fold, however many processes it runs
        in. The key is the pretrainer's parameters and the values of X. If the
        pretrainer's `random_state` is None, its seed is drawn from the classifier's;
        if that is None too, nothing is cached.
    test_views : int, default=1
        Number of orientations of each volume over which ``predict`` and
        ``predict_proba`` average the probabilities, and ``transform`` the features, at
        so many times the cost. The first four are the volume and its half turns, which
        leave the missing wedge of a symmetric tilt range where it is; the next ones of
        a cubic volume, up to 24, are the other rotations that map a cube to itself,
        which do not. Further ones are interpolated.
    callbacks : list of skorch callbacks, default=None
        Called during fine-tuning. They are used as they are, not copied, and keep
        what they record. ``valid_loss`` and ``valid_acc`` can be monitored where
        there is validation, ``train_loss`` always.
    precision : {"auto", "float32", "tf32", "bf16"}, default="auto"
        Of the encoder's arithmetic in fine-tuning and prediction, as for the
        pretrainer, which has its own.
    device : str or torch.device, default="auto"
        Where to compute. "auto" is the accelerator, if there is one.
    random_state : int, RandomState instance or None, default=None
        Determines the weights, the order of the volumes, the validation part, and
        the nested pretraining if the pretrainer has no `random_state` of its own.
        The global generators of NumPy and torch are not touched, whatever is
        given; None is fresh entropy.
    verbose : int, default=0
        Above 0, shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    network_ : torch.nn.Module
        The encoder (``network_.encoder``) and the head (``network_.head``).
    pretrainer_ : ContrastivePretrainer or None
        The fitted pretrainer.
    history_ : list of dict
        For each epoch of fine-tuning its number, ``train_loss``, the learning rate
        ``event_lr`` unless it is constant and, with validation, ``valid_loss`` and
        ``valid_acc``. After self-training also the ``round``: 0 of the first teacher,
        1 of its student; their epochs follow each other.
    n_iter_ : int
        Number of epochs run.
    volume_shape_ : tuple of int
        Depth, height and width of the volumes.
    normalizer_ : Normalizer
        The intensity statistics.
    n_features_in_ : int
        Voxels in a volume.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X was a data frame with string names.

    See Also
    --------
    RB3DClassifier : The same on the paper's network.
    DSRF3DClassifier, CB3DClassifier : The same on the other networks of Che et al.
    LabelFractionClassifier : Hides a part of the labels, for label studies.

    Examples
    --------
    >>> from sksubtomo import SubtomogramClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> from sksubtomo.networks import RB3D
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = SubtomogramClassifier(encoder=RB3D(norm="group"), max_epochs=2,
    ...                                    random_state=0)
    >>> classifier.fit(X, y).predict_proba(X).shape
    (20, 10)
    """

    _parameter_constraints: dict = {
        "pretrainer": [ContrastivePretrainer, FrozenEstimator, None],
        "encoder": [StrOptions(set(ENCODERS)), HasMethods("build"), None],
        "freeze_encoder": ["boolean"],
        "standardize_features": ["boolean"],
        "volume_shape": ["array-like", None],
        "normalize": [StrOptions({"dataset", "volume"}), None],
        "mask": [StrOptions({"sphere"}), None],
        "augmentation": [
            StrOptions({"auto", *AUGMENTATIONS}),
            HasMethods("build"),
            None,
        ],
        "max_epochs": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "encoder_lr": [Interval(Real, 0, None, closed="neither"), None],
        "schedule": [StrOptions(set(SCHEDULES))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "average_weights": [Interval(Real, 0, 1, closed="neither"), None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "unlabeled": [Real, str, None],
        "self_training": [SelfDistillation, None],
        "memory": [str, PathLike, HasMethods("cache"), None],
        "test_views": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [list, tuple, None],
        "precision": [StrOptions(set(PRECISIONS))],
        "device": [str, Device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _network_attribute = "network_"
    # The class that a subclass restricts `encoder` to.
    _encoder_family: type | None = None

    def __init__(
        self,
        pretrainer=None,
        *,
        encoder=None,
        freeze_encoder=False,
        standardize_features=True,
        volume_shape=None,
        normalize="dataset",
        mask=None,
        augmentation="auto",
        max_epochs="auto",
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        encoder_lr=None,
        schedule="cosine",
        weight_decay=1e-4,
        label_smoothing=0.0,
        average_weights=None,
        class_weight=None,
        validation_fraction=None,
        unlabeled=None,
        self_training=None,
        memory=None,
        test_views=1,
        callbacks=None,
        precision="auto",
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.pretrainer = pretrainer
        self.encoder = encoder
        self.freeze_encoder = freeze_encoder
        self.standardize_features = standardize_features
        self.volume_shape = volume_shape
        self.normalize = normalize
        self.mask = mask
        self.augmentation = augmentation
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.average_weights = average_weights
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.unlabeled = unlabeled
        self.self_training = self_training
        self.memory = memory
        self.test_views = test_views
        self.callbacks = callbacks
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, validation_data=None):
        """Pretrain if asked, and fine-tune on the labelled volumes.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes, in any unit of intensity, or flattened volumes.
        y : array-like of shape (n,)
            Labels; rows labelled `unlabeled` are used in pretraining and self-training
            only.
        validation_data : tuple (X_val, y_val), default=None
            Further labelled volumes, by whose accuracy the best epoch is chosen
            (the loss decides between equal ones). They are not trained on.

        Returns
        -------
        self : SubtomogramClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If X, y or a parameter is not acceptable.
        FloatingPointError
            If the loss diverges.
        """
        if validation_data is not None and self.validation_fraction is not None:
            raise ValueError(
                "validation_data and validation_fraction were both given; expected "
                "at most one of them."
            )
        y, labeled = check_labels(self, X, y, unlabeled=self.unlabeled)
        seed = draw_seed(self.random_state)
        if isinstance(self.pretrainer, ContrastivePretrainer):
            # Processes that pretrain together go on with equal classifiers.
            join_processes(resolve_device(self.device))
            seed = agree(seed)
        pretraining_seed, fine_tuning_seed, split_seed, student_seed = spawn_seeds(
            seed, 4
        )
        self._fitted_encoder, source = self._resolve_encoder()
        volumes = check_fit_volumes(self, X, volume_shape=self._given_shape(source))
        self.classes_, labels = np.unique(y[labeled], return_inverse=True)
        train = np.flatnonzero(labeled)

        validation = None
        if validation_data is not None:
            validation = self._check_validation_data(validation_data)
        elif self.validation_fraction is not None:
            held_out = draw_by_class(
                labels,
                self.validation_fraction,
                np.random.default_rng(split_seed),
                keep_one=True,
            )
            if not held_out.any():
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} leaves no volume "
                    f"for validation: every class has a single labelled one."
                )
            validation = (volumes[train[held_out]], labels[held_out])
            train, labels = train[~held_out], labels[~held_out]

        # What can be wrong with the fine-tuning is found before the pretraining, which
        # may take hours.
        resolve_device(self.device)
        if self.self_training is not None:
            self.self_training._validate_params()
        augmentation = self._resolve_augmentation(source)
        class_weights = None
        if self.class_weight is not None:
            class_weights = compute_class_weight(
                self.class_weight, classes=self.classes_, y=self.classes_[labels]
            )

        self.pretrainer_ = self._fit_pretrainer(volumes, pretraining_seed)
        if self.pretrainer_ is None:
            self.normalizer_ = Normalizer.fit(volumes, self.normalize, self.mask)
            pretrained = None
        else:
            self.normalizer_ = self.pretrainer_.normalizer_
            pretrained = self.pretrainer_.encoder_

        options = TrainingOptions(
            max_epochs=self._n_epochs(len(train)),
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            callbacks=self.callbacks,
            device=self.device,
            seed=fine_tuning_seed,
            verbose=self.verbose,
            optimizer=self.optimizer,
            schedule=self.schedule,
            precision=self.precision,
        )
        train_network = partial(
            fine_tune,
            n_classes=len(self.classes_),
            encoder=self._fitted_encoder,
            pretrained=pretrained,
            freeze_encoder=self.freeze_encoder,
            standardize_features=self.standardize_features,
            augmentation=augmentation,
            class_weights=class_weights,
            validation=validation,
            normalizer=self.normalizer_,
            encoder_lr=self.encoder_lr,
            label_smoothing=self.label_smoothing,
            average_weights=self.average_weights,
        )
        self.network_, self.history_ = train_network(
            _take(volumes, train), labels, options=options
        )
        if self.self_training is not None and not labeled.all():
            rows = np.concatenate([train, np.flatnonzero(~labeled)])
            self._distill(
                train_network,
                _take(volumes, rows),
                labels,
                replace(options, seed=student_seed),
            )
        self.n_iter_ = len(self.history_)
        return self

    def _resolve_augmentation(self, source):
        """Return the augmentation object or None; `source` is that of the encoder."""
        augmentation, name = self.augmentation, "augmentation"
        if isinstance(augmentation, str) and augmentation == "auto":
            if self.freeze_encoder or min(self.volume_shape_) < _SMALLEST_SIDE_OF_VIEWS:
                return None
            augmentation = "rotate_shift_noise"
            if source is not None:
                augmentation, name = source.augmentation, "pretrainer__augmentation"
        if augmentation is None:
            return None
        augmentation = resolve(augmentation, AUGMENTATIONS, name)
        augmentation.build(0)
        return augmentation

    def _n_epochs(self, n_volumes):
        if self.max_epochs == "auto":
            return enough_epochs(n_volumes, self.batch_size)
        return self.max_epochs

    def _distill(self, train_network, volumes, labels, options):
        """Replace the network by students; the labelled volumes are the first ones."""
        settings = self.self_training
        max_epochs = settings.max_epochs or self._n_epochs(len(volumes))
        options = replace(options, max_epochs=max_epochs)
        device = resolve_device(self.device)
        history = [{**epoch, "round": 0} for epoch in self.history_]
        known = np.eye(len(self.classes_))[labels]
        known += self.label_smoothing * (1 / len(self.classes_) - known)
        seeds = spawn_seeds(options.seed, settings.n_rounds)
        for n_round, seed in enumerate(seeds, 1):
            taught = settings.soft_labels(
                self._probabilities(volumes[len(known) :], device, settings.n_views)
            )
            self.network_, epochs = train_network(
                volumes,
                np.concatenate([known, taught]).astype(np.float32),
                start=self.network_ if settings.from_teacher else None,
                options=replace(options, seed=seed),
            )
            history += [{**epoch, "round": n_round} for epoch in epochs]
        self.history_ = history

    def predict(self, X):
        """Return the most probable class of each volume.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes of the shape that was fitted, or flattened ones.

        Returns
        -------
        ndarray of shape (n,)
            Labels, of those in ``classes_``.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X):
        """Return the probability of each class for each volume.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes of the shape that was fitted, or flattened ones.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities, in the order of ``classes_``; rows sum to one. That of a
            volume does not depend on what else is in X.
        """
        check_is_fitted(self)
        volumes = check_predict_volumes(self, X)
        device = inference_device(self.device)
        return self._probabilities(volumes, device, self.test_views)

    def transform(self, X):
        """Embed volumes by the fine-tuned encoder.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes of the shape that was fitted, or flattened ones.

        Returns
        -------
        ndarray of shape (n, n_embedding), float32
            Features as the head sees them, averaged over the orientations of
            `test_views`. Those of a volume do not depend on what else is in X. Volumes
            that were trained on lie closer to their class than others.
        """
        check_is_fitted(self)
        volumes = check_predict_volumes(self, X)
        device = inference_device(self.device)
        with self._computing(device):
            return apply_in_batches(
                self.network_.encoder,
                volumes,
                self.normalizer_,
                device,
                centre=self.network_.feature_mean.cpu().numpy(),
                scale=self.network_.feature_scale.cpu().numpy(),
                n_views=self.test_views,
            )

    def _probabilities(self, volumes, device, n_views):
        with self._computing(device):
            return class_probabilities(
                self.network_, volumes, self.normalizer_, device, n_views=n_views
            )

    def _computing(self, device):
        encoders = [self.network_.encoder]
        return computing(encoders, precision=self.precision, device=device)

    def _resolve_encoder(self):
        """Return the encoder object, and the pretrainer it comes from or None."""
        name = type(self).__name__
        given = None
        if self.encoder is not None:
            given = resolve(self.encoder, ENCODERS, "encoder")
        family = self._encoder_family or (None if given is None else type(given))
        if given is not None and not isinstance(given, family):
            raise ValueError(
                f"{name} has an encoder of the family {family.__name__}, but "
                f"encoder={self.encoder!r} was given; use SubtomogramClassifier for "
                f"other encoders."
            )
        if self.pretrainer is None:
            return given or self._default_encoder(), None
        source = self.pretrainer
        if isinstance(source, FrozenEstimator):
            source = source.estimator
            if not isinstance(source, ContrastivePretrainer):
                raise TypeError(
                    f"pretrainer is a FrozenEstimator of {type(source).__name__}; "
                    f"expected one of a ContrastivePretrainer."
                )
            check_is_fitted(source)
            encoder = source._fitted_encoder
        else:
            if hasattr(source, "encoder_"):
                warnings.warn(
                    "the pretrainer is fitted already, but will be cloned and fitted "
                    "again; pass FrozenEstimator(pretrainer) to keep its weights.",
                    UserWarning,
                    stacklevel=3,
                )
            encoder = source._resolve_encoder()
        if family is not None and not isinstance(encoder, family):
            raise ValueError(
                f"{name} has an encoder of the family {family.__name__}, but its "
                f"pretrainer has encoder={encoder!r}; the two must be of one family. "
                "SubtomogramClassifier takes any."
            )
        return encoder, source

    def _default_encoder(self):
        if self._encoder_family in (None, RB3D):
            return RB3D(norm="group")
        return self._encoder_family()

    def _given_shape(self, source):
        if self.volume_shape is not None or source is None:
            return self.volume_shape
        if isinstance(self.pretrainer, FrozenEstimator):
            return source.volume_shape_
        return source.volume_shape

    def _check_validation_data(self, validation_data):
        X_val, y_val = unpack_validation_data(validation_data)
        volumes = check_predict_volumes(self, X_val)
        return volumes, encode_labels(
            y_val, self.classes_, len(volumes), "validation_data"
        )

    def _fit_pretrainer(self, volumes, seed):
        """Return a fitted pretrainer, the frozen one or a freshly fitted clone."""
        if self.pretrainer is None:
            return None
        if isinstance(self.pretrainer, FrozenEstimator):
            return self.pretrainer.estimator
        pretrainer = clone(self.pretrainer)
        # A RandomState would be a new cache key in every fit.
        if pretrainer.random_state is not None:
            seed = draw_seed(pretrainer.random_state)
        elif self.random_state is None:
            # No fit is like another, and none is worth keeping.
            return fit_once(pretrainer, volumes, None)
        pretrainer.set_params(random_state=seed)
        return fit_once(pretrainer, volumes, self.memory)

    def _build_network(self):
        return ClassifierNetwork.build(
            self._fitted_encoder, self.volume_shape_, len(self.classes_)
        )

    @property
    def _n_features_out(self):
        return self.network_.head.in_features

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _take(volumes, rows):
    """Return rows in this order, without a copy where they are all of them."""
    if np.array_equal(rows, np.arange(len(volumes))):
        return volumes
    return volumes[rows]


def _parameters_of(base):
    """Put the base class's parameters and attributes into a subclass's docstring."""

    def decorate(cls):
        if cls.__doc__ and base.__doc__:
            # Python 3.13 takes the indentation away, and others do not.
            own, given = cleandoc(cls.__doc__), cleandoc(base.__doc__)
            start, stop = given.index("Parameters\n---"), given.index("See Also\n---")
            place = own.index("See Also\n---")
            cls.__doc__ = own[:place] + given[start:stop] + own[place:]
        return cls

    return decorate


@_parameters_of(SubtomogramClassifier)
class RB3DClassifier(SubtomogramClassifier):
    """Classify volumes with RB3D, the network of the paper.

    A :class:`~sksubtomo.SubtomogramClassifier` whose encoder is RB3D, by default with
    group normalisation; ``encoder=RB3D()`` is the network as published.

    Read more in the :ref:`User Guide <estimators>`.

    See Also
    --------
    ContrastivePretrainer : Learns weights to start from without labels.
    LabelFractionClassifier : Hides a part of the labels, for label studies.
    sksubtomo.recipes.recommended : The best measured with few labels.
    sksubtomo.recipes.gupta2022 : The paper's own settings.

    References
    ----------
    C. Che et al., "Improved deep learning-based macromolecules structure
    classification from electron cryo-tomograms", Machine Vision and Applications
    29, 1227-1236, 2018.

    T. Gupta et al., "Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms", Frontiers in Physiology 13,
    2022.

    Examples
    --------
    >>> from sksubtomo import ContrastivePretrainer, RB3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=3, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> y[::3] = -1
    >>> classifier = RB3DClassifier(ContrastivePretrainer(max_epochs=2),
    ...                             unlabeled=-1, max_epochs=2, random_state=0)
    >>> classifier.fit(X, y).predict(X).shape
    (30,)
    """

    _encoder_family = RB3D


@_parameters_of(SubtomogramClassifier)
class DSRF3DClassifier(SubtomogramClassifier):
    """Classify volumes with DSRF3D-v2 (deep small receptive field).

    A :class:`~sksubtomo.SubtomogramClassifier` whose encoder is
    :class:`~sksubtomo.networks.DSRF3D`, with its two dense layers, as published. They
    belong to the encoder: a :class:`~sksubtomo.ContrastivePretrainer` with
    ``encoder="dsrf3d"`` trains them, too, and they fit volumes of one shape only.

    Read more in the :ref:`User Guide <estimators>`.

    See Also
    --------
    SubtomogramClassifier : Classifies with any encoder.
    CB3DClassifier : Classifies with the larger network of the same article.
    RB3DClassifier : Classifies with the residual-block network.

    References
    ----------
    C. Che et al., "Improved deep learning-based macromolecules structure
    classification from electron cryo-tomograms", Machine Vision and Applications
    29, 1227-1236, 2018.

    Examples
    --------
    >>> from sksubtomo import DSRF3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = DSRF3DClassifier(max_epochs=2, random_state=0)
    >>> classifier.fit(X, y).predict(X).shape
    (20,)
    """

    _encoder_family = DSRF3D


@_parameters_of(SubtomogramClassifier)
class CB3DClassifier(SubtomogramClassifier):
    """Classify volumes with CB3D, the network after C3D.

    A :class:`~sksubtomo.SubtomogramClassifier` whose encoder is
    :class:`~sksubtomo.networks.CB3D`, with its two dense layers, as published. With 61
    million parameters at 32^3 it is the largest network here and the slowest to train.

    Read more in the :ref:`User Guide <estimators>`.

    See Also
    --------
    SubtomogramClassifier : Classifies with any encoder.
    DSRF3DClassifier : Classifies with the smaller network of the same article.
    RB3DClassifier : Classifies with the residual-block network.

    References
    ----------
    C. Che et al., "Improved deep learning-based macromolecules structure
    classification from electron cryo-tomograms", Machine Vision and Applications
    29, 1227-1236, 2018.

    Examples
    --------
    >>> from sksubtomo import CB3DClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=1, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> classifier = CB3DClassifier(max_epochs=1, random_state=0)
    >>> classifier.fit(X, y).predict(X).shape
    (10,)
    """

    _encoder_family = CB3D
