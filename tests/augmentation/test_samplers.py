"""What every augmentation owes the training loop."""

import pytest
import torch
from sklearn.base import clone

from sksubtomo.augmentation import (
    AUGMENTATIONS,
    BiasField,
    Blur,
    Compose,
    CropAffine,
    Elastic,
    Gamma,
    RotateShiftNoise,
)
from sksubtomo.augmentation._base import OccasionalAugmentation, ViewSampler

# Those that change every volume, and leave out noise that depends on the dtype.
CASES = {
    "crop_affine": CropAffine(),
    "rotate_shift_noise": RotateShiftNoise(wedge=None, flips=None),
    "half_turns": RotateShiftNoise(flips="half_turns"),
    "contrast": RotateShiftNoise(contrast=0.5),
    "wedge": RotateShiftNoise(wedge=(-50, 60), tilt_axis="x"),
    "estimated_wedge": RotateShiftNoise(wedge="estimate"),
    "blur": Blur(p=1),
    "gamma": Gamma(p=1),
    "elastic": Elastic(p=1),
    "bias_field": BiasField(p=1),
    "compose": Compose(["crop_affine", Blur(), Gamma(), Compose([BiasField()])]),
}
IDENTITIES = {
    "crop_affine": CropAffine(
        p_crop=1,
        crop_scale=(1, 1),
        p_affine=1,
        max_rotation=0,
        max_translation=0,
        max_scaling=0,
    ),
    "rotate_shift_noise": RotateShiftNoise(
        rotate=False, max_translation=0, noise=0, wedge=None, flips=None
    ),
    "wedge": RotateShiftNoise(
        rotate=False, max_translation=0, noise=0, wedge=(-50, 60), flips=None
    ),
    "blur": Blur(p=1, max_std=0),
    "gamma": Gamma(p=1, max_log_gamma=0),
    "elastic": Elastic(p=1, max_displacement=0),
    "bias_field": BiasField(p=1, max_coefficient=0),
}
IDENTITIES["compose"] = Compose([IDENTITIES["crop_affine"], IDENTITIES["blur"]])


def randn(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=sorted(CASES))
def augmentation(request):
    return clone(CASES[request.param])


def test_table_names_every_augmentation():
    assert dict(AUGMENTATIONS) == {
        "crop_affine": CropAffine,
        "rotate_shift_noise": RotateShiftNoise,
        "blur": Blur,
        "gamma": Gamma,
        "elastic": Elastic,
        "bias_field": BiasField,
        "compose": Compose,
    }
    assert set(AUGMENTATIONS) <= set(CASES)
    assert set(AUGMENTATIONS) <= set(IDENTITIES)


@pytest.mark.parametrize("name", sorted(IDENTITIES))
@pytest.mark.parametrize("shape", [(16, 16, 16), (5, 9, 4), (1, 1, 7)])
def test_identity_at_zero_ranges(name, shape):
    volumes = randn(3, 1, *shape)
    view = IDENTITIES[name].build(0)(volumes)
    torch.testing.assert_close(view, volumes, atol=1e-5, rtol=0)
    exact = IDENTITIES[name].build(0)(volumes.double())
    torch.testing.assert_close(exact, volumes.double(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", ["blur", "gamma", "elastic", "bias_field"])
def test_a_part_of_the_volumes_is_left_as_it_is(name):
    volumes = randn(400, 1, 4, 5, 6)
    views = AUGMENTATIONS[name](p=0.3).build(0)(volumes)
    changed = (views != volumes).flatten(1).any(dim=1)
    assert 0.2 < changed.double().mean() < 0.4
    everything = AUGMENTATIONS[name](p=1).build(0)(volumes)
    assert torch.equal(views[changed], everything[changed])
    assert torch.equal(AUGMENTATIONS[name](p=0).build(0)(volumes), volumes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (2, 2, 2), (3, 8, 5)])
def test_any_shape_gives_finite_views_of_the_same_shape(augmentation, shape, dtype):
    volumes = randn(40, 1, *shape, dtype=dtype)
    before = volumes.clone()
    view = augmentation.build(0)(volumes)
    assert view.shape == volumes.shape
    assert view.dtype == dtype
    assert view.isfinite().all()
    assert view.data_ptr() != volumes.data_ptr()
    assert torch.equal(volumes, before)


def test_seed_decides_the_views_and_successive_views_differ(augmentation):
    volumes = randn(4, 1, 8, 8, 8)

    def views(seed):
        sampler = clone(augmentation).build(seed)
        return sampler(volumes), sampler(volumes)

    first, same, other = views(7), views(7), views(8)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_transforms_do_not_depend_on_the_dtype(augmentation):
    volumes = randn(4, 1, 8, 8, 8)
    if "noise" in augmentation.get_params():
        augmentation.set_params(noise=0)
    single = augmentation.build(3)(volumes)
    double = augmentation.build(3)(volumes.double())
    torch.testing.assert_close(single, double.float(), atol=1e-5, rtol=0)


def test_volumes_of_a_batch_get_different_views(augmentation):
    volumes = randn(1, 1, 8, 8, 8).repeat(30, 1, 1, 1, 1)
    views = augmentation.build(0)(volumes).flatten(1)
    distinct = torch.unique(views, dim=0)
    assert len(distinct) > 20


def test_global_generator_does_not_move(augmentation):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        sampler = augmentation.build(0)
        sampler(randn(4, 1, 6, 6, 6))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        view = augmentation.build(0)(randn(4, 1, 6, 6, 6))
    assert torch.equal(view, augmentation.build(0)(randn(4, 1, 6, 6, 6)))


def test_state_goes_on_where_it_was_taken(augmentation):
    volumes = randn(3, 1, 6, 6, 6)
    sampler = augmentation.build(0)
    sampler(volumes)
    state = sampler.get_state()
    expected = [sampler(volumes) for _ in range(2)]

    other = augmentation.build(1)
    other.set_state(state)
    assert all(torch.equal(other(volumes), view) for view in expected)


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 7), (2, 2), (0, 7), (7, 7)])
def test_views_of_a_part_are_those_of_the_whole_batch(augmentation, start, stop):
    volumes = randn(7, 1, 5, 6, 4)
    whole, part = (augmentation.build(0) for _ in range(2))
    for _ in range(2):
        expected = whole(volumes)[start:stop]
        view = part(volumes[start:stop], start=start, n=7)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)
    assert torch.equal(part.get_state(), whole.get_state())


def test_base_sampler_has_no_views():
    volumes = randn(1, 1, 2, 2, 2)
    with pytest.raises(NotImplementedError):
        ViewSampler(0)(volumes)

    class Nothing(OccasionalAugmentation):
        p = 1
        _parameter_constraints = {}

    with pytest.raises(NotImplementedError):
        Nothing().build(0)(volumes)
    with pytest.raises(NotImplementedError):
        Nothing()._change(volumes, torch.ones(1))


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
        (RotateShiftNoise(contrast=-1), "'contrast' .* Got -1"),
        (RotateShiftNoise(wedge="guess"), "'wedge' .*'estimate'.* Got 'guess'"),
        (RotateShiftNoise(wedge=60), "'wedge' .* two tilts .* Got 60"),
        (RotateShiftNoise(wedge=(60,)), r"'wedge' .* two tilts .* Got \(60,\)"),
        (RotateShiftNoise(wedge=[(-60, 60), (5,)]), "'wedge' .* a sequence of such"),
        (RotateShiftNoise(wedge=[(-9, 9), (50, 40)]), "'wedge' .* a sequence of such"),
        (RotateShiftNoise(wedge=[]), r"'wedge' .* Got \[\]"),
        (RotateShiftNoise(wedge=(60, -60)), r"-90 <= smallest .* Got \(60, -60\)"),
        (RotateShiftNoise(wedge=(-60, 91)), r"'wedge' .* Got \(-60, 91\)"),
        (RotateShiftNoise(wedge=("a", 1)), r"'wedge' .* Got \('a', 1\)"),
        (RotateShiftNoise(tilt_axis="z"), "'tilt_axis' .* Got 'z'"),
        (Blur(p=2), "'p' .* Blur .* Got 2"),
        (Blur(max_std=-1), "'max_std' .* Got -1"),
        (Gamma(p=-1), "'p' .* Gamma .* Got -1"),
        (Gamma(max_log_gamma=-1), "'max_log_gamma' .* Got -1"),
        (Elastic(p="a"), "'p' .* Elastic .* Got 'a'"),
        (Elastic(max_displacement=1.5), "'max_displacement' .* Got 1.5"),
        (Elastic(n_control_points=4), "'n_control_points' .* Got 4"),
        (BiasField(p=1.1), "'p' .* BiasField .* Got 1.1"),
        (BiasField(max_coefficient=-1), "'max_coefficient' .* Got -1"),
        (BiasField(order=-1), "'order' .* Got -1"),
        (BiasField(order=1.5), "'order' .* Got 1.5"),
        (Compose("blur"), "'augmentations' .* Compose .* Got 'blur'"),
        (Compose([]), r"'augmentations' .* at least one. Got \[\]"),
        (Compose(["blur", "sharpen"]), r"augmentations\[1\]='sharpen' is not known"),
        (Compose([Blur(p=3)]), "'p' .* Blur .* Got 3"),
    ],
)
def test_build_names_the_wrong_parameter(augmentation, message):
    with pytest.raises(ValueError, match=message):
        augmentation.build(0)
