import math

import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from sksubtomo.augmentation.functional import (
    add_noise,
    crop_matrices,
    in_plane_matrices,
    resample,
    rigid_matrices,
    rotation_matrices,
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
