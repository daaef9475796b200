"""Representation learning without labels."""

from contextlib import nullcontext
from numbers import Integral, Real
from os import PathLike
from pathlib import Path

from numpy.random import RandomState
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted

from sksubtomo._parameters import describe, resolve
from sksubtomo._saving import SavedModelMixin
from sksubtomo._stored import digest
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.checkpoints import Checkpoints
from sksubtomo._training.distribution import agree, check_same, join_processes
from sksubtomo._training.fitting import (
    OPTIMIZERS,
    SCHEDULES,
    TrainingOptions,
    enough_epochs,
    pretrain,
)
from sksubtomo._training.inference import apply_in_batches, feature_statistics
from sksubtomo._training.precision import PRECISIONS, computing
from sksubtomo._training.runtime import (
    Device,
    draw_seed,
    inference_device,
    resolve_device,
)
from sksubtomo._volumes import check_fit_volumes, check_predict_volumes
from sksubtomo.augmentation import AUGMENTATIONS
from sksubtomo.contrastive import METHODS
from sksubtomo.networks import ENCODERS, RB3D

_COMPARED_VOLUMES = 16


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
    method : {"simclr", "moco", "swav", "byol", "vicreg"} or object, \
            default="simclr"
        What is optimised: a name, which stands for the object with its defaults,
        or an object such as ``MoCo(queue_size=64)``, whose parameters a search
        reaches as ``method__queue_size``.
    encoder : {"rb3d", "dsrf3d", "cb3d", "bn_cnn", "resnet3d"} or object, \
            default=None
        The network: a name or an object such as ``ResNet3D(n_blocks=2)``. None is
        ``RB3D(norm="group")``; the name "rb3d" is RB3D without normalisation.
    augmentation : {"crop_affine", "rotate_shift_noise", ...} or object, \
            default="rotate_shift_noise"
        How views are drawn: a name or an object. "rotate_shift_noise" rotates in three
        dimensions, which teaches more where particles lie in all orientations;
        "crop_affine" is the paper's augmentation in the plane.
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
    max_epochs : int or "auto", default="auto"
        Passes over the data. "auto" is 100, and with few volumes as many as make 2,000
        steps.
    batch_size : int, default=64
        Volumes in a step.
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
        The optimiser; "sgd" has momentum 0.9.
    lr : float, default=1e-3
        Learning rate, of which `schedule` is a course.
    schedule : {"constant", "cosine", "warmup_cosine"}, \
            default="warmup_cosine"
        How the learning rate changes from epoch to epoch: not at all, from `lr` to zero
        along a cosine, or up to `lr` in equal steps over the first tenth of the epochs,
        and then so.
    weight_decay : float, default=1e-4
        L2 penalty of the optimiser (decoupled for "adamw").
    callbacks : list of skorch callbacks, default=None
        Called during training, such as
        ``skorch.callbacks.EarlyStopping(monitor="train_loss")``. They are used as
        they are, not copied, and keep what they record.
    checkpoint_dir : str or path-like, default=None
        A folder, made if needed, in which the whole state of training is saved after
        every epoch. ``fit`` with the same parameters and X goes on from there: on the
        CPU, to the same weights to the last bit. With a constant learning rate
        `max_epochs` may be larger than before; under a schedule it has to be the same,
        for the epochs that are done were those of a course of that length. A checkpoint
        of other parameters or of another X is an error.
    precision : {"auto", "float32", "tf32", "bf16"}, default="auto"
        Of the encoder's arithmetic; weights, heads and losses are always float32.
        "auto" is float32, and "tf32" on a CUDA device. "bf16" is slow on CPUs without
        instructions for it.
    compile : {"encoder", "step"} or None, default=None
        "encoder" lets ``torch.compile`` fuse the encoder's operations, which takes
        tens of seconds at the start of every ``fit``; "step" captures whole training
        steps as CUDA graphs, for small batches on a CUDA device.
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
        Mean and spread of the encoder's features over the training volumes, of many
        over 256 of them, which ``transform`` subtracts and divides by.
    history_ : list of dict
        For each epoch its number, its mean ``train_loss``, the learning rate
        ``event_lr`` unless it is constant, what callbacks recorded
        and, with `checkpoint_dir`, whether it was ``resumed``: done by an earlier
        ``fit``.
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
        "encoder": [StrOptions(set(ENCODERS)), HasMethods("build"), None],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), HasMethods("build")],
        "volume_shape": ["array-like", None],
        "normalize": [StrOptions({"dataset", "volume"}), None],
        "mask": [StrOptions({"sphere"}), None],
        "max_epochs": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "callbacks": [list, tuple, None],
        "checkpoint_dir": [str, PathLike, None],
        "precision": [StrOptions(set(PRECISIONS))],
        "compile": [StrOptions({"encoder", "step"}), None],
        "device": [str, Device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _network_attribute = "encoder_"

    def __init__(
        self,
        method="simclr",
        *,
        encoder=None,
        augmentation="rotate_shift_noise",
        volume_shape=None,
        normalize="dataset",
        mask=None,
        max_epochs="auto",
        batch_size=64,
        optimizer="adam",
        lr=1e-3,
        schedule="warmup_cosine",
        weight_decay=1e-4,
        callbacks=None,
        checkpoint_dir=None,
        precision="auto",
        compile=None,
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
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.precision = precision
        self.compile = compile
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
            Memory maps and arrays of h5py, Zarr and dask stay on disk.
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
        OSError
            If a checkpoint cannot be written, or another process trains with the
            folder.
        FloatingPointError
            If the loss diverges.
        """
        if self.checkpoint_dir is not None and not str(self.checkpoint_dir):
            raise ValueError("checkpoint_dir=''; expected the name of a folder.")
        device = resolve_device(self.device)
        volumes = check_fit_volumes(
            self, X, volume_shape=self.volume_shape, min_volumes=2
        )
        # Kept apart from the parameter, which set_params may change after fit.
        self._fitted_encoder = self._resolve_encoder()
        method = resolve(self.method, METHODS, "method")
        augmentation = resolve(self.augmentation, AUGMENTATIONS, "augmentation")
        max_epochs = self.max_epochs
        if max_epochs == "auto":
            max_epochs = enough_epochs(len(volumes), self.batch_size, pretraining=True)
        processes = join_processes(device)
        seed = agree(draw_seed(self.random_state))
        # Without a random_state every fit is another, and goes on all the same.
        given = self.random_state
        if isinstance(given, RandomState):
            given = f"RandomState that draws {seed}"
        parameters = describe(
            {
                "method": method,
                "encoder": self._fitted_encoder,
                "augmentation": augmentation,
                "normalize": self.normalize,
                "mask": self.mask,
                "batch_size": self.batch_size,
                "optimizer": self.optimizer,
                "lr": self.lr,
                "schedule": self.schedule,
                "weight_decay": self.weight_decay,
                "precision": self.precision,
                "random_state": given,
            }
            # The learning rates of all epochs depend on how many there are.
            | ({} if self.schedule == "constant" else {"max_epochs": max_epochs})
        )
        if processes.size > 1:
            # A few volumes give away that processes read different files.
            step = -(-len(volumes) // _COMPARED_VOLUMES)
            run = {
                "max_epochs": max_epochs,
                "compile": self.compile,
                "checkpoint_dir": self.checkpoint_dir and str(self.checkpoint_dir),
            }
            X_seen = {"shape": volumes.shape, "digest": digest(volumes[::step])}
            check_same({"parameters": parameters | run, "X": X_seen})
        with self._open_checkpoints(parameters, volumes, processes) as checkpoints:
            self.normalizer_ = Normalizer.fit(volumes, self.normalize, self.mask)
            self.encoder_, self.history_ = pretrain(
                volumes,
                method=method,
                encoder=self._fitted_encoder,
                augmentation=augmentation,
                normalizer=self.normalizer_,
                options=TrainingOptions(
                    max_epochs=max_epochs,
                    batch_size=self.batch_size,
                    lr=self.lr,
                    weight_decay=self.weight_decay,
                    callbacks=self.callbacks,
                    device=device,
                    seed=seed,
                    verbose=self.verbose if processes.rank == 0 else 0,
                    optimizer=self.optimizer,
                    schedule=self.schedule,
                    precision=self.precision,
                ),
                compile=self.compile,
                processes=processes,
                checkpoints=checkpoints,
            )
        self.n_iter_ = len(self.history_)
        with computing([self.encoder_], precision=self.precision, device=device):
            self.embedding_mean_, self.embedding_scale_ = feature_statistics(
                self.encoder_, volumes, self.normalizer_, device
            )
        return self

    def transform(self, X, out=None):
        """Embed volumes.

        Parameters
        ----------
        X : array-like of shape (n, depth, height, width) or (n, n_features)
            Volumes of the shape that was fitted, or flattened ones; in memory or on
            disk.
        out : array of shape (n, n_embedding), default=None
            Where to write the embeddings, block by block, such as
            ``numpy.lib.format.open_memmap("embedding.npy", "w+", "float32", shape)``
            or a dataset of h5py or Zarr. None makes an array in memory.

        Returns
        -------
        ndarray of shape (n, n_embedding), float32, or `out`
            Embeddings: features of the encoder, of mean zero and unit spread over the
            training volumes. That of a volume does not depend on what else is in X.

        Raises
        ------
        ValueError
            If X or `out` is not acceptable, or `out` is given where ``set_output`` asks
            for data frames.
        """
        check_is_fitted(self)
        container = _get_output_config("transform", self)["dense"]
        if out is not None and container != "default":
            raise ValueError(
                f"out was given, but set_output asks for {container}; expected "
                f"transform='default'."
            )
        volumes = check_predict_volumes(self, X)
        device = inference_device(self.device)
        with computing([self.encoder_], precision=self.precision, device=device):
            return apply_in_batches(
                self.encoder_,
                volumes,
                self.normalizer_,
                device,
                centre=self.embedding_mean_,
                scale=self.embedding_scale_,
                out=out,
            )

    def _resolve_encoder(self):
        if self.encoder is None:
            return RB3D(norm="group")
        return resolve(self.encoder, ENCODERS, "encoder")

    def _open_checkpoints(self, parameters, volumes, processes):
        if self.checkpoint_dir is None:
            return nullcontext()
        data = {
            "n_volumes": len(volumes),
            "volume_shape": list(volumes.shape[1:]),
            "digest": digest(volumes),
        }
        return Checkpoints(
            Path(self.checkpoint_dir),
            {"parameters": parameters, "data": data},
            writes=processes.rank == 0,
        )

    def _build_network(self):
        return self._fitted_encoder.build(self.volume_shape_)

    @property
    def _n_features_out(self):
        return self.encoder_.n_features

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
