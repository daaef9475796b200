"""A training step recorded once as a CUDA graph and replayed for every batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]


class Capture(Protocol):
    """How a step is recorded and replayed; `CudaCapture` is the one for CUDA.

    Parameters
    ----------
    step : callable
        Maps two views to a loss, and learns from it.
    view_1, view_2 : Tensor
        Views of the shape, dtype and layout that is recorded.
    """

    def __init__(self, step: Step, view_1: Tensor, view_2: Tensor) -> None: ...

    def replay(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Do the recorded step on other views; return the loss, a new tensor."""
        ...

    @staticmethod
    def warm_up(step: Step, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Do a step as it has to be done before the recording; return the loss."""
        ...


class CudaCapture:
    """A step as a CUDA graph.

    Parameters
    ----------
    step : callable
        As in `GraphedStep`.
    view_1, view_2 : Tensor
        On the CUDA device; copied to where the graph reads its input.

    Raises
    ------
    RuntimeError
        If the step cannot be recorded, because something in it waits for the device.
    """

    def __init__(self, step: Step, view_1: Tensor, view_2: Tensor) -> None:
        self._views = (view_1.clone(), view_2.clone())
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Torch's own stream for this is on whichever device it was first used.
            # Threads that read batches ahead may allocate during a recording.
            with (
                torch.cuda.device(view_1.device),
                torch.cuda.graph(
                    self._graph,
                    stream=torch.cuda.Stream(view_1.device),
                    capture_error_mode="thread_local",
                ),
            ):
                self._loss = step(*self._views).detach()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                "compile='step' could not record the training step as a CUDA graph: "
                "the encoder or the method waits for the device or depends on values "
                "of tensors, as by .item(). Use compile=None."
            ) from error

    def replay(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Do the recorded step on other views.

        Parameters
        ----------
        view_1, view_2 : Tensor
            Of the recorded shape.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        for recorded, view in zip(self._views, (view_1, view_2), strict=True):
            recorded.copy_(view)
        self._graph.replay()
        # The next replay overwrites the graph's own.
        return self._loss.clone()

    @staticmethod
    def warm_up(step: Step, view_1: Tensor, view_2: Tensor) -> Tensor:
        """Do a step on a stream of its own.

        Libraries initialise themselves, and optimisers their state, in the first
        steps, which must not be recorded; and what was computed on the default stream
        would tie the recording to it.

        Parameters
        ----------
        step : callable
            As in `GraphedStep`.
        view_1, view_2 : Tensor
            Two views.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        current = torch.cuda.current_stream(view_1.device)
        aside = torch.cuda.Stream(view_1.device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            loss = step(view_1, view_2).detach()
        current.wait_stream(aside)
        loss.record_stream(current)
        return loss


class GraphedStep:
    """A training step that launches hundreds of kernels with a single call.

    The first steps are done as usual. Then one is recorded, and replayed for every
    batch from there on. All are real steps: the losses and weights are those of a
    loop that calls `step`. Batches of another shape than the first one's, such as the
    last batch of an epoch, are done as usual.

    Parameters
    ----------
    step : callable
        Maps two views to a scalar loss; zeroes the gradients (to None), computes new
        ones and calls an optimiser that keeps its state on the device (see
        `optimizer_settings`). What it does must depend on nothing on the host that
        changes from step to step; learning rates are what `LearningRates` is for.
    warm_up : int, default=3
        Steps before each recording, at least 1.
    capture : type, default=CudaCapture
        Records and replays.
    """

    def __init__(
        self, step: Step, *, warm_up: int = 3, capture: type[Capture] = CudaCapture
    ) -> None:
        self._step = step
        self._warm_up = warm_up
        self._capture = capture
        self._shape: torch.Size | None = None
        self._key: Hashable = None
        self._n_done = 0
        self._recorded: Capture | None = None

    def __call__(self, view_1: Tensor, view_2: Tensor, key: Hashable = None) -> Tensor:
        """Do a step.

        Parameters
        ----------
        view_1, view_2 : Tensor of shape (n, 1, depth, height, width)
            Two views of the same volumes.
        key : hashable, default=None
            What on the host the step depends on, such as the weight decay and which
            parameters are frozen. When it changes, the step is recorded anew.

        Returns
        -------
        Tensor of shape ()
            The loss, without gradient.
        """
        if self._shape is None:
            self._shape = view_1.shape
        if view_1.shape != self._shape:
            # A gradient graph that lived on would tie the parameters to the stream
            # that it was computed on.
            return self._step(view_1, view_2).detach()
        if key != self._key:
            # Parameters that were frozen have no optimiser state yet, and its zeros
            # must not be recorded: warm up again.
            self._key, self._n_done = key, 0
        if self._n_done < self._warm_up:
            self._n_done += 1
            return self._capture.warm_up(self._step, view_1, view_2)
        if self._n_done == self._warm_up:
            self._n_done += 1
            # An earlier recording is dropped only when its successor stands: the
            # device may still be at it.
            self._recorded = self._capture(self._step, view_1, view_2)
        assert self._recorded is not None
        return self._recorded.replay(view_1, view_2)


class LearningRates:
    """An optimiser's learning rates on the device, where a recorded step reads them.

    A number would be what it was when the step was recorded. Schedulers, callbacks and
    checkpoints have numbers all the same: the tensors are in their place for the time
    of a step only.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._values: list[float] = []

    @contextmanager
    def on_device(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Put tensors in the place of the learning rates, inside.

        Parameters
        ----------
        optimizer : torch Adam, AdamW or SGD
            On CUDA, the fused one. It is given the same tensors every time.

        Yields
        ------
        None
            Nothing.
        """
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups[len(self._tensors) :]:
            # In float32, as the fused kernels read them.
            rate = torch.empty((), device=group["params"][0].device)
            self._tensors.append(rate)
        values = [float(rate) for rate in rates]
        if values != self._values:
            for tensor, value in zip(self._tensors, values, strict=True):
                tensor.fill_(value)
            self._values = values
        for group, tensor in zip(groups, self._tensors, strict=True):
            group["lr"] = tensor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def optimizer_settings(
    optimizer: type[torch.optim.Optimizer], device: torch.device, *, graphed: bool
) -> dict[str, Any]:
    """Return the arguments with which an optimiser is fastest on a device.

    Parameters
    ----------
    optimizer : type
        Adam, AdamW or SGD.
    device : torch.device
        Where the parameters are.
    graphed : bool
        Whether its steps are recorded, by `GraphedStep`.

    Returns
    -------
    dict of str to bool
        Keyword arguments: on CUDA one kernel updates all parameters, and counts of
        steps are kept there if they are recorded. Nothing elsewhere.
    """
    if device.type != "cuda":
        return {}
    counts_steps = issubclass(optimizer, torch.optim.Adam | torch.optim.AdamW)
    if graphed and counts_steps:
        return {"fused": True, "capturable": True}
    return {"fused": True}
