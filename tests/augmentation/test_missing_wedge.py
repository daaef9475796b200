import numpy as np
import pytest
import torch

from sksubtomo.augmentation.missing_wedge import (
    FRAMES,
    Frame,
    apply_masks,
    choose_wedges,
    estimate_wedges,
    wedge_masks,
)
from sksubtomo.datasets import make_subtomograms, missing_wedge_mask

SHAPES = [(16, 16, 16), (12, 9, 10), (7, 8, 15)]
RANGES = [(-60.0, 60.0), (-40.0, 50.0), (-90.0, 60.0), (-70.0, 90.0)]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def mask_of(shape, tilt_range, frame=FRAMES[0]):
    tilt_ranges = torch.tensor([tilt_range], dtype=torch.float64)
    return wedge_masks(shape, tilt_ranges, frame)[0].expand(shape)


def estimate(volumes):
    """Return tilt ranges of volumes whose beam runs along z and tilt axis is y."""
    frames, tilt_ranges = estimate_wedges(volumes)
    assert (frames == 0).all()
    return tilt_ranges


def test_frames():
    assert FRAMES[0] == Frame(beam=0, across=2)
    assert len(set(FRAMES)) == 6
    for frame in FRAMES:
        assert {frame.beam, frame.tilt_axis, frame.across} == {0, 1, 2}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt_range", RANGES)
@pytest.mark.parametrize("tilt_axis", ["x", "y"])
def test_masks_are_those_of_the_simulator_but_for_the_ramp(
    shape, tilt_range, tilt_axis
):
    mask = mask_of(shape, tilt_range, Frame(0, 2 if tilt_axis == "y" else 1))
    mask = mask[..., : shape[2] // 2 + 1].numpy()
    sharp = missing_wedge_mask(shape, tilt_range, tilt_axis)
    assert sharp[mask == 1].all()
    assert not sharp[mask == 0].any()
    assert ((mask > 0) & (mask < 1)).mean() < 0.35
    assert abs(mask.mean() - sharp.mean()) < 0.12
    assert mask[0, 0, 0] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt_range", RANGES)
def test_masks_keep_volumes_real(shape, tilt_range):
    for frame in FRAMES:
        mask = mask_of(shape, tilt_range, frame)
        assert torch.fft.ifftn(mask).imag.abs().max() < 1e-15


@pytest.mark.parametrize("frame", FRAMES)
def test_without_missing_tilts_nothing_is_masked(frame):
    assert (mask_of((8, 9, 10), (-90, 90), frame) == 1).all()


@pytest.mark.parametrize("frame", FRAMES)
def test_masks_turn_with_the_volume(frame):
    """Of axes in the order beam, tilt axis, across, the mask is the usual one."""
    order = (frame.beam, frame.tilt_axis, frame.across)
    shape = (12, 9, 10)
    turned = mask_of(shape, (-40.0, 50.0), frame).permute(order)
    usual = mask_of(tuple(shape[axis] for axis in order), (-40.0, 50.0))
    assert torch.equal(turned, usual)


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
    estimates = estimate(torch.from_numpy(volumes)[:, None])
    errors = estimates - torch.tensor(tilt_range)
    assert errors.abs().max() < 15
    assert errors.square().mean().sqrt() < 6


@pytest.mark.parametrize("snr", [0.1, np.inf])
def test_volumes_without_a_wedge_get_none(snr):
    volumes, _ = make_subtomograms(
        1, size=16, snr=snr, tilt_range=(-90, 90), random_state=0, return_X_y=True
    )
    estimates = estimate(torch.from_numpy(volumes)[:, None])
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
    errors = estimate(torch.from_numpy(volumes)[:, None])
    errors -= torch.tensor([-50, 60])
    assert errors.square().mean().sqrt() < 6


@pytest.mark.parametrize("number", range(6))
def test_estimate_finds_beam_and_tilt_axis(number):
    frame = FRAMES[number]
    noise = randn(4, 1, 16, 14, 18)
    masks = wedge_masks((16, 14, 18), torch.tensor([[-45.0, 65.0]]), frame)
    frames, tilt_ranges = estimate_wedges(apply_masks(noise, masks))
    assert (frames == number).all()
    assert (tilt_ranges - torch.tensor([-45, 65])).abs().max() < 10


@pytest.mark.parametrize("size", [8, 12])
def test_no_frame_is_favoured(size):
    X, _ = make_subtomograms(
        4, size=size, snr=2, tilt_range=(-40, 40), random_state=0, return_X_y=True
    )
    volumes = torch.from_numpy(X)[:, None]
    frames, tilt_ranges = estimate_wedges(volumes)
    # What was z, y, x is y, x, z now.
    turned = [Frame((f.beam + 2) % 3, (f.across + 2) % 3) for f in FRAMES]
    turned_frames, turned_ranges = estimate_wedges(volumes.permute(0, 1, 3, 4, 2))
    expected = [FRAMES.index(turned[number]) for number in frames]
    assert turned_frames.tolist() == expected
    torch.testing.assert_close(turned_ranges, tilt_ranges)


@pytest.mark.parametrize("size", [12, 16])
def test_estimate_finds_the_frame_of_noisy_particles(size):
    X, _ = make_subtomograms(4, size=size, snr=1, random_state=0, return_X_y=True)
    frames, _ = estimate_wedges(torch.from_numpy(X)[:, None])
    assert (frames == 0).all()
    # Beam along y, tilt axis x.
    frames, _ = estimate_wedges(torch.from_numpy(X)[:, None].permute(0, 1, 4, 2, 3))
    assert all(FRAMES[number] == Frame(beam=1, across=0) for number in frames)


def test_estimates_depend_on_neither_scale_nor_the_rest_of_the_batch():
    noise = randn(6, 1, 16, 16, 16)
    tilt_ranges = torch.tensor([[-60.0, 60.0], [-90.0, 90.0], [-45.0, 70.0]])
    masks = wedge_masks((16, 16, 16), tilt_ranges.repeat(2, 1))
    volumes = apply_masks(noise, masks)
    estimates = estimate(volumes)
    assert (estimates - tilt_ranges.repeat(2, 1)).abs().max() < 10
    assert torch.equal(estimates[4:], estimate(volumes[4:]))
    assert torch.equal(estimates, estimate(50 + 1e3 * volumes))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (2, 2, 2), (4, 5, 6)])
def test_volumes_too_small_to_tell_get_no_wedge(shape):
    estimates = estimate(randn(3, 1, *shape))
    assert torch.equal(estimates, torch.tensor([[-90.0, 90.0]] * 3).double())


def test_constant_volumes_get_no_wedge():
    estimates = estimate(torch.full((2, 1, 16, 16, 16), 3.0))
    assert torch.equal(estimates, torch.tensor([[-90.0, 90.0]] * 2))


def test_more_power_outside_than_inside_is_no_wedge():
    noise = randn(4, 1, 12, 12, 12)
    known = torch.tensor([[-60.0, 60.0], [-90.0, 90.0]])
    inside = apply_masks(noise, wedge_masks((12, 12, 12), known[:1].expand(4, 2)))
    louder_outside = noise + 2 * (noise - inside)
    assert torch.equal(choose_wedges(inside, known), known[:1].expand(4, 2))
    assert torch.equal(choose_wedges(louder_outside, known), known[1:].expand(4, 2))
