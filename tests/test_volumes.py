import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import BaseEstimator

from sksubtomo import ContrastivePretrainer, RB3DClassifier
from sksubtomo._stored import StoredVolumes
from sksubtomo._volumes import check_fit_volumes, check_predict_volumes


class Probe(BaseEstimator):
    """An estimator that validates and does nothing else."""


@pytest.fixture
def volumes():
    return np.random.default_rng(0).normal(size=(5, 3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i2", "u2", "i4", "i8", "bool"]
)
def test_any_real_dtype(volumes, dtype):
    X = (volumes * 10).astype(dtype)
    probe = Probe()
    checked = check_fit_volumes(probe, X)
    assert checked.dtype == np.float32
    assert checked.dtype.isnative
    assert checked.flags.c_contiguous
    np.testing.assert_allclose(checked, X.astype(np.float32))
    assert probe.volume_shape_ == (3, 4, 6)
    assert probe.n_features_in_ == 72


@pytest.mark.parametrize("kind", ["map", "hdf5", "zarr"])
@pytest.mark.parametrize("flat", [False, True])
def test_what_is_on_disk_stays_there(volumes, tmp_path, kind, flat):
    stored = _store(kind, tmp_path, volumes.reshape(5, -1) if flat else volumes)
    probe = Probe()
    checked = check_fit_volumes(probe, stored, volume_shape=(3, 4, 6))
    assert (probe.volume_shape_, probe.n_features_in_) == ((3, 4, 6), 72)
    for X in (checked, check_predict_volumes(probe, stored)):
        assert isinstance(X, StoredVolumes)
        assert X.shape == volumes.shape
        np.testing.assert_array_equal(X.take(np.arange(5)), volumes)


def _store(kind, folder, volumes):
    if kind == "map":
        np.save(folder / "volumes.npy", volumes)
        return np.load(folder / "volumes.npy", mmap_mode="r")
    if kind == "hdf5":
        file = h5py.File(folder / "volumes.h5", "w")
        return file.create_dataset("volumes", data=volumes)
    return zarr.create_array(folder / "volumes.zarr", data=volumes)


def test_other_layouts(volumes):
    np.testing.assert_array_equal(check_fit_volumes(Probe(), list(volumes)), volumes)
    np.testing.assert_array_equal(
        check_fit_volumes(Probe(), np.asfortranarray(volumes)), volumes
    )
    np.testing.assert_array_equal(
        check_fit_volumes(Probe(), volumes[:, ::-1]), volumes[:, ::-1]
    )


@pytest.mark.parametrize(
    ("n_features", "expected"),
    [(1, (1, 1, 1)), (8, (2, 2, 2)), (4096, (16, 16, 16)), (10, (1, 1, 10))],
)
def test_shape_of_flat_rows(n_features, expected):
    probe = Probe()
    checked = check_fit_volumes(probe, np.zeros((2, n_features)))
    assert probe.volume_shape_ == expected
    assert checked.shape == (2, *expected)


def test_given_shape_of_flat_rows(volumes):
    flat = volumes.reshape(5, -1)
    checked = check_fit_volumes(Probe(), flat, volume_shape=(3, 4, 6))
    np.testing.assert_array_equal(checked, volumes)


def test_fit_on_one_layout_predict_on_the_other(volumes):
    flat = volumes.reshape(5, -1)
    probe = Probe()
    check_fit_volumes(probe, volumes)
    np.testing.assert_array_equal(check_predict_volumes(probe, flat), volumes)
    probe = Probe()
    check_fit_volumes(probe, flat, volume_shape=(3, 4, 6))
    np.testing.assert_array_equal(check_predict_volumes(probe, volumes), volumes)


def test_data_frame_keeps_its_names(volumes):
    frame = pd.DataFrame(volumes.reshape(5, -1)).add_prefix("voxel_")
    probe = Probe()
    check_fit_volumes(probe, frame)
    assert list(probe.feature_names_in_[:2]) == ["voxel_0", "voxel_1"]
    with pytest.raises(ValueError, match="feature names should match"):
        check_predict_volumes(probe, frame.add_prefix("other_"))


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")]
)
def test_not_finite_is_located(volumes, value, name):
    volumes[3, 2, 1, 4] = value
    place = r"volume 3 at voxel \(z=2, y=1, x=4\)"
    for X in (volumes, volumes.reshape(5, -1)):
        with pytest.raises(ValueError, match=f"{name}.*{place}"):
            check_fit_volumes(Probe(), X, volume_shape=(3, 4, 6))
    probe = Probe()
    check_fit_volumes(probe, np.zeros((5, 3, 4, 6)))
    with pytest.raises(ValueError, match=place):
        check_predict_volumes(probe, volumes)


def test_not_finite_is_located_beyond_the_first_block(monkeypatch, volumes):
    monkeypatch.setattr("sksubtomo._stored._BLOCK_BYTES", 400)
    volumes[4, 0, 0, 1] = np.nan
    with pytest.raises(ValueError, match=r"volume 4 at voxel \(z=0, y=0, x=1\)"):
        check_fit_volumes(Probe(), volumes)


@pytest.mark.parametrize("kind", ["map", "hdf5", "zarr"])
def test_not_finite_on_disk_is_located_in_fit_only(tmp_path, volumes, kind):
    volumes[4, 0, 0, 1] = np.nan
    stored = _store(kind, tmp_path, volumes)
    with pytest.raises(ValueError, match=r"volume 4 at voxel \(z=0, y=0, x=1\)"):
        check_fit_volumes(Probe(), stored)
    probe = Probe()
    check_fit_volumes(probe, np.zeros((5, 3, 4, 6)))
    # Whoever reads the volumes looks: twice would be once too often.
    assert isinstance(check_predict_volumes(probe, stored), StoredVolumes)


def test_too_large_for_float32(volumes):
    X = volumes.astype(np.float64)
    X[1, 0, 0, 0] = 1e300
    with pytest.raises(ValueError, match="too large for float32: first in volume 1"):
        check_fit_volumes(Probe(), X)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros((4, 5, 6)), ValueError, r"3 axes.*Reshape.*X\[np.newaxis\]"),
        (np.zeros((2, 1, 4, 5, 6)), ValueError, "5 axes.*Remove the channel axis"),
        (np.zeros(7), ValueError, "Reshape your data"),
        (np.zeros((2, 3, 3, 3), complex), ValueError, "Complex data not supported"),
        (np.zeros((2, 27), complex), ValueError, "Complex data not supported"),
        (np.zeros((2, 3, 3, 3), object), TypeError, "dtype object"),
        (np.array([[{}] * 27] * 2), TypeError, "must be a string or a real number"),
        (np.full((2, 3, 3, 3), "a"), TypeError, "dtype <U1"),
        (np.zeros((0, 3, 3, 3)), ValueError, "0 sample"),
        (np.zeros((2, 0, 3, 3)), ValueError, r"0 feature\(s\)"),
        ([np.zeros((3, 3, 3)), np.zeros((3, 3, 4))], ValueError, "volume 1 has shape"),
    ],
)
def test_unacceptable(X, error, message):
    with pytest.raises(error, match=message):
        check_fit_volumes(Probe(), X)


@pytest.mark.parametrize("kind", ["map", "hdf5"])
@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros((4, 5, 6)), ValueError, r"3 axes.*Reshape.*X\[np.newaxis\]"),
        (np.zeros((2, 3, 3, 3), "c8"), ValueError, "Complex data not supported"),
        (np.zeros((2, 27), "c8"), ValueError, "Complex data not supported"),
        (np.zeros((2, 27), "S3"), TypeError, r"dtype \|S3"),
        (np.zeros((1, 3, 3, 3)), ValueError, "1 sample.*minimum of 2.*Probe"),
        (np.zeros((5, 3, 4, 7)), ValueError, r"\(3, 4, 7\), but volume_shape=\(3, 4"),
        (np.zeros((5, 71)), ValueError, "has 72 voxels.*have 71 features"),
    ],
)
def test_unacceptable_on_disk(tmp_path, kind, X, error, message):
    stored = _store(kind, tmp_path, X)
    shape = (3, 4, 6) if len(X) == 5 else None
    with pytest.raises(error, match=message):
        check_fit_volumes(Probe(), stored, volume_shape=shape, min_volumes=2)


@pytest.mark.parametrize("kind", ["map", "hdf5", "zarr"])
def test_other_shape_on_disk_in_predict(tmp_path, volumes, kind):
    probe = Probe()
    check_fit_volumes(probe, volumes)
    other = _store(kind, tmp_path, volumes.transpose(0, 3, 2, 1).copy())
    with pytest.raises(ValueError, match=r"\(6, 4, 3\).*Probe is expecting.*\(3, 4, 6"):
        check_predict_volumes(probe, other)


def test_other_shape_in_predict(volumes):
    probe = Probe()
    check_fit_volumes(probe, volumes)
    with pytest.raises(ValueError, match=r"\(6, 4, 3\).*Probe is expecting.*\(3, 4, 6"):
        check_predict_volumes(probe, volumes.transpose(0, 3, 2, 1))
    with pytest.raises(ValueError, match="71 features, but Probe is expecting 72"):
        check_predict_volumes(probe, volumes.reshape(5, -1)[:, :-1])


@pytest.mark.parametrize(
    "volume_shape", [(3, 4), (3, 4, 0), (3, 4, 6.0), "346", (3, 4, -6)]
)
def test_bad_volume_shape(volumes, volume_shape):
    with pytest.raises(ValueError, match="volume_shape=.*three positive integers"):
        check_fit_volumes(Probe(), volumes.reshape(5, -1), volume_shape=volume_shape)


def test_contradictory_volume_shape(volumes):
    with pytest.raises(ValueError, match="has 60 voxels.*have 72 features"):
        check_fit_volumes(Probe(), volumes.reshape(5, -1), volume_shape=(3, 4, 5))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 6\), but volume_shape"):
        check_fit_volumes(Probe(), volumes, volume_shape=(6, 4, 3))


def test_too_few_rows(volumes):
    with pytest.raises(ValueError, match=r"1 sample.*minimum of 2 .*Contrastive"):
        ContrastivePretrainer().fit(volumes[:1])
    with pytest.raises(ValueError, match="0 sample"):
        RB3DClassifier().fit(volumes[:0], [])


def test_a_mapping_is_no_array():
    with pytest.raises(TypeError, match=r"X is a dict with the keys \['v'\]"):
        check_fit_volumes(Probe(), {"v": np.zeros((2, 4, 4, 4))})
