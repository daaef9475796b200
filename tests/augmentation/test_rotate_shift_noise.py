import math

import numpy as np
import torch
from scipy import stats

from sksubtomo.augmentation import RotateShiftNoise

N = 4000


def draws(**parameters):
    sampler = RotateShiftNoise(p_rigid=1, **parameters).build(0)
    content = torch.linalg.inv(sampler.draw(N, 10, 20, 30))
    return content[:, :3, :3], content[:, :3, 3]


def test_rotations_are_uniform():
    rotations, _ = draws(max_translation=0)
    trace = rotations.diagonal(dim1=1, dim2=2).sum(dim=1)
    angles = torch.acos(((trace - 1) / 2).clamp(-1, 1)).numpy()
    # The Haar measure's distribution of the angle.
    uniform = stats.kstest(angles, lambda theta: (theta - np.sin(theta)) / math.pi)
    assert uniform.pvalue > 1e-3
    # Entries have mean 0 and variance 1/3.
    assert rotations.mean(dim=0).abs().max() < 4 * math.sqrt(1 / 3 / N)
    assert (rotations.var(dim=0) - 1 / 3).abs().max() < 0.03
    # Every axis is carried anywhere: its components are uniform in [-1, 1].
    for axis in range(3):
        component = rotations[:, axis, 0].numpy()
        assert stats.kstest(component, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_shifts_are_uniform_fractions_of_each_side():
    rotations, shifts = draws(rotate=False, max_translation=0.2)
    assert torch.equal(rotations, torch.eye(3).double().expand(N, 3, 3))
    for axis, largest in enumerate((2, 4, 6)):
        uniform = stats.uniform(-largest, 2 * largest)
        assert stats.kstest(shifts[:, axis].numpy(), uniform.cdf).pvalue > 1e-3
    assert (torch.corrcoef(shifts.T) - torch.eye(3)).abs().max() < 0.07


def test_shift_does_not_depend_on_the_rotation():
    """The content is rotated about its centre, then shifted by the drawn amount."""
    _, shifts = draws(rotate=True, max_translation=0.2)
    for axis, largest in enumerate((2, 4, 6)):
        uniform = stats.uniform(-largest, 2 * largest)
        assert stats.kstest(shifts[:, axis].numpy(), uniform.cdf).pvalue > 1e-3


def test_noise_is_uniform_up_to_a_part_of_each_volumes_own_deviation():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(300, 1, 12, 12, 12, generator=generator).double()
    scales = torch.tensor([0.1, 1.0, 30.0]).repeat(100)
    volumes = 100 + volumes * scales[:, None, None, None, None]
    parameters = {"rotate": True, "max_translation": 0.1}
    clean = RotateShiftNoise(noise=0, **parameters).build(5)
    noisy = RotateShiftNoise(noise=0.7, **parameters).build(5)
    deviation = (noisy(volumes) - clean(volumes)).std(dim=(1, 2, 3, 4))
    relative = (deviation / volumes.std(dim=(1, 2, 3, 4))).numpy()
    for part in range(3):
        uniform = stats.uniform(0, 0.7)
        assert stats.kstest(relative[part::3], uniform.cdf).pvalue > 1e-3


def test_constant_volumes_get_no_noise():
    volumes = torch.full((2, 1, 4, 4, 4), 3.0)
    view = RotateShiftNoise(rotate=False, max_translation=0).build(0)(volumes)
    torch.testing.assert_close(view, volumes)


def test_a_ball_stays_a_ball_in_a_volume_whose_sides_differ():
    axes = [torch.arange(side) - (side - 1) / 2 for side in (32, 24, 40)]
    squares = torch.meshgrid(*[axis**2 for axis in axes], indexing="ij")
    ball = torch.exp(-sum(squares) / 20).expand(8, 1, 32, 24, 40)
    views = RotateShiftNoise(max_translation=0, noise=0).build(0)(ball)
    assert (views - ball).abs().max() < 0.05


def test_an_off_centre_blob_keeps_its_distance_from_the_centre():
    axes = [torch.arange(side) - (side - 1) / 2 for side in (30, 26, 34)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    blob = torch.exp(-((z - 5) ** 2 + (y + 2) ** 2 + (x - 3) ** 2) / 4)
    views = RotateShiftNoise(max_translation=0, noise=0).build(0)(
        blob.expand(20, 1, 30, 26, 34)
    )
    weights = views / views.sum(dim=(2, 3, 4), keepdim=True)
    centres = torch.stack([(weights * a).sum(dim=(1, 2, 3, 4)) for a in (z, y, x)], 1)
    expected = torch.full((20,), math.sqrt(5**2 + 2**2 + 3**2))
    torch.testing.assert_close(centres.norm(dim=1), expected, rtol=0, atol=0.05)
    assert centres.std(dim=0).min() > 1


def test_every_call_and_every_seed_has_its_own_noise():
    volumes = torch.tensor([-1.0, 1.0]).repeat(500).reshape(1, 1, 10, 10, 10)
    augmentation = RotateShiftNoise(rotate=False, max_translation=0, noise=0.5)
    sampler = augmentation.build(0)
    noises = [sampler(volumes) - volumes, sampler(volumes) - volumes]
    noises.append(augmentation.build(1)(volumes) - volumes)
    correlation = torch.corrcoef(torch.stack([n.flatten() for n in noises]))
    assert (correlation - torch.eye(3)).abs().max() < 0.13


def test_a_part_of_the_views_is_not_resampled():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(200, 1, 6, 7, 8, generator=generator)
    views = RotateShiftNoise(noise=0, p_rigid=0.7).build(0)(volumes)
    kept = (views - volumes).abs().amax(dim=(1, 2, 3, 4)) < 1e-5
    assert 0.2 < kept.double().mean() < 0.4
    views = RotateShiftNoise(noise=0, p_rigid=0).build(0)(volumes)
    torch.testing.assert_close(views, volumes)
    views = RotateShiftNoise(noise=0, p_rigid=1).build(0)(volumes)
    assert (views - volumes).abs().amax(dim=(1, 2, 3, 4)).min() > 0.1
