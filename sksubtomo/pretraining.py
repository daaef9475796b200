"""Representation learning without labels."""

from numbers import Integral, Real

from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sksubtomo._parameters import resolve
from sksubtomo._saving import SavedModelMixin
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.fitting import TrainingOptions, pretrain
from sksubtomo._training.inference import apply_in_batches, feature_statistics
from sksubtomo._training.runtime import (
    Device,
    draw_seed,
    inference_device,
    resolve_device,
)
from sksubtomo._volumes import check_fit_volumes, check_predict_volumes
from sksubtomo.augmentation import AUGMENTATIONS
from sksubtomo.contrastive import METHODS
from sksubtomo.networks import ENCODERS


class ContrastivePretrainer(
    SavedModelMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Learn an encoder of volumes from unlabelled ones by contrasting views.

    Two random views of every volume are encoded, and the encoder is trained so
    that the views of one volume can be told from those of the others.
    ``transform`` then gives embeddings; a classifier such as
    :class:`~sksubtomo.RB3DClassifier` takes the pretrainer as its `pretrainer`
    and fine-tunes from its weights.

    Read more in the :ref:`User Guide <estimators>`.

    Parameters
    ----------
    method : {"simclr", "moco", "swav"} or object, default="moco"
        What is optimised: a name, which stands for the object with its defaults,
        or an object such as ``MoCo(queue_size=64)``, whose parameters a search
        reaches as ``method__queue_size``.
    encoder : {"rb3d"} or object, default="rb3d"
        The network: a name or an object such as ``RB3D(norm="group")``.
    augmentation : {"crop_affine", "rotate_shift_noise"} or object, \
            default="crop_affine"
        How views are drawn: a name or an object. "crop_affine" is the paper's
        augmentation in the plane; "rotate_shift_noise" rotates in three
        dimensions, which teaches more where particles lie in all orientations.
    volume_shape : tuple of int, default=None
        Depth, height and width in voxels of the volumes that flat rows stand for.
        By default a row whose length is a cube is a cubic volume, and any other
        row a line of voxels. Volumes given as such have their own shape.
    normalize : {"dataset", "volume"} or None, default="dataset"
        "dataset" subtracts the mean of all training voxels and divides by their
        standard deviation; "volume" does so for each volume by itself; None
        leaves intensities as they are.
    mask : {"sphere"} or None, default=None
        "sphere" leaves out what lies outside the largest centred sphere (an ellipsoid,
        where sides differ): the neighbours in the corners, of which a rotated view
        shows others or none. The statistics of `normalize` are weighted by the mask,
        and volumes and views are multiplied by it. Its edge falls along half a cosine
        from 0.65 to 1 times the radius, so particles should not be larger than two
        thirds of the box.
    max_epochs : int, default=200
        Passes over the data.
    batch_size : int, default=16
        Volumes in a step.
    lr : float, default=1e-4
        Learning rate of the Adam optimiser.
    weight_decay : float, default=1e-4
        L2 penalty of the optimiser.
    callbacks : list of skorch callbacks, default=None
        Called during training, such as
        ``skorch.callbacks.EarlyStopping(monitor="train_loss")``. They are used as
        they are, not copied, and keep what they record.
    device : str or torch.device, default="auto"
        Where to compute. "auto" is the accelerator, if there is one. It is looked
        up when it is needed, so a fitted pretrainer works on another machine.
    random_state : int, RandomState instance or None, default=None
        Determines the weights, the order of the volumes and the views. The global
        generators of NumPy and torch are not touched, whatever is given; None is
        fresh entropy.
    verbose : int, default=0
        Above 0, shows a progress bar.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained encoder, without its projection head.
    embedding_mean_, embedding_scale_ : ndarray of shape (n_embedding,) and float
        Mean and spread of the encoder's features over the training volumes, which
        ``transform`` subtracts and divides by.
    history_ : list of dict
        For each epoch its number, its mean ``train_loss``, and what callbacks
        recorded.
    n_iter_ : int
        Number of epochs run.
    volume_shape_ : tuple of int
        Depth, height and width of the volumes.
    normalizer_ : Normalizer
        The intensity statistics learned in ``fit``.
    n_features_in_ : int
        Voxels in a volume.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X was a data frame with string names.

    See Also
    --------
    RB3DClassifier : Classifies, starting from a pretrainer's weights.
    sksubtomo.contrastive : The methods.
    sksubtomo.augmentation : The views.

    References
    ----------
    T. Gupta et al., "Self-supervised learning for macromolecular structure
    classification based on cryo-electron tomograms", Frontiers in Physiology 13,
    2022.

    Examples
    --------
    >>> from sksubtomo import ContrastivePretrainer
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=2, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> pretrainer = ContrastivePretrainer(max_epochs=2, random_state=0)
    >>> pretrainer.fit_transform(X).shape
    (20, 256)
    """

    _parameter_constraints: dict = {
        "method": [StrOptions(set(METHODS)), HasMethods("build")],
        "encoder": [StrOptions(set(ENCODERS)), HasMethods("build")],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), HasMethods("build")],
        "volume_shape": ["array-like", None],
        "normalize": [StrOptions({"dataset", "volume"}), None],
        "mask": [StrOptions({"sphere"}), None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "callbacks": [list, tuple, None],
        "device": [str, Device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _network_attribute = "encoder_"

    def __init__(
        self,
        method="moco",
        *,
        encoder="rb3d",
        augmentation="crop_affine",
        volume_shape=None,
        normalize="dataset",
        mask=None,
        max_epochs=200,
        batch_size=16,
        lr=1e-4,
        weight_decay=1e-4,
        callbacks=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.method = method
        self.encoder = encoder
        self.augmentation = augmentation
        self.volume_shape = volume_shape
        self.normalize = normalize
        self.mask = mask
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.callbacks = callbacks
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Pretrain an encoder.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes, in any unit of intensity, or flattened volumes. At least two.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : ContrastivePretrainer
            The fitted pretrainer.

        Raises
        ------
        ValueError
            If X or a parameter is not acceptable.
        FloatingPointError
            If the loss diverges.
        """
        volumes = check_fit_volumes(
            self, X, volume_shape=self.volume_shape, min_volumes=2
        )
        # Kept apart from the parameter, which set_params may change after fit.
        self._fitted_encoder = resolve(self.encoder, ENCODERS, "encoder")
        self.normalizer_ = Normalizer.fit(volumes, self.normalize, self.mask)
        self.encoder_, self.history_ = pretrain(
            volumes,
            method=resolve(self.method, METHODS, "method"),
            encoder=self._fitted_encoder,
            augmentation=resolve(self.augmentation, AUGMENTATIONS, "augmentation"),
            normalizer=self.normalizer_,
            options=TrainingOptions(
                max_epochs=self.max_epochs,
                batch_size=self.batch_size,
                lr=self.lr,
                weight_decay=self.weight_decay,
                callbacks=self.callbacks,
                device=self.device,
                seed=draw_seed(self.random_state),
                verbose=self.verbose,
            ),
        )
        self.n_iter_ = len(self.history_)
        self.embedding_mean_, self.embedding_scale_ = feature_statistics(
            self.encoder_, volumes, self.normalizer_, resolve_device(self.device)
        )
        return self

    def transform(self, X):
        """Embed volumes.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes of the shape that was fitted, or flattened ones.

        Returns
        -------
        ndarray of shape (n, n_embedding), float32
            Embeddings: features of the encoder, of mean zero and unit spread over the
            training volumes. That of a volume does not depend on what else is in X.

        Raises
        ------
        ValueError
            If X is not acceptable.
        """
        check_is_fitted(self)
        volumes = check_predict_volumes(self, X)
        features = apply_in_batches(
            self.encoder_, volumes, self.normalizer_, inference_device(self.device)
        )
        return (features - self.embedding_mean_) / self.embedding_scale_

    def _build_network(self):
        return self._fitted_encoder.build(self.volume_shape_)

    @property
    def _n_features_out(self):
        return self.encoder_.n_features

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
