import math

import numpy as np
import pytest
import torch
from scipy import stats

from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.augmentation.functional import (
    resample,
    rigid_matrices,
    rotation_matrices,
)
from sksubtomo.augmentation.missing_wedge import (
    FRAMES,
    apply_masks,
    estimate_wedges,
    wedge_masks,
)
from sksubtomo.datasets import missing_wedge_mask

N = 4000


def without(**parameters):
    """Make views without wedge and flips but for what is asked for."""
    return RotateShiftNoise(**{"wedge": None, "flips": None, **parameters})


def draws(**parameters):
    sampler = without(p_rigid=1, **parameters).build(0)
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
    clean = without(noise=0, **parameters).build(5)
    noisy = without(noise=0.7, **parameters).build(5)
    deviation = (noisy(volumes) - clean(volumes)).std(dim=(1, 2, 3, 4))
    relative = (deviation / volumes.std(dim=(1, 2, 3, 4))).numpy()
    for part in range(3):
        uniform = stats.uniform(0, 0.7)
        assert stats.kstest(relative[part::3], uniform.cdf).pvalue > 1e-3


def test_constant_volumes_get_no_noise():
    volumes = torch.full((2, 1, 4, 4, 4), 3.0)
    view = without(rotate=False, max_translation=0).build(0)(volumes)
    torch.testing.assert_close(view, volumes)


def test_a_ball_stays_a_ball_in_a_volume_whose_sides_differ():
    axes = [torch.arange(side) - (side - 1) / 2 for side in (32, 24, 40)]
    squares = torch.meshgrid(*[axis**2 for axis in axes], indexing="ij")
    ball = torch.exp(-sum(squares) / 20).expand(8, 1, 32, 24, 40)
    views = without(max_translation=0, noise=0).build(0)(ball)
    assert (views - ball).abs().max() < 0.05


def test_an_off_centre_blob_keeps_its_distance_from_the_centre():
    axes = [torch.arange(side) - (side - 1) / 2 for side in (30, 26, 34)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    blob = torch.exp(-((z - 5) ** 2 + (y + 2) ** 2 + (x - 3) ** 2) / 4)
    views = without(max_translation=0, noise=0).build(0)(blob.expand(20, 1, 30, 26, 34))
    weights = views / views.sum(dim=(2, 3, 4), keepdim=True)
    centres = torch.stack([(weights * a).sum(dim=(1, 2, 3, 4)) for a in (z, y, x)], 1)
    expected = torch.full((20,), math.sqrt(5**2 + 2**2 + 3**2))
    torch.testing.assert_close(centres.norm(dim=1), expected, rtol=0, atol=0.05)
    assert centres.std(dim=0).min() > 1


def test_every_call_and_every_seed_has_its_own_noise():
    volumes = torch.tensor([-1.0, 1.0]).repeat(500).reshape(1, 1, 10, 10, 10)
    augmentation = without(rotate=False, max_translation=0, noise=0.5)
    sampler = augmentation.build(0)
    noises = [sampler(volumes) - volumes, sampler(volumes) - volumes]
    noises.append(augmentation.build(1)(volumes) - volumes)
    correlation = torch.corrcoef(torch.stack([n.flatten() for n in noises]))
    assert (correlation - torch.eye(3)).abs().max() < 0.13


def test_a_part_of_the_views_is_not_resampled():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(200, 1, 6, 7, 8, generator=generator)
    views = without(noise=0, p_rigid=0.7).build(0)(volumes)
    kept = (views - volumes).abs().amax(dim=(1, 2, 3, 4)) < 1e-5
    assert 0.2 < kept.double().mean() < 0.4
    views = without(noise=0, p_rigid=0).build(0)(volumes)
    torch.testing.assert_close(views, volumes)
    views = without(noise=0, p_rigid=1).build(0)(volumes)
    assert (views - volumes).abs().amax(dim=(1, 2, 3, 4)).min() > 0.1


def test_draws_are_these_in_this_order():
    """So that seeds keep their views: contrast comes last, and only if there is any."""
    volumes = torch.randn(5, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(8)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    quaternions = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    shifts = (2 * uniform(5, 3) - 1) * 0.2 * 6
    matrices = rigid_matrices(rotation_matrices(quaternions), shifts)
    matrices[uniform(5) >= 0.6] = torch.eye(4, dtype=torch.float64)
    std = 0.5 * uniform(5) * volumes.std(dim=(1, 2, 3, 4), correction=0)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    noise = torch.empty_like(volumes)
    noise.normal_(generator=torch.Generator().manual_seed(seed))
    expected = resample(volumes, matrices) + noise * std.float().view(-1, 1, 1, 1, 1)
    state = generator.get_state()
    factors = torch.exp(0.4 * (2 * uniform(5) - 1)).float().view(-1, 1, 1, 1, 1)

    parameters = {"max_translation": 0.2, "noise": 0.5, "p_rigid": 0.6}
    sampler = without(**parameters).build(8)
    torch.testing.assert_close(sampler(volumes), expected)
    assert torch.equal(sampler.get_state(), state)
    view = without(contrast=0.4, **parameters).build(8)(volumes)
    torch.testing.assert_close(view, expected * factors)


def test_contrast_is_log_uniform():
    volumes = torch.ones(2000, 1, 2, 2, 2)
    views = without(p_rigid=0, noise=0, contrast=0.7).build(0)(volumes)
    factors = views[:, 0, 0, 0, 0]
    torch.testing.assert_close(views, factors.view(-1, 1, 1, 1, 1) * volumes)
    uniform = stats.uniform(-0.7, 1.4)
    assert stats.kstest(factors.log().numpy(), uniform.cdf).pvalue > 1e-3


def missing_power(volumes, tilt_range, tilt_axis="y"):
    """Fraction of each volume's power in the missing wedge, the mean left out."""
    power = np.abs(np.fft.rfftn(volumes[:, 0].numpy(), axes=(1, 2, 3))) ** 2
    power[:, 0, 0, 0] = 0
    missing = ~missing_wedge_mask(volumes.shape[2:], tilt_range, tilt_axis)
    return (power * missing).sum(axis=(1, 2, 3)) / power.sum(axis=(1, 2, 3))


@pytest.mark.parametrize("tilt_axis", ["x", "y"])
@pytest.mark.parametrize("tilt_range", [(-60, 60), (-40.0, 50.0)])
def test_the_wedge_of_moved_views_is_empty(tilt_range, tilt_axis):
    volumes = torch.randn(20, 1, 16, 14, 18, generator=torch.Generator().manual_seed(0))
    parameters = {"p_rigid": 1, "noise": 0.5}
    plain = without(**parameters).build(0)(volumes)
    masked = without(wedge=tilt_range, tilt_axis=tilt_axis, **parameters).build(0)(
        volumes
    )
    assert missing_power(plain, tilt_range, tilt_axis).min() > 0.15
    assert missing_power(masked, tilt_range, tilt_axis).max() < 0.04


def test_moved_views_are_the_plain_ones_times_the_mask():
    volumes = torch.randn(6, 1, 9, 8, 10, generator=torch.Generator().manual_seed(0))
    volumes = 3 + volumes.double()
    parameters = {"p_rigid": 1, "noise": 0}
    plain = without(**parameters).build(0)(volumes)
    masked = without(wedge=(-50, 65), **parameters).build(0)(volumes)
    mask = wedge_masks((9, 8, 10), torch.tensor([[-50.0, 65.0]]).double())[0].numpy()
    for before, after in zip(plain[:, 0], masked[:, 0], strict=True):
        expected = np.fft.ifftn(np.fft.fftn(before.numpy()) * mask).real
        np.testing.assert_allclose(after, expected, atol=1e-12)
    torch.testing.assert_close(
        masked.mean(dim=(1, 2, 3, 4)), plain.mean(dim=(1, 2, 3, 4))
    )


def test_volumes_that_stay_keep_their_wedge_and_get_masked_noise():
    volumes = torch.randn(30, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    still = without(p_rigid=0, noise=0, wedge=(-60, 60)).build(0)(volumes)
    torch.testing.assert_close(still, volumes)

    parameters = {"p_rigid": 0, "noise": 0.8}
    plain = without(**parameters).build(0)(volumes) - volumes
    masked = without(wedge=(-60, 60), **parameters).build(0)(volumes) - volumes
    assert missing_power(masked, (-60, 60)).max() < 0.06
    # Of the deviation that was drawn, which fills only a part of Fourier space.
    ratios = masked.std(dim=(1, 2, 3, 4)) / plain.std(dim=(1, 2, 3, 4))
    assert abs(ratios.mean() - 1) < 0.02
    assert (ratios - 1).abs().max() < 0.1


def test_estimated_wedges_are_each_volumes_own():
    noise = torch.randn(6, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    tilt_ranges = torch.tensor([[-60.0, 60.0], [-90.0, 90.0], [-45.0, 70.0]])
    volumes = apply_masks(noise, wedge_masks((16, 16, 16), tilt_ranges.repeat(2, 1)))
    parameters = {"p_rigid": 1, "noise": 0.3}
    plain = without(**parameters).build(0)(volumes)
    views = without(wedge="estimate", **parameters).build(0)(volumes)
    for row, tilt_range in enumerate(tilt_ranges.repeat(2, 1).tolist()):
        if tilt_range == [-90, 90]:
            torch.testing.assert_close(views[row], plain[row], atol=1e-5, rtol=0)
        else:
            view = views[row : row + 1]
            assert missing_power(view, tilt_range) < 0.06
            assert missing_power(view, (-30, 30)) > 0.2


def in_all_frames():
    """Return noise with unequal tilts, three volumes of each frame, and the frames."""
    noise = torch.randn(18, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(18) % 6
    masks = [
        wedge_masks((16, 16, 16), torch.tensor([[-40.0, 70.0]]), FRAMES[number])
        for number in numbers
    ]
    return apply_masks(
        noise, torch.cat([m.expand(1, 16, 16, 16) for m in masks])
    ), numbers


def test_of_known_wedges_each_volume_has_its_own():
    noise = torch.randn(6, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    known = [(-70, 70), (-45, 60), (-50, 50)]
    tilt_ranges = torch.tensor(known, dtype=torch.float32).repeat(2, 1)
    volumes = apply_masks(noise, wedge_masks((12, 12, 12), tilt_ranges))
    views = without(p_rigid=1, wedge=known).build(0)(volumes)
    for row, tilt_range in enumerate(tilt_ranges.tolist()):
        alone = without(p_rigid=1, wedge=tilt_range).build(0)(volumes)
        assert torch.equal(views[row], alone[row])
    as_array = without(p_rigid=1, wedge=np.array(known)).build(0)(volumes)
    assert torch.equal(as_array, views)
    assert torch.equal(without(p_rigid=1, wedge=known).build(0)(volumes[:0]), views[:0])


def test_moved_views_have_the_wedge_of_their_volumes_frame():
    volumes, numbers = in_all_frames()
    views = without(p_rigid=1, wedge="estimate").build(0)(volumes)
    frames, tilt_ranges = estimate_wedges(views)
    assert torch.equal(frames, numbers)
    # On the average, for a view lacks what its volume did not have, too.
    assert (tilt_ranges - torch.tensor([-40, 70])).abs().mean() < 8


def test_noise_of_flipped_volumes_passes_the_wedge_that_was_estimated():
    volumes, numbers = in_all_frames()
    sampler = without(p_rigid=0, noise=3, wedge="estimate", flips="mirrors").build(0)
    frames, tilt_ranges = estimate_wedges(sampler(volumes))
    assert torch.equal(frames, numbers)
    turned = (tilt_ranges[:, 0] < -55)[:, None]
    expected = torch.where(turned, torch.tensor([-70, 40]), torch.tensor([-40, 70]))
    assert (tilt_ranges - expected).abs().max() < 15
    assert 0 < turned.sum() < 18


def test_a_complete_tilt_range_changes_nothing():
    volumes = torch.randn(6, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = without().build(3)(volumes)
    masked = without(wedge=(-90, 90)).build(3)(volumes)
    torch.testing.assert_close(masked, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("flips", "n_choices"), [("half_turns", 4), ("mirrors", 8)])
def test_flips_are_exact_and_equally_likely(flips, n_choices):
    volume = torch.randn(1, 1, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    sampler = without(p_rigid=0, noise=0, flips=flips).build(0)
    views = sampler(volume.expand(400, 1, 6, 7, 8))
    flipped = {
        axes: volume[0].flip([axis + 1 for axis in axes])
        for axes in [(), (1, 2), (0, 2), (0, 1), (0,), (1,), (2,), (0, 1, 2)]
    }
    counts = {
        axes: sum(torch.allclose(view, expected, atol=1e-5) for view in views)
        for axes, expected in flipped.items()
    }
    chosen = list(counts.values())[:n_choices]
    assert sum(chosen) == 400
    expected = 400 / n_choices
    assert all(abs(count - expected) < 4 * expected**0.5 for count in chosen)


def test_flips_keep_the_wedge_of_volumes_that_stay():
    noise = torch.randn(20, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    volumes = apply_masks(noise, wedge_masks((12,) * 3, torch.tensor([[-60.0, 60.0]])))
    views = without(p_rigid=0, noise=0, flips="mirrors").build(0)(volumes)
    assert (
        missing_power(views, (-60, 60)).max()
        < 1.1 * missing_power(volumes, (-60, 60)).max()
    )


def test_flips_of_rows_are_those_of_the_batch():
    volumes = torch.randn(9, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = without(flips="half_turns").build(3)(volumes)
    part = without(flips="half_turns").build(3)(volumes[4:7], start=4, n=9)
    torch.testing.assert_close(part, whole[4:7])


def test_noise_of_flipped_volumes_passes_their_own_wedge():
    noise = torch.randn(60, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    volumes = apply_masks(noise, wedge_masks((12,) * 3, torch.tensor([[-40.0, 75.0]])))
    parameters = {"p_rigid": 0, "noise": 2, "wedge": (-40, 75), "flips": "mirrors"}
    views = without(**parameters).build(0)(volumes)
    own = [
        min(
            missing_power(view[None], tilt_range)
            for tilt_range in ((-40, 75), (-75, 40))
        )
        for view in views
    ]
    assert np.mean(own) < 1.1 * missing_power(volumes, (-40, 75)).mean()
