import math

import pytest
import torch
from scipy import stats

from sksubtomo.augmentation import CropAffine

N = 4000


def draws(height=30, width=20, seed=0, **parameters):
    return CropAffine(**parameters).build(seed).draw(N, height, width)


def p_uniform(values, low, high):
    return stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue


def test_defaults_are_the_papers():
    assert CropAffine().get_params() == {
        "p_crop": 0.5,
        "crop_scale": (0.5, 1.0),
        "p_affine": 0.5,
        "max_rotation": 45.0,
        "max_translation": 0.1,
        "max_scaling": 0.1,
    }


def test_crops_are_uniform_and_inside():
    matrices = draws(p_crop=1, p_affine=0, crop_scale=(0.4, 0.9))
    zooms = matrices[:, 0, 0]
    assert torch.equal(zooms, matrices[:, 1, 1])
    assert matrices[:, 0, 1].abs().max() == matrices[:, 1, 0].abs().max() == 0
    assert p_uniform(zooms**2, 0.4, 0.9) > 1e-3

    for axis, side in ((0, 30), (1, 20)):
        offsets = matrices[:, axis, 2]
        room = (1 - zooms) * side / 2
        assert (offsets.abs() <= room).all()
        assert p_uniform(offsets / room, -1, 1) > 1e-3
    assert abs(torch.corrcoef(matrices[:, :2, 2].T / (1 - zooms))[0, 1]) < 0.06


def test_affines_are_uniform():
    matrices = draws(p_crop=0, p_affine=1, max_rotation=60, max_scaling=0.2)
    linear = torch.linalg.inv(matrices)[:, :2, :2]
    scales = torch.linalg.det(linear).sqrt()
    assert p_uniform(scales, 0.8, 1.2) > 1e-3

    rotations = linear / scales[:, None, None]
    eye = torch.eye(2).double().expand(N, 2, 2)
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), eye)
    angles = torch.atan2(rotations[:, 0, 1], rotations[:, 0, 0]) * 180 / math.pi
    assert p_uniform(angles, -60, 60) > 1e-3

    shifts = torch.linalg.inv(matrices)[:, :2, 2]
    assert p_uniform(shifts[:, 0], -3, 3) > 1e-3
    assert p_uniform(shifts[:, 1], -2, 2) > 1e-3
    together = torch.stack([scales, angles, shifts[:, 0], shifts[:, 1]])
    off_diagonal = torch.corrcoef(together) - torch.eye(4)
    assert off_diagonal.abs().max() < 0.07


@pytest.mark.parametrize(("p_crop", "p_affine"), [(0.5, 0.5), (0.2, 0.9), (0, 1)])
def test_probabilities(p_crop, p_affine):
    matrices = draws(p_crop=p_crop, p_affine=p_affine, max_scaling=0)
    # Without scaling only a crop changes areas, and only an affine rotates.
    cropped = (torch.linalg.det(matrices) - 1).abs() > 1e-9
    moved = matrices[:, 0, 1].abs() > 1e-9
    for happened, p in ((cropped, p_crop), (moved, p_affine), (cropped & moved, None)):
        p = p_crop * p_affine if p is None else p
        tolerance = 4 * math.sqrt(p * (1 - p) / N)
        assert abs(happened.double().mean().item() - p) <= tolerance


def test_untouched_volumes_are_whole():
    matrices = draws(p_crop=0, p_affine=0)
    assert torch.equal(matrices, torch.eye(3).double().expand(N, 3, 3))


def test_all_slices_share_one_transform():
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(20, 1, 1, 9, 9, generator=generator)
    views = CropAffine(p_crop=1, p_affine=1).build(0)(plane.expand(20, 1, 6, 9, 9))
    assert torch.equal(views, views[:, :, :1].expand_as(views))
    assert not torch.allclose(views[:, :, :1], plane)


def test_slices_do_not_mix():
    volumes = torch.zeros(20, 1, 5, 8, 8)
    volumes[:, :, 2] = 1
    views = CropAffine(p_crop=1, p_affine=1).build(0)(volumes)
    assert views[:, :, [0, 1, 3, 4]].abs().max() == 0
    assert views[:, :, 2].amax(dim=(1, 2, 3)).min() > 0.99


def test_crops_show_nothing_from_outside():
    views = CropAffine(p_crop=1, p_affine=0).build(0)(torch.ones(50, 1, 2, 12, 12))
    # Samples lie between the part's outermost half voxels, which fade to zero.
    assert views[..., 1:-1, 1:-1].min() > 0.99


def test_the_affine_applies_to_what_the_crop_left():
    crops, affines = draws(p_crop=1, p_affine=0), draws(p_crop=0, p_affine=1)
    both = draws(p_crop=1, p_affine=1)
    torch.testing.assert_close(both, crops @ affines)
    assert not torch.allclose(both, affines @ crops)
