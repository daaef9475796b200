import numpy as np
import pytest
import torch

from sksubtomo.augmentation.missing_wedge import (
    apply_masks,
    estimate_tilt_ranges,
    wedge_masks,
)
from sksubtomo.datasets import make_subtomograms, missing_wedge_mask

SHAPES = [(16, 16, 16), (12, 9, 10), (7, 8, 15)]
RANGES = [(-60.0, 60.0), (-40.0, 50.0), (-90.0, 60.0), (-70.0, 90.0)]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def mask_of(shape, tilt_range, tilt_axis="y"):
    tilt_ranges = torch.tensor([tilt_range], dtype=torch.float64)
    return wedge_masks(shape, tilt_ranges, tilt_axis)[0].expand(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt_range", RANGES)
@pytest.mark.parametrize("tilt_axis", ["x", "y"])
def test_masks_are_those_of_the_simulator_but_for_the_ramp(
    shape, tilt_range, tilt_axis
):
    mask = mask_of(shape, tilt_range, tilt_axis)[..., : shape[2] // 2 + 1].numpy()
    sharp = missing_wedge_mask(shape, tilt_range, tilt_axis)
    assert sharp[mask == 1].all()
    assert not sharp[mask == 0].any()
    assert ((mask > 0) & (mask < 1)).mean() < 0.35
    assert abs(mask.mean() - sharp.mean()) < 0.12
    assert mask[0, 0, 0] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt_range", RANGES)
def test_masks_keep_volumes_real(shape, tilt_range):
    for tilt_axis in "xy":
        mask = mask_of(shape, tilt_range, tilt_axis)
        assert torch.fft.ifftn(mask).imag.abs().max() < 1e-15


@pytest.mark.parametrize("tilt_axis", ["x", "y"])
def test_without_missing_tilts_nothing_is_masked(tilt_axis):
    assert (mask_of((8, 9, 10), (-90, 90), tilt_axis) == 1).all()


def test_every_volume_has_its_own_mask():
    masks = wedge_masks((8, 8, 8), torch.tensor(RANGES))
    for mask, tilt_range in zip(masks, RANGES, strict=True):
        expected = wedge_masks((8, 8, 8), torch.tensor([tilt_range]))[0]
        assert torch.equal(mask, expected)


def test_the_ramp_is_closer_to_a_crop_than_a_sharp_border():
    """What is left in a crop of a larger volume of noise that has a wedge."""
    side, tilt_range = 16, (-40.0, 50.0)
    large = torch.from_numpy(missing_wedge_mask(4 * side, tilt_range))
    power = torch.zeros(side, side // 2 + 1, dtype=torch.float64)
    for seed in range(2):
        spectrum = torch.fft.rfftn(randn(4 * side, 4 * side, 4 * side, seed=seed))
        noise = torch.fft.irfftn(spectrum * large, s=[4 * side] * 3)
        crops = noise.unfold(0, side, side).unfold(1, side, side).unfold(2, side, side)
        crops = torch.fft.rfftn(crops.reshape(-1, side, side, side), dim=(1, 2, 3))
        power += crops.abs().square().mean(dim=(0, 2)) / side**3 / 2
    soft = mask_of((side,) * 3, tilt_range)[:, 0, : side // 2 + 1].square()
    sharp = torch.from_numpy(missing_wedge_mask(side, tilt_range)[:, 0]).double()
    soft_error, sharp_error = ((m - power).square().mean() for m in (soft, sharp))
    assert soft_error < 0.7 * sharp_error
    assert soft_error.sqrt() < 0.12


@pytest.mark.parametrize("shape", SHAPES)
def test_apply_masks_multiplies_all_coefficients(shape):
    volumes = randn(3, 1, *shape)
    masks = torch.fft.fftn(randn(3, *shape), dim=(1, 2, 3)).abs()
    expected = np.fft.ifftn(
        np.fft.fftn(volumes[:, 0].numpy(), axes=(1, 2, 3)) * masks.numpy(),
        axes=(1, 2, 3),
    )
    view = apply_masks(volumes, masks)
    np.testing.assert_allclose(view[:, 0], expected.real, atol=1e-11)
    assert apply_masks(volumes.float(), masks).dtype == torch.float32


@pytest.mark.parametrize("tilt_range", [(-60, 60), (-40, 50), (-50, 75)])
@pytest.mark.parametrize("snr", [0.1, np.inf])
def test_estimated_tilts_of_simulated_volumes(tilt_range, snr):
    volumes, _ = make_subtomograms(
        1, size=16, snr=snr, tilt_range=tilt_range, random_state=0, return_X_y=True
    )
    estimates = estimate_tilt_ranges(torch.from_numpy(volumes)[:, None])
    errors = estimates - torch.tensor(tilt_range)
    assert errors.abs().max() < 15
    assert errors.square().mean().sqrt() < 6


@pytest.mark.parametrize("snr", [0.1, np.inf])
def test_volumes_without_a_wedge_get_none(snr):
    volumes, _ = make_subtomograms(
        1, size=16, snr=snr, tilt_range=(-90, 90), random_state=0, return_X_y=True
    )
    estimates = estimate_tilt_ranges(torch.from_numpy(volumes)[:, None])
    assert (estimates == torch.tensor([-90.0, 90.0])).all()


def test_estimate_of_filtered_volumes():
    """Where nothing is left at high resolution, only the rest counts."""
    volumes, _ = make_subtomograms(
        1,
        size=32,
        voxel_size=10.0,
        snr=np.inf,
        low_pass=40.0,
        tilt_range=(-50, 60),
        random_state=0,
        return_X_y=True,
    )
    errors = estimate_tilt_ranges(torch.from_numpy(volumes)[:, None])
    errors -= torch.tensor([-50, 60])
    assert errors.square().mean().sqrt() < 6


def test_estimate_along_the_other_tilt_axis():
    noise = randn(4, 1, 16, 14, 18)
    masks = wedge_masks((16, 14, 18), torch.tensor([[-45.0, 65.0]]), "y")
    volumes = apply_masks(noise, masks)
    estimates = estimate_tilt_ranges(volumes, "y")
    assert (estimates - torch.tensor([-45, 65])).abs().max() < 10
    swapped = estimate_tilt_ranges(volumes.transpose(3, 4), "x")
    torch.testing.assert_close(swapped, estimates)


def test_estimates_depend_on_neither_scale_nor_the_rest_of_the_batch():
    noise = randn(6, 1, 16, 16, 16)
    tilt_ranges = torch.tensor([[-60.0, 60.0], [-90.0, 90.0], [-45.0, 70.0]])
    masks = wedge_masks((16, 16, 16), tilt_ranges.repeat(2, 1))
    volumes = apply_masks(noise, masks)
    estimates = estimate_tilt_ranges(volumes)
    assert (estimates - tilt_ranges.repeat(2, 1)).abs().max() < 10
    assert torch.equal(estimates[4:], estimate_tilt_ranges(volumes[4:]))
    assert torch.equal(estimates, estimate_tilt_ranges(50 + 1e3 * volumes))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (2, 2, 2), (4, 5, 6)])
def test_volumes_too_small_to_tell_get_no_wedge(shape):
    estimates = estimate_tilt_ranges(randn(3, 1, *shape))
    assert torch.equal(estimates, torch.tensor([[-90.0, 90.0]] * 3).double())


def test_constant_volumes_get_no_wedge():
    estimates = estimate_tilt_ranges(torch.full((2, 1, 16, 16, 16), 3.0))
    assert torch.equal(estimates, torch.tensor([[-90.0, 90.0]] * 2))
