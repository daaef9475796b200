"""Pure functions of tensors: coordinate transforms, resampling and noise.

A transform is a homogeneous matrix that maps *output* to *input* positions, in
voxels from the volume's centre, axes in array order ((y, x) or (z, y, x)). So
``a @ b`` resamples with `a` first and `b` second, and rotations stay rigid in volumes
whose sides differ.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def in_plane_matrices(angles: Tensor, translations: Tensor, scales: Tensor) -> Tensor:
    """Return transforms that rotate, scale and then shift the content in the plane.

    Parameters
    ----------
    angles : Tensor of shape (n,)
        Rotations about z in degrees; positive ones turn the y axis towards x, as
        ``torch.rot90`` over the axes (y, x) does.
    translations : Tensor of shape (n, 2)
        Shifts of the content in voxels, (y, x).
    scales : Tensor of shape (n,)
        Magnifications of the content, positive.

    Returns
    -------
    Tensor of shape (n, 3, 3)
        Output to input positions.

    Examples
    --------
    >>> import torch
    >>> shift = torch.tensor([[2.0, 0.0]])
    >>> in_plane_matrices(torch.zeros(1), shift, torch.ones(1))[0, 0]
    tensor([ 1.,  0., -2.])
    """
    radians = torch.deg2rad(angles)
    cos, sin = torch.cos(radians), torch.sin(radians)
    rows = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
    return _shift_first(rows / scales[:, None, None], translations)


def crop_matrices(zooms: Tensor, centres: Tensor) -> Tensor:
    """Return transforms that enlarge a part of the plane to the whole.

    Parameters
    ----------
    zooms : Tensor of shape (n,)
        Side of the part, as a fraction of the whole side; the square root of the
        fraction of the area.
    centres : Tensor of shape (n, 2)
        Centre of the part in voxels from the centre of the whole, (y, x).

    Returns
    -------
    Tensor of shape (n, 3, 3)
        Output to input positions.

    Examples
    --------
    >>> import torch
    >>> crop_matrices(torch.tensor([0.5]), torch.tensor([[1.0, -1.0]]))
    tensor([[[ 0.5000,  0.0000,  1.0000],
             [ 0.0000,  0.5000, -1.0000],
             [ 0.0000,  0.0000,  1.0000]]])
    """
    eye = torch.eye(2, dtype=zooms.dtype, device=zooms.device)
    return _homogeneous(zooms[:, None, None] * eye, centres)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Return the rotations that quaternions stand for.

    Four independent standard normal numbers, taken as a quaternion, give a uniformly
    distributed rotation.

    Parameters
    ----------
    quaternions : Tensor of shape (n, 4)
        Real part first; of any length but 0.

    Returns
    -------
    Tensor of shape (n, 3, 3)
        Proper rotations.

    References
    ----------
    Shoemake, K. (1992). Uniform random rotations. Graphics Gems III, 124-132.

    Examples
    --------
    >>> import torch
    >>> rotation_matrices(torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
    tensor([[[-1.,  0.,  0.],
             [ 0., -1.,  0.],
             [ 0.,  0.,  1.]]])
    """
    a, b, c, d = F.normalize(quaternions, dim=1).unbind(dim=1)
    entries = [
        a * a + b * b - c * c - d * d,
        2 * (b * c - a * d),
        2 * (b * d + a * c),
        2 * (b * c + a * d),
        a * a - b * b + c * c - d * d,
        2 * (c * d - a * b),
        2 * (b * d - a * c),
        2 * (c * d + a * b),
        a * a - b * b - c * c + d * d,
    ]
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def rigid_matrices(rotations: Tensor, translations: Tensor) -> Tensor:
    """Return transforms that rotate and then shift the content in space.

    Parameters
    ----------
    rotations : Tensor of shape (n, 3, 3)
        Rotations of the content, in the axes (z, y, x).
    translations : Tensor of shape (n, 3)
        Shifts of the content in voxels, (z, y, x).

    Returns
    -------
    Tensor of shape (n, 4, 4)
        Output to input positions.

    Examples
    --------
    >>> import torch
    >>> rigid_matrices(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 3.0]]))[0, 2]
    tensor([ 0.,  0.,  1., -3.])
    """
    return _shift_first(rotations.transpose(1, 2), translations)


def resample(volumes: Tensor, matrices: Tensor) -> Tensor:
    """Resample volumes once, linearly, with zeros outside.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point.
    matrices : Tensor of shape (n, 3, 3) or (n, 4, 4)
        Output to input positions, one transform a volume: in the plane, shared by
        all z slices, or in space.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        Of the dtype and on the device of `volumes`.

    Examples
    --------
    >>> import torch
    >>> volume = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    >>> shift = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 1.0]]])
    >>> resample(volume, shift).flatten()
    tensor([0., 0., 1.])
    """
    n_axes = matrices.shape[-1] - 1
    # A transform in the plane costs a fraction as a 2-D resampling whose channels
    # are the slices, since positions and weights are then shared by all of them.
    images = volumes.flatten(1, 2) if n_axes == 2 else volumes
    grid = _sampling_grid(matrices, images)
    return F.grid_sample(images, grid, align_corners=False).reshape(volumes.shape)


def add_noise(volumes: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise to every volume.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point.
    std : Tensor of shape (n,)
        Standard deviation of each volume's noise.
    generator : torch.Generator
        On the device of `volumes`.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        New tensor.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> noisy = add_noise(torch.ones(1, 1, 20, 20, 20), torch.tensor([0.5]), generator)
    >>> round(noisy.std().item(), 1)
    0.5
    """
    noise = torch.empty_like(volumes).normal_(generator=generator)
    return noise.mul_(std[:, None, None, None, None]).add_(volumes)


def _sampling_grid(matrices: Tensor, images: Tensor) -> Tensor:
    """Return the input positions of all output voxels, as ``grid_sample`` takes them.

    Parameters
    ----------
    matrices : Tensor of shape (n, n_axes + 1, n_axes + 1)
        Output to input positions.
    images : Tensor of shape (n, channels, *sides)
        What is to be resampled.

    Returns
    -------
    Tensor of shape (n, *sides, n_axes)
        Positions, axes counted from the last; the edges are at -1 and 1.
    """
    sides = images.shape[2:]
    n, n_axes = len(matrices), len(sides)
    half = matrices.new_tensor(sides) / 2
    rows = (matrices[:, :n_axes] / half[:, None]).flip(1)
    rows = rows.to(images, non_blocking=True)
    # A sum over the axes, each coordinate in a plane of its own, takes a fraction of
    # the time of affine_grid, which multiplies matrices of two or three columns.
    grid = rows[:, :, n_axes].reshape(n, n_axes, *[1] * n_axes)
    for axis, side in enumerate(sides):
        centred = torch.arange(side, dtype=images.dtype, device=images.device)
        terms = rows[:, :, axis, None] * (centred - (side - 1) / 2)
        grid = grid + terms.reshape(
            n, n_axes, *[1] * axis, side, *[1] * (n_axes - axis - 1)
        )
    return grid.movedim(1, -1)


def _shift_first(linear: Tensor, translations: Tensor) -> Tensor:
    """Return the matrices of ``position -> linear @ (position - translation)``."""
    return _homogeneous(linear, -(linear * translations[:, None]).sum(dim=2))


def _homogeneous(linear: Tensor, offsets: Tensor) -> Tensor:
    """Return the matrices of ``position -> linear @ position + offset``."""
    n, n_axes = offsets.shape
    matrices = linear.new_zeros(n, n_axes + 1, n_axes + 1)
    matrices[:, :n_axes, :n_axes] = linear
    matrices[:, :n_axes, n_axes] = offsets
    matrices[:, n_axes, n_axes] = 1
    return matrices
