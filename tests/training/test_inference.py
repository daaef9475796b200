import h5py
import numpy as np
import pytest
import torch
import zarr
from torch import nn

from sksubtomo._stored import StoredVolumes
from sksubtomo._training import inference
from sksubtomo._training.batches import Normalizer
from sksubtomo._training.inference import (
    apply_in_batches,
    class_probabilities,
    feature_statistics,
)
from sksubtomo.augmentation.functional import oriented_views
from sksubtomo.networks import RB3D

CPU = torch.device("cpu")
SHAPE = (4, 5, 6)


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(3, 2, (70, *SHAPE)).astype(np.float32)


@pytest.fixture
def stored(volumes, tmp_path):
    np.save(tmp_path / "volumes.npy", volumes)
    return StoredVolumes(np.load(tmp_path / "volumes.npy", mmap_mode="r"), SHAPE)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 7))


def _forward(module, volumes, normalizer):
    with torch.no_grad():
        return module(normalizer(torch.from_numpy(volumes)[:, None])).numpy()


@pytest.mark.parametrize("kind", ["dataset", "volume"])
@pytest.mark.parametrize("n", [1, 16, 70])
def test_outputs_of_all_volumes(volumes, module, kind, n):
    normalizer = Normalizer.fit(volumes, kind, "sphere")
    outputs = apply_in_batches(module, volumes[:n], normalizer, CPU)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(
        outputs, _forward(module, volumes[:n], normalizer), atol=1e-5
    )
    shifted = apply_in_batches(
        module, volumes[:n], normalizer, CPU, centre=np.arange(7), scale=2
    )
    np.testing.assert_allclose(shifted, (outputs - np.arange(7)) / 2, rtol=1e-6)


def test_an_output_does_not_depend_on_the_others(volumes, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = RB3D(norm="group").build(SHAPE)
    normalizer = Normalizer(mean=3, scale=2)
    whole = apply_in_batches(module, volumes, normalizer, CPU)
    monkeypatch.setattr("sksubtomo._stored._BLOCK_BYTES", 20 * volumes[0].nbytes)
    np.testing.assert_array_equal(
        apply_in_batches(module, volumes, normalizer, CPU), whole
    )
    for rows in ([3], [69, 3, 3], range(5, 40)):
        some = apply_in_batches(module, volumes[rows], normalizer, CPU)
        np.testing.assert_array_equal(some, whole[rows])


def test_stored_volumes(volumes, stored, module, monkeypatch):
    monkeypatch.setattr("sksubtomo._stored._BLOCK_BYTES", 20 * volumes[0].nbytes)
    whole = apply_in_batches(module, volumes, Normalizer(), CPU)
    np.testing.assert_array_equal(
        apply_in_batches(module, stored, Normalizer(), CPU), whole
    )
    np.testing.assert_array_equal(
        apply_in_batches(module, stored[::-3], Normalizer(), CPU), whole[::-3]
    )


def test_stored_volumes_that_are_not_finite(volumes, tmp_path, module):
    volumes[61, 1, 2, 3] = np.nan
    np.save(tmp_path / "bad.npy", volumes)
    bad = StoredVolumes(np.load(tmp_path / "bad.npy", mmap_mode="r"), SHAPE)
    place = r"NaN: first in volume 61 at voxel \(z=1, y=2, x=3\)"
    with pytest.raises(ValueError, match=place):
        apply_in_batches(module, bad, Normalizer(), CPU)


@pytest.mark.parametrize("kind", ["array", "map", "hdf5", "zarr"])
def test_output_array(volumes, stored, module, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("sksubtomo._stored._BLOCK_BYTES", 20 * volumes[0].nbytes)
    expected = apply_in_batches(module, volumes, Normalizer(), CPU)
    shape = (70, 7)
    match kind:
        case "array":
            out = np.full(shape, np.nan)
        case "map":
            out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "f4", shape)
        case "hdf5":
            out = h5py.File(tmp_path / "out.h5", "w").create_dataset("x", shape, "f4")
        case "zarr":
            out = zarr.create_array(
                tmp_path / "out.zarr", shape=shape, dtype="f4", chunks=(9, 7)
            )
    assert apply_in_batches(module, stored, Normalizer(), CPU, out=out) is out
    np.testing.assert_array_equal(out[:], expected)


def _read_only():
    out = np.zeros((70, 7), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((69, 7)), r"out has shape \(69, 7\); expected 70 rows"),
        (np.zeros(70), r"out has shape \(70,\)"),
        (np.zeros((70, 6)), r"out has shape \(70, 6\); expected \(70, 7\)"),
        (np.zeros((70, 7), int), "out has dtype int64; expected floating"),
        (_read_only(), "out is read-only"),
    ],
)
def test_unacceptable_output(volumes, module, out, message):
    with pytest.raises(ValueError, match=message):
        apply_in_batches(module, volumes, Normalizer(), CPU, out=out)


def test_gradients_are_computed_again_afterwards(volumes, module):
    apply_in_batches(module, volumes, Normalizer(), CPU)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_statistics_of_features(volumes, stored, module, monkeypatch):
    features = apply_in_batches(module, volumes, Normalizer(), CPU).astype(np.float64)
    for X in (volumes, stored):
        mean, scale = feature_statistics(module, X, Normalizer(), CPU)
        np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-5)
        assert scale == pytest.approx(features.var(axis=0).mean() ** 0.5)
    monkeypatch.setattr(inference, "_SCALE_VOLUMES", 30)
    for X in (volumes, stored):
        mean, _ = feature_statistics(module, X, Normalizer(), CPU)
        np.testing.assert_allclose(mean, features[::3].mean(axis=0), rtol=1e-5)


def test_constant_features_have_scale_one(volumes):
    module = nn.Sequential(nn.Flatten(), nn.Linear(120, 2))
    nn.init.zeros_(module[1].weight)
    _, scale = feature_statistics(module, volumes, Normalizer(), CPU)
    assert scale == 1


def test_probabilities_are_averaged_over_orientations(volumes, stored, module):
    normalizer = Normalizer.fit(volumes, "volume", "sphere")
    views = oriented_views(
        normalizer.scale_intensities(torch.from_numpy(volumes)[:, None]), 3
    )
    with torch.no_grad():
        each = [module(normalizer.apply_mask(view)).softmax(1) for view in views]
    averaged = class_probabilities(module, volumes, normalizer, CPU, n_views=3)
    np.testing.assert_allclose(averaged, torch.stack(each).mean(0), atol=1e-5)
    np.testing.assert_allclose(averaged.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(
        class_probabilities(module, stored, normalizer, CPU, n_views=3), averaged
    )
    single = class_probabilities(module, volumes, normalizer, CPU)
    np.testing.assert_allclose(single, each[0], atol=1e-5)
    np.testing.assert_allclose(single.sum(axis=1), 1, atol=1e-12)
    assert not torch.is_inference_mode_enabled()


def test_a_probability_does_not_depend_on_the_others(volumes):
    # One view more than there are exact rotations of such a volume.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = RB3D(norm="group").build(SHAPE)
    whole = class_probabilities(module, volumes, Normalizer(), CPU, n_views=5)
    for rows in ([3], [69, 3, 3], range(5, 40)):
        some = class_probabilities(module, volumes[rows], Normalizer(), CPU, n_views=5)
        np.testing.assert_array_equal(some, whole[rows])
