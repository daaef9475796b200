"""skorch nets whose loop does not wait for the device in every batch."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PassthroughScoring
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from sksubtomo._training.batches import BatchLoader, Normalizer, Part
from sksubtomo._training.checkpoints import (
    Checkpoints,
    capture,
    load_optimizer_state,
    restore,
    restore_callbacks,
    restore_generators,
)
from sksubtomo._training.distribution import agree, check_same
from sksubtomo._training.graphs import GraphedStep, LearningRates

_VALIDATION_BATCH = 64

History = list[dict[str, Any]]


class _StopTraining(Exception):
    """Raised in place of the KeyboardInterrupt by which skorch callbacks stop."""


class VolumeNet(NeuralNet):
    """A skorch net trained on whole batches taken by index.

    Losses stay on the device until the epoch ends, so the host never waits for a
    single batch; everything else of skorch, its callbacks included, is as usual.

    Parameters
    ----------
    module : torch.nn.Module
        Already built and on `device`.
    normalizer : Normalizer
        Applied to every batch.
    seed : int
        Seed of the order of the batches.
    callbacks : sequence of skorch callbacks
        Run after the default ones.
    progress : str or None
        Title of a progress bar, or None for none.
    shard : tuple of int, default=(0, 1)
        Which part of every training batch this process takes, of how many.
    **kwargs
        As for :class:`skorch.NeuralNet`.

    Attributes
    ----------
    order : numpy Generator
        Draws the order of the training volumes.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        normalizer: Normalizer,
        seed: int,
        callbacks: Sequence[Any],
        progress: str | None,
        shard: tuple[int, int] = (0, 1),
        **kwargs: Any,
    ) -> None:
        self.normalizer = normalizer
        self.seed = seed
        self.progress = progress
        self.shard = shard
        super().__init__(module, callbacks=list(callbacks), verbose=0, **kwargs)

    def train(
        self, dataset: Dataset[Any], checkpoints: Checkpoints | None = None
    ) -> History:
        """Run all epochs, or those that are left.

        Parameters
        ----------
        dataset : VolumeDataset
            What to train on.
        checkpoints : Checkpoints or None
            Where the state is saved after every epoch, and where training goes on
            from if there is one.

        Returns
        -------
        list of dict
            One entry an epoch, without what differs between equal runs (time).

        Raises
        ------
        ValueError
            If the checkpoint is of another run, or has more epochs than are asked for.
        FloatingPointError
            If the loss is no longer finite.
        """
        self.initialize()
        self.order = np.random.default_rng(self.seed)
        self.checkpoints = checkpoints
        state = None if checkpoints is None else checkpoints.load()
        if state is not None:
            restore(self, state)
        if checkpoints is not None:
            # Processes that do not see one folder would train different epochs.
            check_same({"epochs in checkpoint_dir": len(self.history)})
        epochs_left = self.max_epochs - len(self.history)
        if epochs_left < 0:
            raise ValueError(
                f"max_epochs={self.max_epochs}, but the checkpoint in checkpoint_dir "
                f"has {len(self.history)} epochs behind it; expected at least as many."
            )
        self.notify("on_train_begin", X=dataset, y=None)
        if state is not None:
            # Callbacks begin anew when training begins: skorch's LRScheduler takes its
            # first step, and others may draw.
            restore_callbacks(self, state)
            restore_generators(self, state)
            load_optimizer_state(self.optimizer_, state)
            # What a callback has ended goes on if more epochs are asked for than then.
            asked_before = state.values["max_epochs"]
            if state.values["stopped"] and self.max_epochs <= asked_before:
                epochs_left = 0
        with suppress(_StopTraining):
            self.fit_loop(dataset, epochs=epochs_left)
        self.notify("on_train_end", X=dataset, y=None)
        return [
            {
                key: float(value) if key.endswith("_loss") else value
                for key, value in epoch.items()
                if key not in ("batches", "dur") and not key.endswith("_batch_count")
            }
            for epoch in self.history
        ]

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        callbacks: list[tuple[str, Callback]] = [
            ("epoch_timer", EpochTimer()),
            ("train_loss", PassthroughScoring("train_loss", on_train=True)),
            ("valid_loss", PassthroughScoring("valid_loss")),
            ("valid_acc", PassthroughScoring("valid_acc", lower_is_better=False)),
        ]
        if self.progress is not None:
            callbacks.append(("progress", _Progress(self.progress)))
        return callbacks

    def get_iterator(self, dataset: Any, training: bool = False) -> BatchLoader:
        """Return the batches of a data set; skorch calls this once a fit.

        Parameters
        ----------
        dataset : VolumeDataset
            Training or validation set.
        training : bool, default=False
            Whether the order is drawn anew each epoch.

        Returns
        -------
        BatchLoader
            The batches.
        """
        return BatchLoader(
            dataset,
            batch_size=self.batch_size if training else _VALIDATION_BATCH,
            normalizer=self.normalizer,
            device=torch.device(self.device),
            generator=self.order if training else None,
            shard=self.shard if training else (0, 1),
        )

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Tell the callbacks; see :meth:`skorch.NeuralNet.notify`.

        Parameters
        ----------
        method_name : str
            Name of the event.
        **cb_kwargs
            Passed on.
        """
        if "batch" in cb_kwargs:
            part, labels = cb_kwargs["batch"]
            cb_kwargs["batch"] = part.volumes, labels
        if method_name != "on_epoch_end":
            super().notify(method_name, **cb_kwargs)
            return
        # skorch's callbacks stop training by KeyboardInterrupt, and skorch's own fit
        # swallows every one of them. A user's Ctrl-C has to get through.
        if self.checkpoints is not None:
            self.history.record("resumed", False)
        stop = None
        with _noting_interrupts() as interrupts:
            try:
                super().notify(method_name, **cb_kwargs)
            except KeyboardInterrupt as error:
                if interrupts:
                    raise
                stop = error
        stopped = stop is not None
        if self.shard != (0, 1):
            stopped = agree(stopped)
        if self.checkpoints is not None:
            self._save(self.checkpoints, stopped=stopped)
        # Records of single batches would take more memory than the network in time.
        self.history[-1]["batches"].clear()
        if stopped:
            raise _StopTraining from stop

    def _save(self, checkpoints: Checkpoints, *, stopped: bool) -> None:
        state = capture(self)
        state.values |= {"stopped": stopped, "max_epochs": self.max_epochs}
        problem: Exception | None = None
        try:
            checkpoints.save(state, len(self.history))
        except Exception as error:
            problem = error
        if self.shard != (0, 1):
            # The others, which write nothing, would wait for the first one for ever.
            message = agree(None if problem is None else str(problem))
            if problem is None and message is not None:
                problem = OSError(message)
        if problem is not None:
            raise problem

    def run_single_epoch(
        self,
        iterator: BatchLoader | None,
        training: bool,
        prefix: str,
        step_fn: Callable[..., dict[str, Any]],
        **fit_params: Any,
    ) -> None:
        """Run one epoch, reading the losses from the device only at its end.

        Parameters
        ----------
        iterator : BatchLoader or None
            The batches; None skips the step.
        training : bool
            Whether this is the training part.
        prefix : {"train", "valid"}
            How the entries in the history begin.
        step_fn : callable
            Maps a batch to a dict with its loss.
        **fit_params
            Passed to `step_fn`.

        Raises
        ------
        FloatingPointError
            If a loss is not finite.
        """
        if iterator is None:
            return
        # One tensor an epoch. A small one a batch, between the large ones of the steps,
        # would leave the heap in pieces.
        measured: dict[str, Tensor] = {}
        sizes = []
        for index, batch in enumerate(iterator):
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            for name, value in self.measure(batch, step, training=training).items():
                if name not in measured:
                    measured[name] = value.new_empty(len(iterator))
                measured[name][index] = value
            sizes.append(batch[0].n)
            self.notify("on_batch_end", batch=batch, training=training, **step)
        records = self.history[-1]["batches"][-len(sizes) :]
        for name, of_batches in measured.items():
            # The host waits for the device here, and nowhere else in an epoch.
            values = of_batches.tolist()
            if self.shard != (0, 1):
                # The processes compute the same but for rounding, and a callback that
                # decides by the loss has to decide the same in all of them.
                values = agree(values)
            for record, value in zip(records, values, strict=True):
                record[f"{prefix}_{name}"] = value
            if name == "loss" and not all(map(math.isfinite, values)):
                raise FloatingPointError(
                    f"the {prefix} loss is no longer finite in epoch "
                    f"{len(self.history)}; lower lr={self.lr} or look for volumes of "
                    f"extreme intensity."
                )
        for record, size in zip(records, sizes, strict=True):
            record[f"{prefix}_batch_size"] = size
        self.history.record(f"{prefix}_batch_count", len(sizes))

    def measure(
        self, batch: tuple[Part, Tensor], step: dict[str, Any], *, training: bool
    ) -> dict[str, Tensor]:
        """Return what to record of a batch, still on the device.

        Parameters
        ----------
        batch : tuple of Part and Tensor
            Volumes and labels.
        step : dict
            What the step returned: "loss" and "y_pred".
        training : bool
            Whether this is the training part.

        Returns
        -------
        dict of str to Tensor
            Scalars; "loss" is one of them.
        """
        return {"loss": step["loss"].detach()}


class ContrastiveNet(VolumeNet):
    """Trains a contrastive module on two views of every volume.

    Parameters
    ----------
    module : ContrastiveModule
        Maps two views to a loss.
    view : callable
        Draws a view of a batch, or of a part of one.
    parallel : callable
        Maps this process's part of two views, and the size of the whole batch, to the
        loss of the whole batch.
    graphed : bool, default=False
        Whether whole steps are captured in CUDA graphs. Callbacks are then not told of
        gradients.
    **kwargs
        As for :class:`VolumeNet`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        view: Callable[..., Tensor],
        parallel: Callable[[Tensor, Tensor, int], Tensor],
        graphed: bool = False,
        **kwargs: Any,
    ) -> None:
        self.view = view
        self.parallel = parallel
        self.graphed_step = GraphedStep(self._learn) if graphed else None
        self.learning_rates = LearningRates()
        super().__init__(
            module, criterion=nn.Identity, train_split=None, use_caching=False, **kwargs
        )

    def infer(self, x: Part, **fit_params: Any) -> Tensor:
        """Return the loss of a batch: the module ends in it.

        Parameters
        ----------
        x : Part
            Normalised volumes, not yet masked.
        **fit_params
            Unused.

        Returns
        -------
        Tensor
            Scalar loss.
        """
        return self.parallel(self.draw_view(x), self.draw_view(x), x.n)

    def draw_view(self, x: Part) -> Tensor:
        """Draw a view of each volume, and mask it.

        Parameters
        ----------
        x : Part
            Normalised volumes.

        Returns
        -------
        Tensor of shape (n, 1, depth, height, width)
            What the network sees.
        """
        if self.shard == (0, 1):
            view = self.view(x.volumes)
        else:
            view = self.view(x.volumes, start=x.start, n=x.n)
        return self.normalizer.apply_mask(view)

    def train_step(self, batch: tuple[Part, Tensor], **fit_params: Any) -> Any:
        """Take an optimisation step.

        Parameters
        ----------
        batch : tuple of Part and Tensor
            Volumes, and labels that are not used.
        **fit_params
            Unused.

        Returns
        -------
        dict
            The "loss", and "y_pred", which is the loss, too.
        """
        if self.graphed_step is None:
            return super().train_step(batch, **fit_params)
        view_1, view_2 = self.draw_view(batch[0]), self.draw_view(batch[0])
        # Tensors are read at every replay, and the learning rates are put into some;
        # all else is what it was when recorded.
        settings = tuple(
            (name, id(value) if isinstance(value, Tensor) else value)
            for group in self.optimizer_.param_groups
            for name, value in group.items()
            if name not in ("params", "lr", "initial_lr")
        )
        trained = tuple(part.requires_grad for part in self.module_.parameters())
        with self.learning_rates.on_device(self.optimizer_):
            loss = self.graphed_step(view_1, view_2, (settings, trained))
        return {"loss": loss, "y_pred": loss}

    def _learn(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Take a step without telling the callbacks, as a CUDA graph needs it."""
        self._set_training(True)
        self.optimizer_.zero_grad(set_to_none=True)
        loss = self.parallel(view_1, view_2, len(view_1))
        loss.backward()
        self.optimizer_.step()
        return loss

    def get_loss(
        self, y_pred: Tensor, y_true: Tensor, X: Any = None, training: bool = False
    ) -> Tensor:
        """Return the loss, which `infer` computed.

        Parameters
        ----------
        y_pred : Tensor
            The loss.
        y_true : Tensor
            Unused.
        X : Part
            Unused.
        training : bool
            Unused.

        Returns
        -------
        Tensor
            The loss.
        """
        return y_pred

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Tell the module which epoch begins.

        Parameters
        ----------
        net : ContrastiveNet
            This net.
        **kwargs
            Passed on.
        """
        super().on_epoch_begin(net, **kwargs)
        self.module_.start_epoch(len(self.history) - 1)


class SupervisedNet(VolumeNet):
    """Trains a classifier network.

    Parameters
    ----------
    module : torch.nn.Module
        Maps volumes to logits.
    augment : callable or None
        Applied to training batches.
    average_weights : float or None
        Decay of the moving average of the weights that the module has whenever it is
        not being trained; None is no average.
    **kwargs
        As for :class:`VolumeNet`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        augment: Callable[[Tensor], Tensor] | None,
        average_weights: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.augment = augment
        self.averages = None
        if average_weights is not None:
            self.averages = WeightAverages(module, average_weights)
        super().__init__(module, **kwargs)

    def run_single_epoch(
        self, iterator: BatchLoader | None, training: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Run one epoch; before and after it, the module has the averaged weights.

        Parameters
        ----------
        iterator : BatchLoader or None
            The batches.
        training : bool
            Whether this is the training part.
        *args, **kwargs
            As for :meth:`VolumeNet.run_single_epoch`.
        """
        aside: AbstractContextManager[None] = nullcontext()
        if training and self.averages is not None:
            aside = self.averages.put_aside()
        with aside:
            super().run_single_epoch(iterator, training, *args, **kwargs)

    def train_step(self, batch: tuple[Part, Tensor], **fit_params: Any) -> Any:
        """Take an optimisation step, and average the weights.

        Parameters
        ----------
        batch : tuple of Part and Tensor
            Volumes and labels.
        **fit_params
            Unused.

        Returns
        -------
        dict
            The "loss", and the logits as "y_pred".
        """
        step = super().train_step(batch, **fit_params)
        if self.averages is not None:
            self.averages.update()
        return step

    def infer(self, x: Part, **fit_params: Any) -> Tensor:
        """Return the logits of a batch.

        Parameters
        ----------
        x : Part
            Normalised volumes, not yet masked.
        **fit_params
            Unused.

        Returns
        -------
        Tensor of shape (n, n_classes)
            Logits.
        """
        volumes = x.volumes
        if self.augment is not None and self.module_.training:
            volumes = self.augment(volumes)
        logits: Tensor = self.module_(self.normalizer.apply_mask(volumes))
        return logits

    def predict(self, X: Any) -> Any:
        """Return encoded classes, for skorch's scoring callbacks.

        Parameters
        ----------
        X : Dataset
            What was trained on or validated; its outputs are remembered.

        Returns
        -------
        ndarray of shape (n,)
            Indices of the most probable classes.
        """
        return self.predict_proba(X).argmax(axis=1)

    def measure(
        self, batch: tuple[Part, Tensor], step: dict[str, Any], *, training: bool
    ) -> dict[str, Tensor]:
        """Record the accuracy of validation batches beside the loss.

        Parameters
        ----------
        batch : tuple of Part and Tensor
            Volumes and labels.
        step : dict
            What the step returned.
        training : bool
            Whether this is the training part.

        Returns
        -------
        dict of str to Tensor
            Scalars.
        """
        measured = super().measure(batch, step, training=training)
        if not training:
            correct = step["y_pred"].argmax(1) == batch[1]
            measured["acc"] = correct.float().mean()
        return measured


class WeightAverages:
    """Exponential moving averages of a module's weights over the steps of a training.

    Running statistics of normalisations are averaged as weights are. The module has
    the averages, but for where they are put aside; both swap places, so that callbacks
    and optimisers meet one and the same module.

    The averages begin with the weights after the first step, and while `decay` would
    remember more than the last tenth or so of the steps, they forget faster: the
    n-th step counts 9 / (n + 8) at least.

    Parameters
    ----------
    module : torch.nn.Module
        Already on its device; changed in place.
    decay : float
        Between 0 and 1: what the averages so far count in each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._n_steps = 0
        tensors = (*module.parameters(), *module.buffers())
        self._in_module = [tensor for tensor in tensors if tensor.is_floating_point()]
        self._aside = [tensor.detach().clone() for tensor in self._in_module]

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Let the module have the weights that are being trained, inside.

        Yields
        ------
        None
            Nothing.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def update(self) -> None:
        """Average the weights of one more step in, inside of `put_aside`."""
        forgotten = 1 - min(self.decay, self._n_steps / (self._n_steps + 9))
        for average, trained in zip(self._aside, self._in_module, strict=True):
            average.lerp_(trained, forgotten)
        self._n_steps += 1

    def _swap(self) -> None:
        for index, tensor in enumerate(self._in_module):
            self._aside[index], tensor.data = tensor.data, self._aside[index]


class KeepBest(Callback):
    """Put the weights of the best validated epoch back when training ends.

    The best epoch has the highest validation accuracy; of equal ones, the one of
    the lowest validation loss.
    """

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget an earlier fit.

        Parameters
        ----------
        net : VolumeNet
            The net.
        **kwargs
            Unused.
        """
        self.best_: tuple[float, float] = (-math.inf, -math.inf)
        self.weights_: dict[str, Tensor] | None = None

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the weights if the epoch was the best so far.

        Parameters
        ----------
        net : VolumeNet
            The net.
        **kwargs
            Unused.
        """
        epoch = net.history[-1]
        score = (epoch["valid_acc"], -epoch["valid_loss"])
        if score > self.best_:
            self.best_ = score
            state = net.module_.state_dict()
            self.weights_ = {name: value.clone() for name, value in state.items()}

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Restore the best weights.

        Parameters
        ----------
        net : VolumeNet
            The net.
        **kwargs
            Unused.
        """
        if self.weights_ is not None:
            net.module_.load_state_dict(self.weights_)


class _Progress(Callback):
    """A tqdm bar over the epochs."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.bar_ = tqdm(
            initial=len(net.history),
            total=net.max_epochs,
            desc=self.title,
            unit="epoch",
        )

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        shown = ("train_loss", "valid_loss", "valid_acc")
        self.bar_.set_postfix(dict(_present(net.history[-1], shown)))
        self.bar_.update()

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.bar_.close()


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Yield a list that a Ctrl-C puts its signal into, before it interrupts.

    Where Python's own handler is not in charge, the list stays empty.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _present(epoch: dict[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        if key in epoch:
            yield key, f"{epoch[key]:.3f}"
