import pytest
import torch
from sklearn.base import clone

from sksubtomo.augmentation import Blur, Compose, CropAffine, Gamma, RotateShiftNoise


@pytest.fixture
def volumes():
    return torch.randn(6, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def test_each_is_applied_to_what_the_one_before_it_made(volumes):
    augmentations = [RotateShiftNoise(), Blur(p=1), Gamma(p=1)]
    sampler = Compose(augmentations).build(4)
    single = Compose(augmentations).build(4).samplers
    for _ in range(2):
        expected = volumes
        for part in single:
            expected = part(expected)
        assert torch.equal(sampler(volumes), expected)
    other_order = Compose(augmentations[::-1]).build(4)
    assert not torch.allclose(
        other_order(volumes), Compose(augmentations).build(4)(volumes)
    )


def test_names_stand_for_the_objects_with_their_defaults(volumes):
    named = Compose(["crop_affine", "blur"]).build(1)
    objects = Compose((CropAffine(), Blur())).build(1)
    assert torch.equal(named(volumes), objects(volumes))


def test_two_of_a_kind_draw_differently(volumes):
    first, second = Compose(["gamma", "gamma"]).build(0).samplers
    assert not torch.equal(first(volumes), second(volumes))


def test_more_augmentations_leave_the_seeds_of_the_first_alone(volumes):
    short, long = (Compose(["crop_affine", "blur"][:n]).build(0) for n in (1, 2))
    assert torch.equal(short.samplers[0](volumes), long.samplers[0](volumes))


def test_state_is_that_of_all(volumes):
    nested = Compose(["rotate_shift_noise", Compose(["blur", "gamma"]), "elastic"])
    sampler = nested.build(0)
    sampler(volumes)
    state = sampler.get_state()
    assert state.ndim == 1
    assert len(state) == 4 * len(torch.Generator().get_state())
    expected = sampler(volumes)
    other = nested.build(1)
    other.set_state(state)
    assert torch.equal(other(volumes), expected)


def test_clone_copies_what_is_inside():
    compose = Compose(["crop_affine", Blur(max_std=0.7)])
    copy = clone(compose)
    assert repr(copy) == repr(compose)
    assert copy.augmentations[1] is not compose.augmentations[1]
    assert copy.get_params()["augmentations"][1].max_std == 0.7
    with pytest.raises(TypeError, match=r"augmentations\[0\] is the class Blur"):
        Compose([Blur]).build(0)
    with pytest.raises(TypeError, match=r"augmentations\[1\] is 3 of type int"):
        Compose(["blur", 3]).build(0)
