"""What every augmentation owes the training loop."""

import pytest
import torch
from sklearn.base import clone

from sksubtomo.augmentation import AUGMENTATIONS, CropAffine, RotateShiftNoise
from sksubtomo.augmentation._base import ViewSampler

IDENTITIES = {
    "crop_affine": CropAffine(
        p_crop=1,
        crop_scale=(1, 1),
        p_affine=1,
        max_rotation=0,
        max_translation=0,
        max_scaling=0,
    ),
    "rotate_shift_noise": RotateShiftNoise(rotate=False, max_translation=0, noise=0),
}


def randn(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=sorted(AUGMENTATIONS))
def name(request):
    return request.param


def test_table_names_every_augmentation():
    expected = {"crop_affine": CropAffine, "rotate_shift_noise": RotateShiftNoise}
    assert dict(AUGMENTATIONS) == expected
    assert set(IDENTITIES) == set(expected)


@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 9, 4), (1, 1, 7)])
def test_identity_at_zero_ranges(name, shape):
    volumes = randn(3, 1, *shape)
    view = IDENTITIES[name].build(0)(volumes)
    torch.testing.assert_close(view, volumes, atol=1e-5, rtol=0)
    exact = IDENTITIES[name].build(0)(volumes.double())
    torch.testing.assert_close(exact, volumes.double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (2, 2, 2), (3, 8, 5)])
def test_any_shape_gives_finite_views_of_the_same_shape(name, shape, dtype):
    volumes = randn(40, 1, *shape, dtype=dtype)
    before = volumes.clone()
    view = AUGMENTATIONS[name]().build(0)(volumes)
    assert view.shape == volumes.shape
    assert view.dtype == dtype
    assert view.isfinite().all()
    assert view.data_ptr() != volumes.data_ptr()
    assert torch.equal(volumes, before)


def test_seed_decides_the_views_and_successive_views_differ(name):
    volumes = randn(4, 1, 8, 8, 8)

    def views(seed):
        sampler = clone(AUGMENTATIONS[name]()).build(seed)
        return sampler(volumes), sampler(volumes)

    first, same, other = views(7), views(7), views(8)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_transforms_do_not_depend_on_the_dtype(name):
    volumes = randn(4, 1, 8, 8, 8)
    build = AUGMENTATIONS[name](**({"noise": 0} if "noise" in name else {})).build
    torch.testing.assert_close(
        build(3)(volumes), build(3)(volumes.double()).float(), atol=1e-5, rtol=0
    )


def test_volumes_of_a_batch_get_different_views(name):
    volumes = randn(1, 1, 8, 8, 8).repeat(30, 1, 1, 1, 1)
    views = AUGMENTATIONS[name]().build(0)(volumes).flatten(1)
    distinct = torch.unique(views, dim=0)
    assert len(distinct) > 20


def test_global_generator_does_not_move(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        sampler = AUGMENTATIONS[name]().build(0)
        sampler(randn(4, 1, 6, 6, 6))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        view = AUGMENTATIONS[name]().build(0)(randn(4, 1, 6, 6, 6))
    assert torch.equal(view, AUGMENTATIONS[name]().build(0)(randn(4, 1, 6, 6, 6)))


def test_state_goes_on_where_it_was_taken(name):
    volumes = randn(3, 1, 6, 6, 6)
    sampler = AUGMENTATIONS[name]().build(0)
    sampler(volumes)
    state = sampler.get_state()
    expected = [sampler(volumes) for _ in range(2)]

    other = AUGMENTATIONS[name]().build(1)
    other.set_state(state)
    assert all(torch.equal(other(volumes), view) for view in expected)


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 7), (2, 2), (0, 7), (7, 7)])
def test_views_of_a_part_are_those_of_the_whole_batch(name, start, stop):
    volumes = randn(7, 1, 5, 6, 4)
    whole, part = (AUGMENTATIONS[name]().build(0) for _ in range(2))
    for _ in range(2):
        expected = whole(volumes)[start:stop]
        view = part(volumes[start:stop], start=start, n=7)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)
    assert torch.equal(part.get_state(), whole.get_state())


def test_base_sampler_has_no_views():
    with pytest.raises(NotImplementedError):
        ViewSampler(0)(randn(1, 1, 2, 2, 2))


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (CropAffine(p_crop=1.5), r"'p_crop' .* CropAffine .*\[0.0, 1.0\]. Got 1.5"),
        (CropAffine(p_affine=-0.1), "'p_affine' .* Got -0.1"),
        (CropAffine(max_rotation=181), "'max_rotation' .* Got 181"),
        (CropAffine(max_translation=-1), "'max_translation' .* Got -1"),
        (CropAffine(max_scaling=1), "'max_scaling' .* Got 1"),
        (CropAffine(crop_scale=0.5), "'crop_scale' .* Got 0.5"),
        (CropAffine(crop_scale=(0, 1)), r"'crop_scale' .* 0 < .* Got \(0, 1\)"),
        (CropAffine(crop_scale=(0.8, 0.5)), r"'crop_scale' .* Got \(0.8, 0.5\)"),
        (CropAffine(crop_scale=(0.5, 1.1)), r"'crop_scale' .* Got \(0.5, 1.1\)"),
        (CropAffine(crop_scale=(0.5,)), r"'crop_scale' .* Got \(0.5,\)"),
        (CropAffine(crop_scale=("a", 1)), r"'crop_scale' .* Got \('a', 1\)"),
        (RotateShiftNoise(rotate=2), "'rotate' .* RotateShiftNoise .* Got 2"),
        (RotateShiftNoise(max_translation=2), "'max_translation' .* Got 2"),
        (RotateShiftNoise(p_rigid=1.1), "'p_rigid' .* Got 1.1"),
        (RotateShiftNoise(noise=-0.3), "'noise' .* Got -0.3"),
        (RotateShiftNoise(noise=float("nan")), "'noise' .* Got nan"),
    ],
)
def test_build_names_the_wrong_parameter(augmentation, message):
    with pytest.raises(ValueError, match=message):
        augmentation.build(0)
