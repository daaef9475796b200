"""The two trainings: contrastive pretraining and supervised fine-tuning."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import LRScheduler
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn import functional

from sksubtomo._stored import Volumes
from sksubtomo._training.batches import Normalizer, VolumeDataset, batch_borders
from sksubtomo._training.checkpoints import Checkpoints
from sksubtomo._training.distribution import Processes, parallelize
from sksubtomo._training.graphs import optimizer_settings
from sksubtomo._training.inference import feature_statistics
from sksubtomo._training.nets import ContrastiveNet, History, KeepBest, SupervisedNet
from sksubtomo._training.precision import computing
from sksubtomo._training.runtime import resolve_device, seeded_torch, spawn_seeds
from sksubtomo._training.weights import lay_out

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}

# A pass over a few labelled volumes is a few steps, in which nothing is learned. With
# random views a volume is a new one in every pass, and many passes do no harm; a
# pretraining gains by them for longer.
_ENOUGH_EPOCHS = 50
_ENOUGH_PRETRAINING_EPOCHS = 100
_ENOUGH_STEPS = 2000

SCHEDULES = ("constant", "cosine", "warmup_cosine")


@dataclass(frozen=True)
class TrainingOptions:
    """What pretraining and fine-tuning are both told.

    Parameters
    ----------
    max_epochs : int
        Passes over the data.
    batch_size : int
        Volumes a step.
    lr : float
        Learning rate: throughout, at the start of the cosine, or after the warm-up.
    weight_decay : float
        L2 penalty of the optimiser.
    callbacks : sequence of skorch callbacks or None
        Added to the package's own.
    device : str or torch.device
        Where to train.
    seed : int
        Determines weights, order of batches and views.
    verbose : int
        Above 0, shows a progress bar.
    optimizer : str
        A key of ``OPTIMIZERS``.
    schedule : str
        How the learning rate changes from epoch to epoch; one of ``SCHEDULES``.
    precision : str
        Of the encoder's arithmetic; one of ``precision.PRECISIONS``.
    """

    max_epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    callbacks: Sequence[Any] | None
    device: str | torch.device
    seed: int
    verbose: int
    optimizer: str = "adam"
    schedule: str = "constant"
    precision: str = "auto"

    def net_parameters(
        self, title: str, device: torch.device, *, graphed: bool = False
    ) -> dict[str, Any]:
        """Return the arguments of the skorch net.

        Parameters
        ----------
        title : str
            Title of the progress bar.
        device : torch.device
            What `device` stands for.
        graphed : bool, default=False
            Whether whole steps are captured in CUDA graphs.

        Returns
        -------
        dict
            Keyword arguments.
        """
        optimizer, settings = OPTIMIZERS[self.optimizer]
        settings = {
            **settings,
            **optimizer_settings(optimizer, device, graphed=graphed),
            "weight_decay": self.weight_decay,
        }
        return {
            "max_epochs": self.max_epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "device": str(device),
            "optimizer": optimizer,
            **{f"optimizer__{name}": value for name, value in settings.items()},
            "callbacks": [*self._scheduler(), *(self.callbacks or ())],
            "progress": title if self.verbose > 0 else None,
        }

    def _scheduler(self) -> list[LRScheduler]:
        if self.schedule == "constant":
            return []
        if self.schedule == "cosine":
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR
            return [LRScheduler(cosine, T_max=self.max_epochs)]
        factor = partial(warm_up_factor, n_epochs=self.max_epochs)
        return [LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=factor)]


def enough_epochs(n_volumes: int, batch_size: int, *, pretraining: bool = False) -> int:
    """Return how long to train on few volumes or on many.

    Parameters
    ----------
    n_volumes : int
        Volumes in an epoch.
    batch_size : int
        Volumes in a step.
    pretraining : bool, default=False
        Whether without labels, which takes longer.

    Returns
    -------
    int
        50 epochs, 100 of a pretraining, or as many as make 2,000 steps.

    Examples
    --------
    >>> enough_epochs(50, batch_size=16), enough_epochs(5000, batch_size=16)
    (500, 50)
    >>> enough_epochs(5000, batch_size=64, pretraining=True)
    100
    """
    n_steps = len(batch_borders(n_volumes, batch_size)) - 1
    least = _ENOUGH_PRETRAINING_EPOCHS if pretraining else _ENOUGH_EPOCHS
    return max(least, -(-_ENOUGH_STEPS // n_steps))


def warm_up_factor(epoch: int, n_epochs: int) -> float:
    """Return what the learning rate is multiplied by: a ramp, then a cosine.

    Parameters
    ----------
    epoch : int
        Number of the epoch, from 0.
    n_epochs : int
        Length of the training; the first tenth, rounded down, is the ramp.

    Returns
    -------
    float
        Above 0 in the first epoch, 1 in the first one after the ramp.
    """
    n_ramp = n_epochs // 10
    if epoch < n_ramp:
        return (epoch + 1) / (n_ramp + 1)
    return (1 + math.cos(math.pi * (epoch - n_ramp) / (n_epochs - n_ramp))) / 2


def pretrain(
    volumes: Volumes,
    *,
    method: Any,
    encoder: Any,
    augmentation: Any,
    normalizer: Normalizer,
    options: TrainingOptions,
    compile: str | None = None,
    processes: Processes = Processes(0, 1),  # noqa: B008, it is immutable
    checkpoints: Checkpoints | None = None,
) -> tuple[nn.Module, History]:
    """Learn an encoder from unlabelled volumes.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Training volumes.
    method, encoder, augmentation : parameter objects
        What is optimised, what is trained, how views are made.
    normalizer : Normalizer
        Fitted on `volumes`.
    options : TrainingOptions
        How to train.
    compile : {None, "encoder", "step"}, default=None
        What is compiled: nothing, the encoder, or whole steps as CUDA graphs.
    processes : Processes, default=Processes(0, 1)
        Those that train together.
    checkpoints : Checkpoints, default=None
        Where the state is saved, and where training goes on from.

    Returns
    -------
    encoder : torch.nn.Module
        The trained encoder, without its projection head, in evaluation mode.
    history : list of dict
        One entry an epoch.

    Raises
    ------
    ValueError
        If steps are to be captured where they cannot be, or a checkpoint is of
        another run.
    TypeError
        If the augmentation cannot be shared by several processes, or saved.
    """
    device = resolve_device(options.device)
    graphed = compile == "step"
    if graphed and (device.type != "cuda" or processes.size > 1):
        raise ValueError(
            f"compile='step' captures CUDA graphs, but device={str(device)!r} with "
            f"{processes.size} processes; expected one process on a CUDA device."
        )
    weights_seed, order_seed, view_seed = spawn_seeds(options.seed, 3)
    _, depth, height, width = volumes.shape
    with seeded_torch(weights_seed, device), ExitStack() as stack:
        module = method.build(encoder.build((depth, height, width)))
        lay_out(module, device)
        stack.enter_context(
            computing(
                module.encoders(),
                precision=options.precision,
                device=device,
                compile=compile,
            )
        )
        net = ContrastiveNet(
            module,
            view=_build_view(augmentation, view_seed, processes, checkpoints),
            parallel=stack.enter_context(parallelize(module, device, processes)),
            shard=processes,
            graphed=graphed,
            normalizer=normalizer,
            seed=order_seed,
            **options.net_parameters("pretraining", device, graphed=graphed),
        )
        history = net.train(VolumeDataset(volumes), checkpoints)
    hint = module.diagnose(history[-1]["train_loss"])
    if hint is not None and processes.rank == 0:
        warnings.warn(hint, ConvergenceWarning, stacklevel=3)
    return module.encoder.eval(), history


def _build_view(
    augmentation: Any, seed: int, processes: Processes, checkpoints: Checkpoints | None
) -> Any:
    """Build the sampler of views, which has to be able to do what is asked of it."""
    view = augmentation.build(seed)
    name = type(augmentation).__name__
    if processes.size > 1 and "start" not in inspect.signature(view).parameters:
        raise TypeError(
            f"{name}'s sampler draws views of whole batches only, but "
            f"{processes.size} processes share each batch; expected one called as "
            f"sampler(volumes, start=..., n=...)."
        )
    if checkpoints is not None and not hasattr(view, "get_state"):
        raise TypeError(
            f"checkpoint_dir was given, but {name}'s sampler cannot be saved; expected "
            f"one with get_state and set_state."
        )
    return view


def fine_tune(
    volumes: Volumes,
    labels: npt.NDArray[Any],
    *,
    n_classes: int,
    encoder: Any,
    pretrained: nn.Module | None,
    start: ClassifierNetwork | None = None,
    freeze_encoder: bool,
    standardize_features: bool,
    augmentation: Any,
    class_weights: npt.NDArray[np.float64] | None,
    validation: tuple[Volumes, npt.NDArray[np.int64]] | None,
    normalizer: Normalizer,
    options: TrainingOptions,
    encoder_lr: float | None = None,
    label_smoothing: float = 0.0,
    average_weights: float | None = None,
) -> tuple[ClassifierNetwork, History]:
    """Learn a classifier from labelled volumes.

    Parameters
    ----------
    volumes : ndarray or StoredVolumes of shape (n, depth, height, width)
        Labelled training volumes.
    labels : ndarray of shape (n,) or (n, n_classes)
        Classes, encoded 0 to n_classes - 1, or soft labels: the weight of each class
        for each volume, float32.
    n_classes : int
        Number of classes.
    encoder : parameter object
        Builds the encoder that the head is put on.
    pretrained : torch.nn.Module or None
        A trained encoder to start from. It is copied, never changed.
    start : ClassifierNetwork, default=None
        A whole network to start from, instead of a new head on `pretrained`. It is
        copied as well.
    freeze_encoder : bool
        Whether only the head is trained.
    standardize_features : bool
        Whether the head sees features of mean zero and unit spread.
    augmentation : parameter object or None
        Applied to the training batches.
    class_weights : ndarray of shape (n_classes,) or None
        Weight of each class in the loss.
    validation : tuple of volumes and ndarray or None
        Volumes and encoded labels, by which the best epoch is chosen.
    normalizer : Normalizer
        The encoder's.
    options : TrainingOptions
        How to train.
    encoder_lr : float, default=None
        Learning rate of the encoder's weights; None is that of the head's.
    label_smoothing : float, default=0.0
        The part of each training label that is spread over all classes; soft labels
        are left as they are.
    average_weights : float, default=None
        Decay of the moving average of the weights that is validated and returned; None
        is no average.

    Returns
    -------
    network : ClassifierNetwork
        Encoder and head, in evaluation mode.
    history : list of dict
        One entry an epoch.
    """
    device = resolve_device(options.device)
    weights_seed, order_seed, view_seed = spawn_seeds(options.seed, 3)
    _, depth, height, width = volumes.shape
    parameters = options.net_parameters("fine-tuning", device)
    if encoder_lr is not None:
        # The head first: the callbacks record the learning rate of the first group.
        groups = [("head.*", {}), ("encoder.*", {"lr": encoder_lr})]
        parameters["optimizer__param_groups"] = groups
    train_split = None
    if validation is not None:
        parameters["callbacks"] = [KeepBest(), *parameters["callbacks"]]
        train_split = predefined_split(VolumeDataset(*validation))
    with seeded_torch(weights_seed, device), ExitStack() as stack:
        if start is None:
            network = ClassifierNetwork.build(
                encoder, (depth, height, width), n_classes, pretrained=pretrained
            )
        else:
            network = copy.deepcopy(start)
        network.freeze_encoder = freeze_encoder
        network.encoder.requires_grad_(not freeze_encoder)
        lay_out(network, device)
        stack.enter_context(
            computing([network.encoder], precision=options.precision, device=device)
        )
        if standardize_features and start is None:
            mean, scale = feature_statistics(
                network.encoder, volumes, normalizer, device
            )
            network.feature_mean.copy_(torch.from_numpy(mean))
            network.feature_scale.fill_(float(scale))
        net = SupervisedNet(
            network,
            criterion=WeightedCrossEntropy,
            criterion__weights=_relative_weights(class_weights, labels),
            criterion__label_smoothing=label_smoothing,
            train_split=train_split,
            augment=None if augmentation is None else augmentation.build(view_seed),
            average_weights=average_weights,
            normalizer=normalizer,
            seed=order_seed,
            **parameters,
        )
        history = net.train(VolumeDataset(volumes, labels))
    return network.eval(), history


class ClassifierNetwork(nn.Module):
    """An encoder and a linear head.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps volumes to `n_features` features.
    n_classes : int
        Number of classes.

    Attributes
    ----------
    feature_mean, feature_scale : Tensor of shape (n_features,) and ()
        What is subtracted from the features on the way to the head, and what they
        are then divided by; 0 and 1 unless set.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, encoder: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(_n_features(encoder), n_classes)
        self.register_buffer("feature_mean", torch.zeros(_n_features(encoder)))
        self.register_buffer("feature_scale", torch.ones(()))
        self.freeze_encoder = False
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def build(
        cls,
        encoder: Any,
        volume_shape: tuple[int, int, int],
        n_classes: int,
        *,
        pretrained: nn.Module | None = None,
    ) -> ClassifierNetwork:
        """Build the network, on the CPU.

        Parameters
        ----------
        encoder : parameter object
            Builds a new encoder, unless one is given.
        volume_shape : tuple of int
            Depth, height and width of the volumes.
        n_classes : int
            Number of classes.
        pretrained : torch.nn.Module, default=None
            An encoder to copy.

        Returns
        -------
        ClassifierNetwork
            The network.
        """
        if pretrained is None:
            return cls(encoder.build(volume_shape), n_classes)
        return cls(copy.deepcopy(pretrained), n_classes)

    def train(self, mode: bool = True) -> ClassifierNetwork:
        """Set the mode; a frozen encoder always stays in evaluation mode.

        Parameters
        ----------
        mode : bool, default=True
            Whether to train.

        Returns
        -------
        ClassifierNetwork
            This module.
        """
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, volumes: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        volumes : Tensor of shape (n, 1, depth, height, width)
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, n_classes)
            Logits.
        """
        features = (self.encoder(volumes) - self.feature_mean) / self.feature_scale
        logits: Tensor = self.head(features)
        return logits


class WeightedCrossEntropy(nn.Module):
    """Cross entropy, each volume weighted by its class.

    Unlike torch's own, it divides by the number of volumes and not by the sum of
    their weights: a batch that happens to hold only volumes of little weight must
    not count as much as one of heavy ones.

    Parameters
    ----------
    weights : Tensor of shape (n_classes,) or None
        Class weights; None for equal ones.
    label_smoothing : float, default=0.0
        The part of each label that is spread over all classes in training mode. In
        evaluation mode the loss is that of the labels as they are.
    """

    weights: Tensor | None

    def __init__(
        self, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean weighted loss.

        Parameters
        ----------
        logits : Tensor of shape (n, n_classes)
            Unnormalised log-probabilities.
        labels : Tensor of shape (n,) or (n, n_classes)
            Encoded classes, or soft labels, which are not smoothed.

        Returns
        -------
        Tensor
            Scalar loss.
        """
        if labels.is_floating_point():
            return functional.cross_entropy(logits, labels, self.weights)
        smoothing = self.label_smoothing if self.training else 0.0
        if self.weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=smoothing
        )
        return (self.weights[labels] * losses).mean()


def _relative_weights(
    class_weights: npt.NDArray[np.float64] | None, labels: npt.NDArray[Any]
) -> Tensor | None:
    """Scale the weights so that they average to one over the training volumes.

    The learning rate then means the same with and without weights.
    """
    if class_weights is None:
        return None
    if labels.ndim == 1:
        mean = class_weights[labels].mean()
    else:
        mean = np.average(class_weights, weights=labels.sum(axis=0))
    relative = class_weights / mean
    return torch.as_tensor(relative, dtype=torch.float32)


def _n_features(encoder: nn.Module) -> int:
    n_features = encoder.n_features
    assert isinstance(n_features, int)
    return n_features
