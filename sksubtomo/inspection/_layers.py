"""The layers of a network, and where the voxels of their outputs lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Positions = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Where the voxels of a grid lie along depth, height and width, in input voxels."""


class Layer(NamedTuple):
    """A module, and the grid of its output.

    Attributes
    ----------
    name : str
        As in ``named_modules`` of the network.
    module : torch.nn.Module
        The module.
    positions : tuple of three ndarrays, or None
        Where the output's voxels lie in the volume: 0 is the centre of the volume's
        first voxel. None if the output is no tensor of shape (n, channels, depth,
        height, width).
    n_runs : int
        How often one pass through the network runs the module.
    """

    name: str
    module: nn.Module
    positions: Positions | None
    n_runs: int


def list_layers(
    network: nn.Module, volume_shape: Sequence[int], device: torch.device
) -> list[Layer]:
    """Run a network on a volume of zeros and list what was run.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (n, 1, depth, height, width) to anything, in evaluation mode.
    volume_shape : sequence of int
        Depth, height and width.
    device : torch.device
        Where the network is.

    Returns
    -------
    list of Layer
        The modules in the order in which they were done, containers included.
    """
    names = {module: name for name, module in network.named_modules()}
    volume = torch.zeros(1, 1, *volume_shape, device=device)
    tracker = _PositionTracker(volume)
    layers: dict[nn.Module, Layer] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        before = layers.pop(module, None)
        positions = None
        if isinstance(output, Tensor) and output.ndim == 5:
            positions = tracker.positions_of(output)
        n_runs = 1 if before is None else before.n_runs + 1
        layers[module] = Layer(names[module], module, positions, n_runs)

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad(), tracker:
            network(volume)
    finally:
        for hook in hooks:
            hook.remove()
    return list(layers.values())


def last_features(layers: Sequence[Layer], volume_shape: Sequence[int]) -> Layer | None:
    """Return the deepest layer whose features still have a place in the volume.

    Parameters
    ----------
    layers : sequence of Layer
        Those of an encoder, in the order in which they were done.
    volume_shape : sequence of int
        Depth, height and width.

    Returns
    -------
    Layer or None
        The last block of convolutions, or activation function, whose output has at
        least two voxels along each side that the volume has two along. Convolutions
        themselves, which are not rectified yet, come second; pooling, normalisation
        and dropout, which make no features, do not count.
    """
    found = None
    for layer in layers:
        positions = layer.positions
        if positions is None or layer.n_runs > 1:
            continue
        if any(
            len(along) < min(2, side)
            for along, side in zip(positions, volume_shape, strict=True)
        ):
            continue
        is_convolution = isinstance(layer.module, nn.Conv3d)
        if is_convolution and found is not None and _makes_features(found.module):
            continue
        if is_convolution or _makes_features(layer.module):
            found = layer
    return found


def _makes_features(module: nn.Module) -> bool:
    """Tell whether it is an activation function, or has convolutions inside."""
    if type(module).__module__ == nn.ReLU.__module__:
        return True
    return any(
        isinstance(part, nn.Conv3d) for part in module.modules() if part is not module
    )


_aten = torch.ops.aten


class _PositionTracker(TorchDispatchMode):
    """Follow where the voxels of each tensor lie in the volume.

    A voxel that a convolution or a pooling makes lies at the centre of its window, of a
    pooling at the centre of what the window has of the volume: in ceil mode the last
    one may reach beyond it. What an operation makes of several tensors lies at the mean
    of their positions. After operations that change the grid in other ways, voxels are
    taken to divide the volume evenly.

    Parameters
    ----------
    volume : Tensor of shape (n, channels, depth, height, width)
        What positions refer to.
    """

    def __init__(self, volume: Tensor) -> None:
        super().__init__()
        self._volume_shape = volume.shape[2:]
        axes = [np.arange(side, dtype=np.float64) for side in self._volume_shape]
        # The tensors are kept, or another one could get the same id.
        self._known: dict[int, tuple[Tensor, list[NDArray[np.float64]]]] = {
            id(volume): (volume, axes)
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        made = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(made, Tensor) and made.ndim == 5:
            axes = self._follow(func, args, kwargs, made)
            if axes is not None:
                self._known[id(made)] = (made, axes)
        return output

    def positions_of(self, tensor: Tensor) -> Positions:
        """Return where the voxels of a tensor lie."""
        if id(tensor) in self._known:
            depth, height, width = self._known[id(tensor)][1]
            if all((np.diff(axis) > 0).all() for axis in (depth, height, width)):
                return depth, height, width
        depth, height, width = (
            (np.arange(n) + 0.5) * side / n - 0.5
            for n, side in zip(tensor.shape[2:], self._volume_shape, strict=True)
        )
        return depth, height, width

    def _follow(
        self, func: Any, args: Any, kwargs: Any, made: Tensor
    ) -> list[NDArray[np.float64]] | None:
        inputs = [
            self._known[id(leaf)][1]
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and id(leaf) in self._known
        ]
        if not inputs:
            return None
        made_shape = tuple(made.shape[2:])
        windows = _windows(func, args, kwargs)
        if windows is not None:
            return [
                window(axis, n)
                for window, axis, n in zip(windows, inputs[0], made_shape, strict=True)
            ]
        same = [axes for axes in inputs if tuple(map(len, axes)) == made_shape]
        if not same:
            return None
        return [np.mean(axes, axis=0) for axes in zip(*same, strict=True)]


_Axis = NDArray[np.float64]


def _windows(
    func: Any, args: Any, kwargs: Any
) -> list[Callable[[_Axis, int], _Axis]] | None:
    """Return, for each axis, what maps positions of an input to those of the output.

    None if the operation has no windows that slide over its input.
    """
    operation = func.overloadpacket
    if operation == _aten._adaptive_avg_pool3d:
        return [_pool_adaptively] * 3
    if operation not in (
        _aten.convolution,
        _aten.max_pool3d_with_indices,
        _aten.avg_pool3d,
    ):
        return None
    parameters = func._schema.arguments
    given = {parameter.name: parameter.default_value for parameter in parameters}
    names = [parameter.name for parameter in parameters]
    given.update(zip(names, args, strict=False), **kwargs)
    if given.get("transposed"):
        return None
    pools = operation != _aten.convolution
    kernel = _three(given["kernel_size"] if pools else given["weight"].shape[2:])
    stride = _three(given["stride"] or kernel)
    padding, dilation = _three(given["padding"]), _three(given.get("dilation", 1))
    return [
        partial(
            _slide,
            stride=stride[axis],
            start=-padding[axis],
            extent=dilation[axis] * (kernel[axis] - 1),
            clips=pools,
        )
        for axis in range(3)
    ]


def _three(values: int | Sequence[int]) -> Sequence[int]:
    values = [values] if isinstance(values, int) else values
    return values if len(values) == 3 else [*values] * 3


def _slide(
    positions: _Axis, n: int, *, stride: int, start: int, extent: int, clips: bool
) -> _Axis:
    first = start + stride * np.arange(n)
    last = first + extent
    if clips:
        first, last = np.clip([first, last], 0, len(positions) - 1)
    return _middle(positions, first, last)


def _pool_adaptively(positions: _Axis, n: int) -> _Axis:
    index, side = np.arange(n), len(positions)
    return _middle(positions, index * side // n, -(-(index + 1) * side // n) - 1)


def _middle(
    positions: _Axis, first: NDArray[np.int64], last: NDArray[np.int64]
) -> _Axis:
    return np.interp((first + last) / 2, np.arange(len(positions)), positions)
