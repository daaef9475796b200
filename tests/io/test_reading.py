import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from sksubtomo import ContrastivePretrainer, ReadVolumes
from sksubtomo.datasets import make_subtomograms
from sksubtomo.io import (
    _sources,
    list_references,
    read_volumes,
    write_volume,
    write_volume_stack,
)

CLASSIFIER = DummyClassifier()


@pytest.fixture(scope="module")
def data():
    return make_subtomograms(n_per_class=2, size=8, random_state=0, return_X_y=True)


@pytest.fixture
def folder(tmp_path, data):
    """A folder of twelve files, of one volume each."""
    for number, volume in enumerate(data[0][:12]):
        write_volume(tmp_path / f"v_{number}.mrc", volume, 40)
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """The names of the MRC files that were opened, in order."""
    names = []
    original = _sources.open_volumes

    def counting(path, **options):
        names.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(_sources, "open_volumes", counting)
    return names


def flatten(volumes):
    return volumes.reshape(len(volumes), -1)


# scikit-learn's conventions


def test_scikit_learn_checks():
    # Of those that check_estimator would run, all but one fit random numbers.
    with pytest.warns(SkipTestWarning, match="string=True"):
        check_estimator(ReadVolumes(), on_skip=None)


@pytest.mark.parametrize(
    "check_name",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_estimators_unfitted",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_param_validation",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_transformers_unfitted",
        "check_valid_tag_types",
    ],
)
def test_checks_that_need_no_numbers(check_name):
    check = getattr(estimator_checks, check_name)
    check("ReadVolumes", clone(ReadVolumes()))


def test_rows_are_independent_and_nothing_is_kept(folder):
    references = list_references(folder)
    reader = ReadVolumes(voxel_size=41)
    before = dict(vars(reader))
    assert reader.fit(references) is reader
    volumes = reader.transform(references)
    permutation = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(
        reader.transform(references[permutation]), volumes[permutation]
    )
    for row in range(12):
        np.testing.assert_array_equal(
            reader.transform(references[row : row + 1])[0], volumes[row]
        )
    assert {name: vars(reader)[name] for name in before} == before
    np.testing.assert_array_equal(clone(reader).fit_transform(references), volumes)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.transform(references), volumes)


def test_unfitted():
    with pytest.raises(NotFittedError):
        ReadVolumes().transform(["v.mrc"])
    with pytest.raises(NotFittedError):
        ReadVolumes().get_feature_names_out()


# What may be given


@pytest.mark.parametrize(
    "kind", [list, np.array, pd.Series, pd.DataFrame, lambda names: np.array([names]).T]
)
def test_kinds_of_arrays(folder, data, kind):
    references = kind([str(folder / f"v_{number}.mrc") for number in (3, 0, 3)])
    reader = ReadVolumes().fit(references)
    assert reader.volume_shape_ == (8, 8, 8)
    assert reader.voxel_size_ == 40
    volumes = reader.transform(references)
    assert volumes.dtype == np.float32
    np.testing.assert_array_equal(volumes, data[0][[3, 0, 3]])


def test_paths(folder, data):
    references = [folder / "v_1.mrc", folder / "v_2.mrc"]
    np.testing.assert_array_equal(
        ReadVolumes().fit_transform(references), data[0][[1, 2]]
    )


@pytest.mark.parametrize("suffix", ["mrc", "h5", "zarr"])
def test_volumes_of_stacks(tmp_path, data, suffix):
    path = tmp_path / f"s.{suffix}"
    if suffix == "mrc":
        write_volume_stack(path, data[0], 40)
    elif suffix == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes", data=data[0], chunks=(1, 8, 8, 8))
            file["others"] = data[0]
    else:
        zarr.open_group(path, mode="w").create_array("volumes", data=data[0])
    reader = ReadVolumes(dataset=None if suffix == "mrc" else "volumes")
    volumes = reader.fit_transform([f"20@{path}", f"3@{path}"])
    np.testing.assert_array_equal(volumes, data[0][[19, 2]])


def test_parameters(folder, data):
    references = list_references(folder)
    reader = ReadVolumes(axes="xyz", invert_contrast=True, voxel_size=50)
    volumes = reader.fit_transform(references)
    np.testing.assert_array_equal(volumes, -data[0][:12].transpose(0, 3, 2, 1))
    assert reader.voxel_size_ == 50
    with pytest.raises(ValueError, match="axes='abc'"):
        ReadVolumes(axes="abc").fit(references)
    assert ReadVolumes(axes="xyz").fit(references).volume_shape_ == (8, 8, 8)


@pytest.mark.filterwarnings("ignore:.*which is no cube:UserWarning")
def test_shape_is_that_of_the_axes(tmp_path):
    write_volume(tmp_path / "v.mrc", np.zeros((3, 4, 5)), 10)
    reader = ReadVolumes(axes="xzy").fit([tmp_path / "v.mrc"])
    assert reader.volume_shape_ == (4, 5, 3)
    assert reader.transform([tmp_path / "v.mrc"]).shape == (1, 4, 5, 3)


def test_dark_particles_are_warned_of(folder, data):
    for number, volume in enumerate(data[0][:12]):
        write_volume(folder / f"v_{number}.mrc", -volume, 40)
    references = list_references(folder)
    with pytest.warns(UserWarning, match="darker"):
        ReadVolumes().fit_transform(references)
    ReadVolumes(invert_contrast=False).fit_transform(references)


# What is refused


@pytest.mark.parametrize(
    ("references", "error", "message"),
    [
        ([], ValueError, "no references"),
        ([3], TypeError, "reference 0 is 3"),
        ([["a", "b"]], ValueError, "shape"),
        (["nothing.mrc"], FileNotFoundError, "nothing"),
        (["0@v.mrc"], ValueError, "count from 1"),
    ],
)
def test_references_that_are_none(folder, references, error, message):
    with pytest.raises(error, match=message):
        ReadVolumes().fit(references)
    reader = ReadVolumes().fit(list_references(folder))
    with pytest.raises(error, match=message):
        reader.transform(references)


def test_stack_without_a_number(tmp_path, data):
    write_volume_stack(tmp_path / "s.mrc", data[0], 40)
    with pytest.raises(ValueError, match="holds 20 volumes"):
        ReadVolumes().fit([tmp_path / "s.mrc"])


@pytest.mark.filterwarnings("ignore:.*which is no cube:UserWarning")
def test_other_volumes_than_in_fit(folder, data):
    reader = ReadVolumes().fit([folder / "v_0.mrc"])
    write_volume(folder / "v_1.mrc", data[0][1][:7], 40)
    with pytest.raises(
        ValueError, match=r"v_1\.mrc: .*\(7, 8, 8\).*\(8, 8, 8\).*v_0\.mrc"
    ):
        reader.transform([folder / "v_1.mrc"])
    write_volume(folder / "v_1.mrc", data[0][1], 20)
    with pytest.raises(ValueError, match=r"v_1\.mrc: .*20 A; expected 40 A"):
        reader.transform([folder / "v_1.mrc"])
    stating = ReadVolumes(voxel_size=40).fit([folder / "v_0.mrc"])
    assert len(stating.transform([folder / "v_1.mrc"])) == 1


# In pipelines


def test_fit_opens_the_first_file_only(folder, opened):
    reader = ReadVolumes().fit(list_references(folder)[3:])
    assert opened == ["v_3.mrc"]
    reader.transform(list_references(folder)[[5, 7, 5]])
    assert opened == ["v_3.mrc", "v_5.mrc", "v_7.mrc"]


def test_cross_validation_opens_the_files_of_its_rows_only(folder, opened):
    pipeline = make_pipeline(ReadVolumes(), FunctionTransformer(flatten), CLASSIFIER)
    references = list_references(folder)
    y = np.arange(12) % 2
    folds = KFold(3, shuffle=True, random_state=0)
    cross_val_score(pipeline, references, y, cv=folds, error_score="raise")
    expected = []
    for train, test in folds.split(references):
        rows = [train[0], *train, *test]
        expected += [f"v_{row}.mrc" for row in rows]
    assert opened == expected


def test_cross_validation_of_the_whole_way(folder, data, opened):
    pipeline = make_pipeline(
        ReadVolumes(),
        ContrastivePretrainer(max_epochs=1, random_state=0),
        LogisticRegression(),
    )
    references = list_references(folder)
    y = np.arange(12) % 2
    scores = cross_val_score(pipeline, references, y, cv=3, error_score="raise")
    assert len(opened) == 3 * 13
    # The same as with the volumes themselves.
    expected = cross_val_score(pipeline[1:], data[0][:12], y, cv=3)
    np.testing.assert_array_equal(scores, expected)


def test_cached_pipeline(folder, opened, tmp_path):
    pipeline = make_pipeline(
        ReadVolumes(),
        FunctionTransformer(flatten),
        CLASSIFIER,
        memory=str(tmp_path / "cache"),
    )
    references = list_references(folder)
    y = np.arange(12) % 2
    first = pipeline.fit(references, y).predict(references)
    del opened[:]
    np.testing.assert_array_equal(
        pipeline.fit(references, y).predict(references), first
    )
    # What fit reads is cached, what predict reads is not.
    assert len(opened) == 12


def test_feature_names_and_output_containers(folder):
    references = list_references(folder)
    pipeline = make_pipeline(
        ReadVolumes(), ContrastivePretrainer(max_epochs=1, random_state=0)
    )
    pipeline.set_output(transform="pandas")
    embedding = pipeline.fit_transform(references)
    assert isinstance(embedding, pd.DataFrame)
    assert list(embedding) == list(pipeline.get_feature_names_out())
    reader = pipeline[0]
    names = reader.get_feature_names_out()
    assert len(names) == 8**3
    assert names[8 * 8 + 2 * 8 + 3] == "z1_y2_x3"
    volumes = reader.transform(references)
    assert isinstance(volumes, np.ndarray)
    np.testing.assert_array_equal(volumes, read_volumes(folder).volumes)
