import math

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial
from scipy import interpolate, ndimage
from torch.nn import functional as F

from sksubtomo.augmentation.functional import (
    add_noise,
    bias_fields,
    correct_gamma,
    crop_matrices,
    cube_rotations,
    displace,
    gaussian_blur,
    in_plane_matrices,
    oriented_views,
    resample,
    rigid_matrices,
    rotation_matrices,
    spline_displacements,
    spread_rotations,
    turn,
)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def float64(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("turns", [-1, 1, 2, 3])
def test_in_plane_rotation_by_right_angles(turns):
    volumes = randn(2, 1, 3, 6, 6)
    matrices = in_plane_matrices(
        float64(90, 90) * turns, float64([0, 0], [0, 0]), float64(1, 1)
    )
    expected = torch.rot90(volumes, turns, dims=(3, 4))
    torch.testing.assert_close(resample(volumes, matrices), expected)


@pytest.mark.parametrize("sides", [(4, 6), (6, 4), (3, 7)])
def test_in_plane_rotation_is_rigid_when_sides_differ(sides):
    """A right angle keeps the voxels that stay inside and loses the others."""
    volumes = randn(1, 1, 2, *sides)
    height, width = sides
    top, left = ((max(sides) - side) // 2 for side in sides)
    square = F.pad(volumes, (left, left, top, top))
    turned = torch.rot90(square, 1, dims=(3, 4))
    expected = turned[..., top : top + height, left : left + width]

    matrices = in_plane_matrices(float64(90), float64([0, 0]), float64(1))
    torch.testing.assert_close(resample(volumes, matrices), expected)


@pytest.mark.parametrize(("axis", "others"), [(0, (3, 4)), (1, (2, 4)), (2, (2, 3))])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_in_space_by_right_angles(axis, others, turns):
    volumes = randn(1, 1, 5, 5, 5)
    # rot90 over (a, b) turns a towards b.
    a, b = (other - 2 for other in others)
    rotation = torch.zeros(3, 3, dtype=torch.float64)
    rotation[axis, axis] = 1
    angle = math.radians(90 * turns)
    rotation[a, a] = rotation[b, b] = math.cos(angle)
    rotation[b, a], rotation[a, b] = math.sin(angle), -math.sin(angle)

    matrices = rigid_matrices(rotation[None], float64([0, 0, 0]))
    expected = torch.rot90(volumes, turns, dims=others)
    torch.testing.assert_close(resample(volumes, matrices), expected)


def test_rotation_about_z_is_the_same_in_plane_and_in_space():
    volumes = randn(1, 1, 4, 7, 6)
    angle = math.radians(33.0)
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[1:, 1:] = float64(
        [math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]
    )
    in_space = rigid_matrices(rotation[None], float64([0, 1.5, -0.5]))
    in_plane = in_plane_matrices(float64(33), float64([1.5, -0.5]), float64(1))
    torch.testing.assert_close(in_plane[0], in_space[0, 1:, 1:])
    torch.testing.assert_close(
        resample(volumes, in_plane), resample(volumes, in_space), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("seed", range(3))
def test_any_transform_in_space_equals_scipy(seed):
    volume = randn(7, 6, 9, seed=seed)
    rotation = rotation_matrices(randn(1, 4, seed=seed + 10))
    matrix = rigid_matrices(rotation, randn(1, 3, seed=seed + 20))
    centre = (torch.tensor(volume.shape) - 1) / 2
    linear, shift = matrix[0, :3, :3], matrix[0, :3, 3]
    expected = ndimage.affine_transform(
        volume.numpy(),
        linear.numpy(),
        (shift + centre - linear @ centre.double()).numpy(),
        order=1,
        mode="grid-constant",
    )
    view = resample(volume[None, None], matrix)[0, 0]
    torch.testing.assert_close(view, torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_any_transform_in_the_plane_equals_scipy_slice_by_slice():
    volume = randn(3, 6, 9)
    matrix = crop_matrices(float64(0.8), float64([0.5, -0.7])) @ in_plane_matrices(
        float64(20), float64([0.3, 1.0]), float64(1.1)
    )
    centre = (torch.tensor(volume.shape[1:]) - 1) / 2
    linear, shift = matrix[0, :2, :2], matrix[0, :2, 2]
    view = resample(volume[None, None], matrix)[0, 0]
    for before, after in zip(volume, view, strict=True):
        expected = ndimage.affine_transform(
            before.numpy(),
            linear.numpy(),
            (shift + centre - linear @ centre.double()).numpy(),
            order=1,
            mode="grid-constant",
        )
        expected = torch.from_numpy(expected)
        torch.testing.assert_close(after, expected, atol=1e-12, rtol=0)


def test_translation_moves_the_content():
    volumes = randn(1, 1, 5, 6, 7)
    identity = torch.eye(3, dtype=torch.float64)[None]
    view = resample(volumes, rigid_matrices(identity, float64([1, -2, 3])))
    expected = torch.zeros_like(volumes)
    expected[..., 1:, :-2, 3:] = volumes[..., :-1, 2:, :-3]
    torch.testing.assert_close(view, expected, atol=1e-12, rtol=0)

    in_plane = in_plane_matrices(float64(0), float64([-2, 3]), float64(1))
    expected = torch.zeros_like(volumes)
    expected[..., :-2, 3:] = volumes[..., 2:, :-3]
    view = resample(volumes, in_plane)
    torch.testing.assert_close(view, expected, atol=1e-12, rtol=0)


def test_scale_magnifies_the_content():
    ramp = torch.arange(8, dtype=torch.float64) - 3.5
    volumes = ramp.expand(1, 1, 2, 8, 8)
    view = resample(volumes, in_plane_matrices(float64(0), float64([0, 0]), float64(2)))
    torch.testing.assert_close(view, volumes / 2)


def test_crop_enlarges_its_part():
    ramp_y, ramp_x = torch.meshgrid(
        torch.arange(8.0).double() - 3.5,
        torch.arange(6.0).double() - 2.5,
        indexing="ij",
    )
    for ramp, centre in ((ramp_y, 1.5), (ramp_x, -0.5)):
        volumes = ramp.expand(1, 1, 2, 8, 6)
        view = resample(volumes, crop_matrices(float64(0.5), float64([1.5, -0.5])))
        torch.testing.assert_close(view, volumes / 2 + centre)


def test_order_of_the_composition():
    """The paper crops first, then applies its affine transform to what is left."""
    ramp = (torch.arange(12.0).double() - 5.5)[:, None].expand(1, 1, 1, 12, 12)
    crop = crop_matrices(float64(0.5), float64([2, 0]))
    shift = in_plane_matrices(float64(0), float64([1, 0]), float64(1))
    once = resample(ramp, crop @ shift)
    twice = resample(resample(ramp, crop), shift)
    torch.testing.assert_close(once[..., 2:, :], twice[..., 2:, :])
    torch.testing.assert_close(once[..., 2:, :], ((ramp - 1) * 0.5 + 2)[..., 2:, :])


def test_composition_equals_two_resamplings_of_a_smooth_volume():
    axis = torch.linspace(-1, 1, 64, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    blob = torch.exp(-((y - 0.1) ** 2 + (x + 0.15) ** 2) / 0.03)
    volumes = (blob + torch.exp(-((y + 0.2) ** 2 + x**2) / 0.02)).expand(
        1, 1, 2, 64, 64
    )
    crop = crop_matrices(float64(0.8), float64([3, -2]))
    affine = in_plane_matrices(float64(30), float64([4, 2]), float64(0.95))
    once = resample(volumes, crop @ affine)
    twice = resample(resample(volumes, crop), affine)
    assert (once - twice).abs().max() < 0.03
    assert (once - volumes).abs().max() > 0.3


def test_every_volume_has_its_own_transform():
    volumes = randn(1, 1, 2, 5, 5).expand(3, 1, 2, 5, 5)
    angles, shifts = float64(0, 90, 180), torch.zeros(3, 2, dtype=torch.float64)
    views = resample(volumes, in_plane_matrices(angles, shifts, torch.ones(3).double()))
    for turns in range(3):
        expected = torch.rot90(volumes[0], turns, dims=(2, 3))
        torch.testing.assert_close(views[turns], expected)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_a_volume_is_resampled_alike_in_any_batch(n_axes):
    volumes = randn(6, 1, 5, 7, 8).float()
    matrices = torch.eye(n_axes + 1).double() + 0.1 * randn(6, n_axes + 1, n_axes + 1)
    views = resample(volumes, matrices)
    for rows in (slice(0, 1), slice(2, 5), slice(3, 6)):
        assert torch.equal(resample(volumes[rows], matrices[rows]), views[rows])


@pytest.mark.parametrize("n_axes", [2, 3])
def test_positions_are_those_of_affine_grid(n_axes):
    """Matrices in voxels from the centre, rescaled to edges at -1 and 1."""
    volumes = randn(4, 1, 5, 7, 8)
    matrices = torch.eye(n_axes + 1).double() + 0.1 * randn(4, n_axes + 1, n_axes + 1)
    images = volumes.flatten(1, 2) if n_axes == 2 else volumes
    half = torch.tensor(images.shape[2:]).flip(0) / 2
    order = [*range(n_axes)][::-1]
    linear = matrices[:, order][:, :, order] * half / half[:, None]
    theta = torch.cat([linear, matrices[:, order, n_axes:] / half[:, None]], dim=2)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False).reshape(volumes.shape)
    view = resample(volumes, matrices)
    torch.testing.assert_close(view, expected, atol=1e-12, rtol=0)
    single = resample(volumes.float(), matrices)
    torch.testing.assert_close(single, expected.float(), atol=2e-5, rtol=0)


def test_rotation_matrices_are_proper_and_ignore_length_and_sign():
    quaternions = randn(50, 4)
    rotations = rotation_matrices(quaternions)
    eye = torch.eye(3).double().expand(50, 3, 3)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), eye)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50).double())
    torch.testing.assert_close(rotation_matrices(-3 * quaternions), rotations)


def test_resample_keeps_dtype_and_leaves_its_input():
    volumes = randn(2, 1, 3, 4, 5).float()
    before = volumes.clone()
    view = resample(volumes, torch.eye(3, dtype=torch.float64).repeat(2, 1, 1))
    assert view.dtype == torch.float32
    torch.testing.assert_close(view, volumes, atol=2e-6, rtol=0)
    assert view.data_ptr() != volumes.data_ptr()
    assert torch.equal(volumes, before)


def test_add_noise_is_white_with_the_given_deviation():
    volumes = randn(2, 1, 24, 24, 24)
    std = float64(0.5, 3)
    noise = add_noise(volumes, std, torch.Generator().manual_seed(0)) - volumes
    n = 24**3
    torch.testing.assert_close(noise.std(dim=(1, 2, 3, 4)), std, rtol=0.03, atol=0)
    assert (noise.mean(dim=(1, 2, 3, 4)).abs() < 4 * std / math.sqrt(n)).all()
    for dim in (2, 3, 4):
        length = noise.shape[dim]
        a, b = noise.narrow(dim, 0, length - 1), noise.narrow(dim, 1, length - 1)
        for row in range(2):
            pair = torch.stack([a[row].flatten(), b[row].flatten()])
            assert abs(torch.corrcoef(pair)[0, 1]) < 0.04


def test_add_noise_comes_from_the_generator():
    volumes = torch.zeros(1, 1, 3, 3, 3)
    views = [
        add_noise(volumes, torch.ones(1), torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert volumes.abs().max() == 0


def angles_between(a, b):
    """Angles in degrees from each rotation of one set to each of another."""
    traces = torch.einsum("aij,bij->ab", a, b)
    return torch.rad2deg(torch.acos(((traces - 1) / 2).clamp(-1, 1)))


@pytest.mark.parametrize(
    ("shape", "n"),
    [((5, 5, 5), 24), ((4, 4, 6), 8), ((6, 4, 6), 8), ((3, 4, 5), 4), ((1, 1, 7), 8)],
)
def test_cube_rotations_are_a_group_that_keeps_the_shape(shape, n):
    rotations = cube_rotations(shape)
    assert len(rotations) == n
    assert torch.equal(rotations[0], torch.eye(3).double())
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(n).double())
    assert set(rotations.unique().tolist()) == {-1, 0, 1}
    sides = torch.tensor(shape).double()
    assert torch.equal(rotations.abs() @ sides, sides.expand(n, 3))
    for first in (4, 12, 24) if n == 24 else (4, n):
        part = rotations[:first]
        closest = angles_between((part[:, None] @ part).flatten(0, 1), part).amin(dim=1)
        assert closest.max() < 1e-3
    assert (angles_between(rotations, rotations) + 360 * torch.eye(n)).min() > 89


@pytest.mark.parametrize("shape", [(5, 5, 5), (4, 4, 4), (3, 6, 6), (3, 4, 5)])
def test_turn_equals_resampling_and_keeps_every_voxel(shape):
    volumes = randn(2, 1, *shape)
    for rotation in cube_rotations(shape):
        view = turn(volumes, rotation)
        matrices = rigid_matrices(rotation[None], float64([0, 0, 0])).expand(2, 4, 4)
        torch.testing.assert_close(
            view, resample(volumes, matrices), atol=1e-12, rtol=0
        )
        assert torch.equal(view.flatten(1).sort().values, volumes.flatten(1).sort()[0])


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 10, 10), (8, 9, 10)])
def test_spread_rotations_are_far_apart_and_leave_no_gaps(shape):
    group = cube_rotations(shape)
    rotations = spread_rotations(5, group)
    assert torch.equal(rotations[0], torch.eye(3).double())
    eye = torch.eye(3).double().expand(5, 3, 3)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), eye)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(5).double())
    assert torch.equal(spread_rotations(2, group), rotations[:2])

    views = (group @ rotations[:, None]).flatten(0, 1)
    n = len(views)
    uniform = rotation_matrices(randn(n, 4))
    anywhere = rotation_matrices(randn(3000, 4, seed=1))
    apart, by_chance = (
        (angles_between(a, a) + 360 * torch.eye(n)).min() for a in (views, uniform)
    )
    assert apart > 2 * by_chance
    gap, by_chance = (
        angles_between(anywhere, a).amin(dim=1).mean() for a in (views, uniform)
    )
    assert gap < 0.95 * by_chance


def test_oriented_views_begin_with_the_volumes_and_their_exact_turns():
    volumes = randn(3, 1, 6, 6, 6)
    views = list(oriented_views(volumes, 30))
    assert len(views) == 30
    assert views[0] is volumes
    for view, rotation in zip(views[:24], cube_rotations((6, 6, 6)), strict=True):
        assert torch.equal(view, turn(volumes, rotation))
    rows = torch.stack([view.flatten() for view in views])
    assert len(torch.unique(rows, dim=0)) == 30


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 8, 9)])
def test_oriented_views_are_rotated_by_the_products(shape):
    volumes = randn(2, 1, *shape)
    group = cube_rotations(shape)
    n_views = 2 * len(group) + 3
    rotations = spread_rotations(3, group)
    for i, view in enumerate(oriented_views(volumes, n_views)):
        rotation = group[i % len(group)] @ rotations[i // len(group)]
        matrices = rigid_matrices(rotation[None], float64([0, 0, 0])).expand(2, 4, 4)
        torch.testing.assert_close(
            view, resample(volumes, matrices), atol=1e-12, rtol=0
        )


def test_oriented_views_are_the_same_for_every_volume_and_number():
    volumes = randn(3, 1, 6, 6, 6).float()
    views = list(oriented_views(volumes, 27))
    for i, view in enumerate(oriented_views(volumes[1:2], 26)):
        assert torch.equal(view, views[i][1:2])
        assert view.dtype == torch.float32
    with pytest.raises(ValueError, match="n_views=0; expected at least 1"):
        next(oriented_views(volumes, 0))


@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 12, 20)])
def test_blur_equals_scipy(shape):
    volumes = randn(3, 1, *shape)
    stds = float64([1, 0.5, 0.8], [0.3, 1.2, 0], [0, 0, 0])
    views = gaussian_blur(volumes, stds)
    for volume, std, view in zip(volumes[:, 0], stds, views[:, 0], strict=True):
        expected = ndimage.gaussian_filter(volume.numpy(), std.numpy(), truncate=7)
        np.testing.assert_allclose(view, expected, atol=1e-9)
    assert torch.equal(views[2], volumes[2])


def test_gamma_equals_a_power_between_the_extremes():
    volumes = randn(3, 1, 6, 7, 8) * 3 - 1
    log_gamma = float64(-0.5, 0, 0.8)
    views = correct_gamma(volumes, log_gamma)
    for row in range(3):
        volume = volumes[row].numpy()
        unit = (volume - volume.min()) / (volume.max() - volume.min())
        power = unit ** math.exp(log_gamma[row])
        expected = (power - power.mean()) / power.std() * volume.std() + volume.mean()
        np.testing.assert_allclose(views[row], expected, atol=1e-12)
    torch.testing.assert_close(views[1], volumes[1])
    constant = torch.full((1, 1, 2, 2, 2), 5.0)
    assert torch.equal(correct_gamma(constant, torch.tensor([0.3])), constant)


@pytest.mark.parametrize("n_points", [4, 5, 7])
def test_spline_displacements_equal_scipys_splines(n_points):
    control = randn(2, 3, n_points, n_points, n_points)
    shape = (5, 8, 9)
    field = spline_displacements(control, shape)
    expected = control.numpy()
    n_cells = n_points - 3
    for side in shape:
        # Uniform knots, one cell apart; the volume reaches from 0 to n_cells.
        knots = np.arange(-3, n_cells + 4)
        at = (np.arange(side) + 0.5) * n_cells / side
        spline = interpolate.BSpline(knots, expected, 3, axis=2)
        expected = np.moveaxis(spline(at), 2, 4)
    np.testing.assert_allclose(field, expected, atol=1e-12)


def test_displace_equals_scipy():
    volumes, displacements = randn(2, 1, 5, 6, 8), 1.5 * randn(2, 3, 5, 6, 8, seed=1)
    views = displace(volumes, displacements)
    for volume, shift, view in zip(volumes, displacements, views, strict=True):
        positions = np.indices(shift.shape[1:]) + shift.numpy()
        expected = ndimage.map_coordinates(
            volume[0].numpy(), positions, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(view[0], expected, atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_bias_fields_equal_numpys_polynomials(order):
    n_terms = math.comb(order + 3, 3)
    coefficients = randn(2, n_terms)
    shape = (4, 5, 7)
    fields = bias_fields(coefficients, order, shape)
    axes = [(np.arange(side) + 0.5) / side * 2 - 1 for side in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    powers = [
        (i, j, k)
        for i in range(order + 1)
        for j in range(order + 1)
        for k in range(order + 1)
        if i + j + k <= order
    ]
    for row in range(2):
        cube = np.zeros((order + 1,) * 3)
        for power, coefficient in zip(powers, coefficients[row], strict=True):
            cube[power] = coefficient
        expected = np.exp(polynomial.polyval3d(z, y, x, cube))
        np.testing.assert_allclose(fields[row, 0], expected, rtol=1e-12)
