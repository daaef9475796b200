import threading

import numpy as np
import pytest
import torch

from sksubtomo._stored import StoredVolumes
from sksubtomo._training import batches as batches_module
from sksubtomo._training.batches import (
    BatchLoader,
    Normalizer,
    VolumeDataset,
    read_ahead,
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
    monkeypatch.setattr("sksubtomo._stored._BLOCK_BYTES", 1000)
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
    torch.testing.assert_close(batch.volumes, expected)
    masked = normalizer(torch.from_numpy(volumes)[:, None])
    torch.testing.assert_close(normalizer.apply_mask(batch.volumes), masked)


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
    parts = [part for part, _ in loader]
    assert [part.n for part in parts] == sizes
    assert [len(part.volumes) for part in parts] == sizes
    assert {part.start for part in parts} == {0}
    assert len(loader) == len(sizes)


def test_every_epoch_has_every_volume_in_another_order(volumes):
    loader = _loader(volumes, generator=np.random.default_rng(0))
    epochs = []
    for _ in range(2):
        batches = list(loader)
        rows = torch.cat([labels for _, labels in batches]).numpy()
        seen = torch.cat([part.volumes for part, _ in batches]).numpy()[:, 0]
        np.testing.assert_array_equal(seen, volumes[rows])
        np.testing.assert_array_equal(np.sort(rows), np.arange(11))
        epochs.append(rows)
    assert not np.array_equal(*epochs)


def test_without_generator_the_order_is_kept(volumes):
    batches = [part.volumes for part, _ in _loader(volumes)]
    np.testing.assert_array_equal(torch.cat(batches).numpy()[:, 0], volumes)


def test_batches_are_copies(volumes):
    volumes.flags.writeable = False
    part, _ = next(iter(_loader(volumes)))
    part.volumes.add_(1)
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


@pytest.fixture
def stored(volumes, tmp_path):
    np.save(tmp_path / "volumes.npy", volumes)
    mapped = np.load(tmp_path / "volumes.npy", mmap_mode="r")
    return StoredVolumes(mapped, volumes.shape[1:])


@pytest.mark.parametrize("kind", ["dataset", "volume", None])
def test_statistics_of_stored_volumes(volumes, stored, kind):
    assert Normalizer.fit(stored, kind, "sphere") == Normalizer.fit(
        volumes, kind, "sphere"
    )


@pytest.mark.parametrize("window_bytes", [1, 2 * 4 * 4 * 120, 1 << 24])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_stored_volumes_come_as_those_in_memory(
    volumes, stored, monkeypatch, window_bytes, shard
):
    monkeypatch.setattr(batches_module, "_WINDOW_BYTES", window_bytes)
    epochs = []
    for X in (volumes, stored):
        generator = np.random.default_rng(0)
        loader = _loader(
            X,
            generator=generator,
            shard=shard,
            batch_size=2,
            normalizer=Normalizer(per_volume=True),
        )
        epochs.append([*loader, *loader, generator.bit_generator.state])
    *in_memory, state = epochs[0]
    *read, state_of_read = epochs[1]
    assert state == state_of_read
    for (expected, labels), (part, labels_of_part) in zip(in_memory, read, strict=True):
        assert torch.equal(part.volumes, expected.volumes)
        assert (part.start, part.n) == (expected.start, expected.n)
        assert torch.equal(labels_of_part, labels)


def test_the_order_is_drawn_when_an_epoch_begins(stored):
    # However many batches were read, or asked for.
    generators = [np.random.default_rng(0) for _ in range(2)]
    iterator = iter(_loader(stored, batch_size=2, generator=generators[0]))
    next(iterator)
    list(_loader(stored, batch_size=2, generator=generators[1]))
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_shards_make_up_the_batches(volumes, size, batch_size):
    loaders = [
        _loader(
            volumes,
            batch_size=batch_size,
            generator=np.random.default_rng(0),
            shard=shard,
        )
        for shard in [(0, 1), *((rank, size) for rank in range(size))]
    ]
    for (whole, labels), *shards in zip(*loaders, strict=True):
        assert whole.start == 0
        parts = [part for part, _ in shards]
        assert torch.equal(torch.cat([part.volumes for part in parts]), whole.volumes)
        assert torch.equal(torch.cat([rows for _, rows in shards]), labels)
        sizes = [len(part.volumes) for part in parts]
        assert [part.start for part in parts] == [0, *np.cumsum(sizes)[:-1]]
        assert {part.n for part in parts} == {len(whole.volumes)}
        assert max(sizes) - min(sizes) <= 1


def test_a_part_is_all_that_is_read(volumes):
    class Recording(StoredVolumes):
        read = []

        def take(self, rows):
            self.read.extend(rows)
            return super().take(rows)

    class Chunked:
        chunks = None
        shape, dtype, ndim = volumes.shape, volumes.dtype, 4

        def __getitem__(self, rows):
            return volumes[rows]

    stored = Recording(Chunked(), volumes.shape[1:])
    ((part, labels), *_) = list(_loader(stored, batch_size=11, shard=(1, 2)))
    assert (part.start, part.n) == (5, 11)
    assert Recording.read == labels.tolist() == list(range(5, 11))


def test_reading_ahead_keeps_the_order_and_stays_little_ahead():
    asked = []

    def items():
        for i in range(20):
            asked.append(i)
            yield i

    results = []
    for result in read_ahead(lambda i: (i, threading.current_thread()), items()):
        results.append(result[0])
        assert result[1] is not threading.current_thread()
        assert len(asked) <= len(results) + 2
    assert results == list(range(20))


def test_errors_of_reading_reach_the_caller(stored):
    def take(rows):
        if 7 in rows:
            raise OSError("the disk is gone")
        return StoredVolumes.take(stored, rows)

    stored.take = take
    loader = _loader(stored, batch_size=11)
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader)
    assert threading.active_count() == before


def test_reading_ends_with_the_iteration(stored, monkeypatch):
    monkeypatch.setattr(batches_module, "_WINDOW_BYTES", 1)
    before = threading.active_count()
    for n_taken in (1, 3, 99):
        for i, _ in enumerate(_loader(stored, batch_size=2), 1):
            assert threading.active_count() == before + 1
            if i == n_taken:
                break
        assert threading.active_count() == before


def test_mask_of_inference_can_be_trained_with():
    with torch.inference_mode():
        soft_sphere(3, 3, 7)
    weight = torch.ones((), requires_grad=True)
    (weight * soft_sphere(3, 3, 7)).sum().backward()
    assert weight.grad > 0
