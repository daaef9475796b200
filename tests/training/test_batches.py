import numpy as np
import pytest
import torch

from sksubtomo._training.batches import (
    BatchLoader,
    Normalizer,
    VolumeDataset,
    soft_sphere,
)

CPU = torch.device("cpu")


@pytest.fixture
def volumes():
    generator = np.random.default_rng(0)
    return generator.normal(3, 2, size=(11, 4, 5, 6)).astype(np.float32)


def _loader(volumes, **parameters):
    parameters = {
        "batch_size": 4,
        "normalizer": Normalizer(),
        "device": CPU,
        **parameters,
    }
    return BatchLoader(VolumeDataset(volumes, np.arange(len(volumes))), **parameters)


def test_dataset_statistics(volumes):
    normalizer = Normalizer.fit(volumes, "dataset")
    assert normalizer.mean == pytest.approx(volumes.mean(dtype=np.float64))
    assert normalizer.scale == pytest.approx(volumes.std(dtype=np.float64))
    batch = normalizer(torch.from_numpy(volumes)[:, None])
    assert batch.mean().item() == pytest.approx(0, abs=1e-5)
    assert batch.std().item() == pytest.approx(1, abs=1e-3)


def test_dataset_statistics_in_blocks(volumes, monkeypatch):
    whole = Normalizer.fit(volumes, "dataset")
    monkeypatch.setattr("sksubtomo._training.batches._BLOCK_VALUES", 250)
    blocks = Normalizer.fit(volumes, "dataset")
    assert blocks.mean == pytest.approx(whole.mean, rel=1e-12)
    assert blocks.scale == pytest.approx(whole.scale, rel=1e-12)


def test_mask_is_a_sphere_with_a_soft_edge():
    mask = soft_sphere(20, 20, 20)
    distance = np.sqrt(((np.indices((20, 20, 20)) - 9.5) ** 2).sum(axis=0))
    assert (mask[distance <= 6.5] == 1).all()
    assert mask[distance >= 10].abs().max() < 1e-6
    edge = mask[(distance > 7.5) & (distance < 9)]
    assert edge.min() > 0.05
    assert edge.max() < 0.95
    torch.testing.assert_close(mask, mask.transpose(0, 2).flip(1))
    # Sides of one voxel, as tables have them, are not masked away.
    assert soft_sphere(1, 1, 9).max() == 1
    assert soft_sphere(1, 1, 1).item() == 1


@pytest.mark.parametrize("kind", ["dataset", "volume", None])
def test_what_lies_outside_the_mask_does_not_count(kind):
    generator = np.random.default_rng(0)
    volumes = generator.normal(3, 2, size=(11, 8, 8, 8)).astype(np.float32)
    mask = soft_sphere(8, 8, 8)
    other = volumes.copy()
    other[:, mask.numpy() == 0] = 1000
    normalised = [
        Normalizer.fit(values, kind, "sphere")(torch.from_numpy(values)[:, None])
        for values in (volumes, other)
    ]
    torch.testing.assert_close(*normalised, rtol=1e-4, atol=1e-4)
    if kind is None:
        expected = torch.from_numpy(volumes)[:, None] * mask
        torch.testing.assert_close(normalised[0], expected)
    else:
        inside = normalised[0][:, 0, mask == 1]
        assert inside.mean().item() == pytest.approx(0, abs=0.2)
        assert inside.std().item() == pytest.approx(1, abs=0.2)


def test_batches_are_masked_after_augmentation_only(volumes):
    normalizer = Normalizer.fit(volumes, "dataset", "sphere")
    ((batch, _),) = _loader(volumes, batch_size=11, normalizer=normalizer)
    expected = (torch.from_numpy(volumes)[:, None] - normalizer.mean) / normalizer.scale
    torch.testing.assert_close(batch, expected)
    masked = normalizer(torch.from_numpy(volumes)[:, None])
    torch.testing.assert_close(normalizer.apply_mask(batch), masked)


def test_a_large_offset_does_not_swamp_the_spread():
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(20, 8, 8, 8))
    volumes = (30_000 + spread).astype(np.float32)
    normalizer = Normalizer.fit(volumes, "dataset")
    assert normalizer.scale == pytest.approx(1, rel=0.02)


def test_per_volume(volumes):
    batch = Normalizer.fit(volumes, "volume")(torch.from_numpy(volumes)[:, None])
    for volume in batch:
        assert volume.mean().item() == pytest.approx(0, abs=1e-5)
        assert volume.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["dataset", "volume"])
@pytest.mark.parametrize("value", [0.0, 0.1, -12345.678])
def test_constant_volumes_become_zero(kind, value):
    volumes = np.full((3, 4, 4, 4), value, np.float32)
    batch = Normalizer.fit(volumes, kind)(torch.from_numpy(volumes)[:, None])
    assert batch.abs().max().item() < 1e-2


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (11, 4, [4, 4, 3]),
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (3, 1, [1, 2]),
        (2, 16, [2]),
    ],
)
def test_sizes_of_batches(volumes, n, batch_size, sizes):
    loader = _loader(volumes[:n], batch_size=batch_size)
    assert [len(batch) for batch, _ in loader] == sizes
    assert len(loader) == len(sizes)


def test_every_epoch_has_every_volume_in_another_order(volumes):
    loader = _loader(volumes, generator=np.random.default_rng(0))
    epochs = []
    for _ in range(2):
        batches = list(loader)
        rows = torch.cat([labels for _, labels in batches]).numpy()
        seen = torch.cat([batch for batch, _ in batches]).numpy()[:, 0]
        np.testing.assert_array_equal(seen, volumes[rows])
        np.testing.assert_array_equal(np.sort(rows), np.arange(11))
        epochs.append(rows)
    assert not np.array_equal(*epochs)


def test_without_generator_the_order_is_kept(volumes):
    batches = [batch for batch, _ in _loader(volumes)]
    np.testing.assert_array_equal(torch.cat(batches).numpy()[:, 0], volumes)


def test_batches_are_copies(volumes):
    volumes.flags.writeable = False
    batch, _ = next(iter(_loader(volumes)))
    batch += 1
    dataset = VolumeDataset(volumes)
    assert len(dataset) == 11
    volume, label = dataset[3]
    np.testing.assert_array_equal(volume[0].numpy(), volumes[3])
    assert label == 0


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_extreme_intensities_volume_by_volume(volumes, factor):
    normalizer = Normalizer.fit(volumes, "volume")
    batch = torch.from_numpy(volumes)[:, None]
    torch.testing.assert_close(normalizer(batch * factor), normalizer(batch))
