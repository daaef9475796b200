"""Pure functions of tensors: coordinate transforms, resampling and noise.

A transform is a homogeneous matrix that maps *output* to *input* positions, in
voxels from the volume's centre, axes in array order ((y, x) or (z, y, x)). So
``a @ b`` resamples with `a` first and `b` second, and rotations stay rigid in volumes
whose sides differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import permutations, product

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


def cube_rotations(shape: tuple[int, int, int]) -> Tensor:
    """Return the rotations of a cube that keep the shape of a volume.

    Parameters
    ----------
    shape : (int, int, int)
        Depth, height and width.

    Returns
    -------
    Tensor of shape (n, 3, 3)
        Rotations of the content in the axes (z, y, x), float64, whose entries are 0, 1
        and -1: all 24 for a cube, 8 where two sides are equal, 4 where none are. The
        identity is the first, then come the half turns about the axes, the thirds of a
        turn about the diagonals, and the rest, so that the first 4 and 12 are groups.

    Examples
    --------
    >>> len(cube_rotations((16, 16, 16))), len(cube_rotations((8, 16, 16)))
    (24, 8)
    """
    found = []
    for axes in permutations(range(3)):
        if any(shape[axis] != side for axis, side in zip(axes, shape, strict=True)):
            continue
        permutation = torch.eye(3, dtype=torch.float64)[list(axes)]
        for signs in product((1.0, -1.0), repeat=3):
            rotation = torch.tensor(signs, dtype=torch.float64)[:, None] * permutation
            if torch.linalg.det(rotation) > 0:
                found.append(rotation)
    # By the number of axes that stay in place: all, none, one.
    found.sort(
        key=lambda rotation: (3, 0, 1).index(int(rotation.diagonal().abs().sum()))
    )
    return torch.stack(found)


def turn(volumes: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the content of volumes by one of `cube_rotations`, exactly.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Volumes whose shape the rotation keeps.
    rotation : Tensor of shape (3, 3)
        Rotation of the content in the axes (z, y, x), with entries 0, 1 and -1.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        The same voxels in another order.

    Examples
    --------
    >>> import torch
    >>> volume = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    >>> turn(volume, torch.diag(torch.tensor([-1.0, 1.0, -1.0]))).flatten()
    tensor([2., 1., 0.])
    """
    sources = [2 + int(axis) for axis in rotation.abs().argmax(dim=1)]
    flipped = [2 + axis for axis, sign in enumerate(rotation.sum(dim=1)) if sign < 0]
    return volumes.permute(0, 1, *sources).flip(flipped).contiguous()


def spread_rotations(n: int, group: Tensor) -> Tensor:
    """Return rotations that cover all orientations evenly together with a group's.

    Parameters
    ----------
    n : int
        Number of rotations, 1 or more.
    group : Tensor of shape (n_group, 3, 3)
        Rotations that form a group, float64.

    Returns
    -------
    Tensor of shape (n, 3, 3)
        Float64, the identity first; ``n * n_group`` products ``g @ r`` of those of the
        group and these are far from each other. Fewer are the first of more.

    Notes
    -----
    Each is the one, out of 1000 on a super-Fibonacci spiral [1]_, whose products are
    farthest from all products before it.

    References
    ----------
    .. [1] Alexa, M. (2022). Super-Fibonacci spirals: fast, low-discrepancy sampling of
       SO(3). IEEE/CVF Conference on Computer Vision and Pattern Recognition, 8281-8290.

    Examples
    --------
    >>> group = cube_rotations((16, 16, 16))
    >>> spread_rotations(2, group).shape
    torch.Size([2, 3, 3])
    """
    candidates = _super_fibonacci(1000)
    products = (group[:, None] @ candidates).flatten(2)
    # The trace of a.T @ b is 1 + 2 cos of the angle between a and b.
    nearest = torch.full((len(candidates),), -1.0, dtype=torch.float64)
    chosen = [0]
    while len(chosen) < n:
        traces = products @ candidates[chosen[-1]].flatten()
        nearest = torch.maximum(nearest, traces.amax(dim=0))
        chosen.append(int(nearest.argmin()))
    return candidates[chosen]


def oriented_views(volumes: Tensor, n_views: int) -> Iterator[Tensor]:
    """Yield volumes in several orientations, the same ones for all and in every call.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point.
    n_views : int
        Number of orientations, 1 or more. Fewer are the first of more.

    Yields
    ------
    Tensor of shape (n, channels, depth, height, width)
        Of the dtype and on the device of `volumes`: first `volumes` itself, then its
        exact rotations (`cube_rotations`), then resampled ones (`spread_rotations`),
        each of them in all exact rotations.

    Raises
    ------
    ValueError
        If `n_views` is less than 1.

    Examples
    --------
    >>> import torch
    >>> views = list(oriented_views(torch.randn(2, 1, 8, 8, 8), n_views=4))
    >>> torch.equal(views[1].flip(3, 4), views[0])
    True
    """
    if n_views < 1:
        raise ValueError(f"n_views={n_views!r}; expected at least 1.")
    depth, height, width = volumes.shape[2:]
    group, rotations = _orientations((depth, height, width), n_views)
    yield volumes
    for view in range(1, n_views):
        i, j = divmod(view, len(group))
        if i == 0:
            turned = volumes
        elif j == 0:
            matrices = rigid_matrices(rotations[i : i + 1], rotations.new_zeros(1, 3))
            turned = resample(volumes, matrices.expand(len(volumes), 4, 4))
        yield turn(turned, group[j])


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


def gaussian_blur(volumes: Tensor, std: Tensor) -> Tensor:
    """Convolve volumes with Gaussians; they are reflected at their faces.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point.
    std : Tensor of shape (n, 3)
        Standard deviations along z, y and x in voxels, less than the side; 0 leaves an
        axis alone. Of the dtype and on the device of `volumes`.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        New tensor.

    Examples
    --------
    >>> import torch
    >>> volume = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 1, 5)
    >>> std = torch.tensor([[0.0, 0.0, 0.5]])
    >>> gaussian_blur(volume, std).flatten().round(decimals=2)
    tensor([0.0000, 0.1100, 0.7900, 0.1100, 0.0000])
    """
    matrices = []
    for axis, side in enumerate(volumes.shape[2:]):
        at = torch.arange(side, dtype=volumes.dtype, device=volumes.device)
        # Each voxel and its images in the two faces.
        sources = torch.stack([at, -1 - at, 2 * side - 1 - at])
        distances = at[:, None] - sources[:, None]
        scales = 2 * std[:, axis].square().clamp_min(1e-6)
        weights = (-distances.square() / scales[:, None, None, None]).exp().sum(dim=1)
        matrices.append(weights / weights.sum(dim=2, keepdim=True))
    return _multiply_axes(volumes, matrices)


def correct_gamma(volumes: Tensor, log_gamma: Tensor) -> Tensor:
    """Raise intensities to a power, and give each volume its mean and spread back.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point, of either sign: the power is taken of what lies between the
        smallest and the largest value, scaled to between 0 and 1.
    log_gamma : Tensor of shape (n,)
        Natural logarithm of the exponent; 0 changes nothing. Of the dtype and on the
        device of `volumes`.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        New tensor.

    Examples
    --------
    >>> import torch
    >>> volume = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 1, 3)
    >>> correct_gamma(volume, torch.tensor([0.7])).flatten().round(decimals=2)
    tensor([-0.8000, -0.3200,  1.1200])
    """
    voxels = volumes.flatten(1)
    low, high = voxels.amin(dim=1, keepdim=True), voxels.amax(dim=1, keepdim=True)
    tiny = torch.finfo(volumes.dtype).tiny
    powers = ((voxels - low) / (high - low).clamp_min(tiny)) ** log_gamma.exp()[:, None]
    powers = powers - powers.mean(dim=1, keepdim=True)
    means = voxels.mean(dim=1, keepdim=True)
    scales = (
        (voxels - means).square().mean(dim=1, keepdim=True)
        / powers.square().mean(dim=1, keepdim=True).clamp_min(tiny)
    ).sqrt()
    return (means + powers * scales).reshape(volumes.shape)


def spline_displacements(control: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate the displacements of a coarse grid with cubic B-splines.

    Parameters
    ----------
    control : Tensor of shape (n, 3, n_points, n_points, n_points)
        Displacements along z, y and x at the control points, four or more along each
        axis. They are evenly spaced; the outermost lie one spacing outside of the
        volume's faces.
    shape : (int, int, int)
        Depth, height and width.

    Returns
    -------
    Tensor of shape (n, 3, depth, height, width)
        Displacement of each voxel, in the units of `control`.

    Examples
    --------
    >>> import torch
    >>> field = spline_displacements(torch.ones(1, 3, 5, 5, 5), (4, 6, 8))
    >>> field.shape, field.std().round(decimals=3)
    (torch.Size([1, 3, 4, 6, 8]), tensor(0.))
    """
    n_cells = control.shape[2] - 3
    matrices = []
    for side in shape:
        # The centres of the voxels, counted in cells from the first face.
        at = torch.arange(side, dtype=control.dtype, device=control.device) + 0.5
        points = torch.arange(-1, n_cells + 2, dtype=at.dtype, device=at.device)
        distances = (at[:, None] * (n_cells / side) - points).abs()
        inner = 2 / 3 - distances.square() + distances.pow(3) / 2
        outer = (2 - distances).clamp_min(0).pow(3) / 6
        matrices.append(torch.where(distances < 1, inner, outer))
    return _multiply_axes(control, matrices)


def displace(volumes: Tensor, displacements: Tensor) -> Tensor:
    """Resample volumes once, linearly, at displaced positions, with zeros outside.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        Floating point.
    displacements : Tensor of shape (n, 3, depth, height, width)
        From each output position to its input position, along z, y and x in voxels.
        Of the dtype and on the device of `volumes`.

    Returns
    -------
    Tensor of shape (n, channels, depth, height, width)
        New tensor.

    Examples
    --------
    >>> import torch
    >>> volume = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    >>> shift = torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1, 1)
    >>> displace(volume, shift.expand(1, 3, 1, 1, 3)).flatten()
    tensor([0., 0., 1.])
    """
    identity = torch.eye(4, dtype=torch.float64)[None]
    # The volume spans 2 units along each axis; axes are counted from the last.
    sides = volumes.shape[2:]
    scaled = [displacements[:, axis] / side * 2 for axis, side in enumerate(sides)]
    offsets = torch.stack(scaled[::-1], dim=-1)
    grid = _sampling_grid(identity, volumes[:1]) + offsets
    return F.grid_sample(volumes, grid, align_corners=False)


def bias_fields(
    coefficients: Tensor, order: int, shape: tuple[int, int, int]
) -> Tensor:
    """Return smooth positive fields, the exponentials of polynomials.

    Parameters
    ----------
    coefficients : Tensor of shape (n, n_terms)
        One for each product of powers of z, y and x of at most `order` in sum:
        1, x, x², ..., y, yx, ..., z, zx, ...; `n_terms` is
        ``(order + 1) (order + 2) (order + 3) / 6``.
    order : int
        Largest order of a term.
    shape : (int, int, int)
        Depth, height and width. The faces are at -1 and 1.

    Returns
    -------
    Tensor of shape (n, 1, depth, height, width)
        Of the dtype and on the device of `coefficients`.

    Examples
    --------
    >>> import torch
    >>> coefficients = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    >>> bias_fields(coefficients, 1, (1, 1, 4)).log().flatten()
    tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    powers = []
    for side in shape:
        at = torch.arange(side, dtype=coefficients.dtype, device=coefficients.device)
        at = (2 * at + 1) / side - 1
        powers.append(torch.stack([at**exponent for exponent in range(order + 1)]))
    terms = [
        powers[0][i, :, None, None] * powers[1][j, :, None] * powers[2][k]
        for i in range(order + 1)
        for j in range(order + 1 - i)
        for k in range(order + 1 - i - j)
    ]
    return torch.tensordot(coefficients, torch.stack(terms), dims=1).exp()[:, None]


def _multiply_axes(volumes: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply the columns of volumes along z, y and x by a matrix for each axis.

    Parameters
    ----------
    volumes : Tensor of shape (n, channels, depth, height, width)
        The volumes.
    matrices : sequence of three Tensors
        Of shape (new_side, side), or (n, new_side, side) for one a volume.

    Returns
    -------
    Tensor of shape (n, channels, new_depth, new_height, new_width)
        The products.
    """
    for matrix in matrices:
        # After three rounds the axes are in order again.
        matrix = matrix if matrix.ndim == 2 else matrix[:, None]
        rest = volumes.shape[3:]
        volumes = (matrix @ volumes.flatten(3)).unflatten(3, rest).movedim(2, 4)
    return volumes


def _super_fibonacci(n: int) -> Tensor:
    """Return n nearly uniform rotations, the first of which is the identity."""
    steps = torch.arange(n, dtype=torch.float64) + 0.5
    radii, others = (steps / n).sqrt(), (1 - steps / n).sqrt()
    # The square root of 2 and the real solution of x^4 = x + 4.
    alpha, beta = (2 * math.pi / x * steps for x in (math.sqrt(2), 1.533751168755204))
    rotations = rotation_matrices(
        torch.stack(
            [
                radii * alpha.sin(),
                radii * alpha.cos(),
                others * beta.sin(),
                others * beta.cos(),
            ],
            dim=1,
        )
    )
    rotations = rotations @ rotations[0].T
    rotations[0] = torch.eye(3)
    return rotations


@lru_cache(maxsize=16)
def _orientations(shape: tuple[int, int, int], n_views: int) -> tuple[Tensor, Tensor]:
    """Return the exact rotations of a shape, and the others to combine them with."""
    group = cube_rotations(shape)
    return group, spread_rotations(math.ceil(n_views / len(group)), group)


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
