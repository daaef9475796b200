import csv
import json
import shutil
import warnings

import mrcfile
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sksubtomo import ContrastivePretrainer, SubtomogramClassifier
from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.contrastive import MoCo
from sksubtomo.model_selection import LabelFractionSummary
from sksubtomo.networks import RB3D
from sksubtomo.study import (
    StudySettings,
    _folder,
    _report,
    _work,
    prepare_study,
    run_study,
)
from sksubtomo.study._data import read_labels, split_by_class
from sksubtomo.study._plan import plan_label_settings

# Few epochs of SwAV say that they were few.
pytestmark = pytest.mark.filterwarnings("ignore:pretraining swav")

COLUMNS = [
    "method",
    "label_fraction",
    "labels_per_class",
    "validation_labels",
    "repeat",
    "accuracy",
    "seconds",
]


def tiny(**changes):
    defaults = {
        "structures": ("groel", "apoferritin"),
        "size": 8,
        "n_per_class": 10,
        "epochs": 1,
        "fine_tune_epochs": 2,
        "repeats": 1,
        "fractions": (1.0,),
        "labels_per_class": (2,),
    }
    return StudySettings(**{**defaults, **changes})


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{name: row[name] for name in COLUMNS[:-1]} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two repeats that ran through; tests work on copies."""
    output = tmp_path_factory.mktemp("study") / "study"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return run_study(tiny(repeats=2), output, n_jobs=1)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.output, tmp_path / "copy")


@pytest.fixture
def no_training(monkeypatch):
    """Fail where something is trained that should have been kept."""

    def fail(self, *args, **kwargs):
        raise AssertionError(f"{type(self).__name__} was fitted")

    monkeypatch.setattr(ContrastivePretrainer, "fit", fail)
    monkeypatch.setattr(SubtomogramClassifier, "fit", fail)


# --- what comes out ---------------------------------------------------------------


def test_table_has_every_cell_once(finished):
    path = finished.output / "label_fractions.csv"
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    rows = read(path)
    cells = [
        (row["method"], row["label_fraction"], row["labels_per_class"], row["repeat"])
        for row in rows
    ]
    assert sorted(cells) == sorted(
        (method, fraction, count, repeat)
        for method in ("random", "simclr", "swav", "moco")
        for fraction, count in (("0.333333", "2"), ("1.0", "6"))
        for repeat in "01"
    )
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_paper_views_are_beside_and_at_few_labels_only(finished):
    rows = read(finished.output / "label_fractions_crop_affine.csv")
    assert sorted((row["method"], row["labels_per_class"]) for row in rows) == sorted(
        (method, "2") for method in ("simclr", "swav", "moco") for _ in range(2)
    )


def test_printed_table(finished):
    table = finished.table
    assert (finished.output / "table.txt").read_text("utf-8") == table
    assert "2 classes: apoferritin, groel" in table
    assert "8 x 8 x 8" in table
    assert "SNR 1" in table
    assert "chance 50.0 %" in table
    assert "Random initialisation with all 12 training labels reaches" in table
    body = [
        line.split() for line in table.splitlines() if " ± " in line and "." in line
    ]
    body = [line for line in body if line[0].isdigit() and len(line) == 10]
    assert [(line[0], line[3], line[4]) for line in body] == [
        ("2", "-", "random"),
        *(("2", "rotate_shift_noise", name) for name in ("simclr", "swav", "moco")),
        *(("2", "crop_affine", name) for name in ("simclr", "swav", "moco")),
        ("6", "-", "random"),
        *(("6", "rotate_shift_noise", name) for name in ("simclr", "swav", "moco")),
    ]
    for line, summary in zip(body[:4], finished.summaries[:4], strict=True):
        assert float(line[5]) == pytest.approx(100 * summary.mean, abs=0.051)
        assert float(line[7]) == pytest.approx(100 * summary.std, abs=0.051)


@pytest.mark.parametrize("name", ["accuracy", "slices", "embedding"])
def test_figures_show_something(finished, name):
    import matplotlib.image

    image = matplotlib.image.imread(finished.output / f"{name}.png")
    assert min(image.shape[:2]) > 300
    assert (image[..., :3].std(axis=(0, 1)) > 0.02).all()


def test_nothing_else_is_left_behind(finished):
    assert {path.name for path in finished.output.iterdir()} == {
        "accuracy.png",
        "cache",
        "embedding.png",
        "label_fractions.csv",
        "label_fractions_crop_affine.csv",
        "settings.json",
        "slices.png",
        "table.txt",
    }


def test_difficulty_is_told(tmp_path):
    study = prepare_study(tiny(n_per_class=50), tmp_path)
    for mean, verdict in [
        (0.5, "no better than chance"),
        (0.7, "no better than chance"),
        (0.8, "neither chance nor perfect"),
        (1.0, "all but perfect"),
    ]:
        row = LabelFractionSummary("random", 1.0, 30, 0, 5, mean, 0.0, float("nan"))
        few = LabelFractionSummary("random", 0.1, 3, 0, 5, 0.6, 0.0, float("nan"))
        text = _report._difficulty(study.parts, [few, row], 0.5)
        assert verdict in text
        assert f"{100 * mean:.1f} % (chance 50.0 %)" in text
    assert "was not run" in _report._difficulty(study.parts, [few], 0.5)


# --- what goes in -----------------------------------------------------------------


def test_pretraining_and_fine_tuning_see_the_training_part_only(tmp_path, monkeypatch):
    study = prepare_study(tiny(), tmp_path)
    seen = []
    for estimator in (ContrastivePretrainer, SubtomogramClassifier):
        fit = estimator.fit

        def spy(self, X, y=None, validation_data=None, fit=fit, **kwargs):
            seen.append((type(self), X, validation_data))
            if isinstance(self, ContrastivePretrainer):
                assert y is None
                return fit(self, X)
            return fit(self, X, y, validation_data=validation_data)

        monkeypatch.setattr(estimator, "fit", spy)
    study.run(n_jobs=1)
    parts = study.parts
    assert len(parts.X_train) == 12
    assert sum(kind is ContrastivePretrainer for kind, *_ in seen) == 6
    assert sum(kind is SubtomogramClassifier for kind, *_ in seen) == 4 * 2 + 3
    for _, X, validation_data in seen:
        np.testing.assert_array_equal(X, parts.X_train)
        assert validation_data is None
    held_out = np.concatenate([parts.X_val, parts.X_test])
    equal = (held_out[:, None] == parts.X_train[None]).all(axis=(2, 3, 4))
    assert not equal.any()


def test_methods_share_labels_seed_and_settings_within_a_repeat(tmp_path):
    study = prepare_study(tiny(repeats=2), tmp_path)
    parameters = {}
    for cell in study._cells():
        shown = {
            name: repr(value)
            for name, value in cell.classifier.get_params().items()
            if "__" in name or name != "estimator"
        }
        key = (cell.setting.labels_per_class, cell.repeat)
        parameters.setdefault(key, []).append(shown)
    assert len(parameters) == 4
    for shown in parameters.values():
        assert len(shown) >= 4
        assert all(item == shown[0] for item in shown)
    seeds = {shown[0]["random_state"] for shown in parameters.values()}
    assert len(seeds) == 4


def test_fine_tuning_has_the_classifiers_own_defaults(tmp_path):
    study = prepare_study(tiny(fine_tune_epochs=None), tmp_path)
    given = study._cells()[0].classifier.estimator.get_params(deep=False)
    defaults = SubtomogramClassifier().get_params(deep=False)
    changed = {name for name, value in given.items() if value != defaults[name]}
    assert changed == {"encoder", "device", "random_state"}


def test_validation_labels_from_twenty_a_class(tmp_path, monkeypatch):
    used = []
    fit = SubtomogramClassifier.fit

    def spy(self, X, y, validation_data=None):
        used.append((int((y != -1).sum()), validation_data))
        return fit(self, X, y, validation_data=validation_data)

    monkeypatch.setattr(SubtomogramClassifier, "fit", spy)
    settings = tiny(
        n_per_class=35,
        fractions=(),
        labels_per_class=(19, 20),
        methods={"moco": MoCo(queue_size=16)},
        paper_views=None,
        fine_tune_epochs=1,
    )
    study = prepare_study(settings, tmp_path)
    result = study.run(n_jobs=1)
    counted = {row.labels_per_class: row.validation_labels for row in result.rows}
    assert counted == {19: 0, 20: 14}
    assert len(used) == 4
    for n_labels, validation_data in used:
        assert (validation_data is None) == (n_labels == 38)
        if validation_data is not None:
            np.testing.assert_array_equal(validation_data[0], study.parts.X_val)
    assert "14 further validation labels" in result.table
    assert not (tmp_path / "label_fractions_crop_affine.csv").exists()


def test_random_rows_do_not_depend_on_the_methods(finished, tmp_path):
    settings = tiny(repeats=2, methods={"moco": MoCo()}, paper_views=None)
    result = run_study(settings, tmp_path, n_jobs=1)
    expected = [row for row in finished.rows if row.method in ("random", "moco")]
    assert [(row.method, row.repeat, row.accuracy) for row in result.rows] == [
        (row.method, row.repeat, row.accuracy) for row in expected
    ]


def test_results_do_not_depend_on_the_number_of_processes(finished, tmp_path):
    result = run_study(tiny(repeats=2), tmp_path / "parallel", n_jobs=2)
    for name in ("label_fractions.csv", "label_fractions_crop_affine.csv"):
        assert without_seconds(read(result.output / name)) == without_seconds(
            read(finished.output / name)
        )


def test_workers_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = prepare_study(tiny(), "relative")
    assert all(task.path.is_absolute() for task in study._pretrainings())


def test_seed_changes_the_study(tmp_path):
    one, other = (
        prepare_study(tiny(seed=seed), tmp_path / str(seed)) for seed in (0, 1)
    )
    assert not np.array_equal(one.parts.X_train, other.parts.X_train)
    assert one._pretrainings()[0].pretrainer.random_state != (
        other._pretrainings()[0].pretrainer.random_state
    )


# --- interruption -----------------------------------------------------------------


def test_missing_cells_only_are_computed_again(finished, copy, monkeypatch):
    path = copy / "label_fractions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[6:]))
    fitted = []
    fit = SubtomogramClassifier.fit
    monkeypatch.setattr(
        SubtomogramClassifier,
        "fit",
        lambda self, *args, **kwargs: fitted.append(1) or fit(self, *args, **kwargs),
    )
    monkeypatch.setattr(ContrastivePretrainer, "fit", None)
    run_study(tiny(repeats=2), copy, n_jobs=1)
    assert len(fitted) == 3
    after = path.read_text().splitlines(keepends=True)
    assert after[:3] + after[6:] == lines[:3] + lines[6:]
    assert without_seconds(read(path)) == without_seconds(
        read(finished.output / "label_fractions.csv")
    )


def test_interrupted_study_continues(finished, tmp_path, monkeypatch):
    fine_tune = _work._fine_tune
    calls = []

    def interrupted(cell, parts):
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fine_tune(cell, parts)

    monkeypatch.setattr(_work, "_fine_tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(repeats=2), tmp_path / "s", n_jobs=1)
    path = tmp_path / "s" / "label_fractions.csv"
    kept = path.read_text().splitlines()
    assert len(kept) == 1 + 3

    monkeypatch.setattr(ContrastivePretrainer, "fit", None)
    run_study(tiny(repeats=2), tmp_path / "s", n_jobs=1)
    assert len(calls) == 4 + 22 - 3
    assert set(kept) <= set(path.read_text().splitlines())
    assert without_seconds(read(path)) == without_seconds(
        read(finished.output / "label_fractions.csv")
    )


def test_finished_study_trains_nothing(finished, copy, no_training):
    before = (copy / "label_fractions.csv").read_bytes()
    (copy / "accuracy.png").unlink()
    result = run_study(tiny(repeats=2), copy, n_jobs=1)
    assert (copy / "label_fractions.csv").read_bytes() == before
    assert (copy / "accuracy.png").exists()
    assert result.rows == finished.rows
    assert result.paper_rows == finished.paper_rows
    assert result.table == finished.table


def test_damaged_pretraining_is_done_again(copy):
    path = copy / "cache" / "rotate_shift_noise-moco.joblib"
    intact = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    run_study(tiny(repeats=2), copy, n_jobs=1)
    assert path.stat().st_size > 0.9 * intact


def test_other_settings_are_refused(copy):
    before = (copy / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=r"epochs \(1 there, 3 now\).*Choose another"):
        run_study(tiny(repeats=2, epochs=3), copy)
    with pytest.raises(ValueError, match="encoder"):
        run_study(tiny(repeats=2, encoder=RB3D()), copy)
    with pytest.raises(ValueError, match=r"seed.*size"):
        run_study(tiny(repeats=2, seed=1, size=9), copy)
    assert (copy / "settings.json").read_bytes() == before


def test_another_version_is_refused(copy, monkeypatch):
    monkeypatch.setattr(_folder, "__version__", "99")
    with pytest.raises(ValueError, match=r"sksubtomo \(.* there, '99' now\)"):
        run_study(tiny(repeats=2), copy)


def test_settings_are_recorded(finished):
    recorded = json.loads((finished.output / "settings.json").read_text())
    assert recorded["settings"]["seed"] == 0
    assert recorded["settings"]["encoder"] == "rb3d"
    assert recorded["settings"]["views"]["class"] == "RotateShiftNoise"
    assert recorded["settings"]["methods"]["moco"]["queue_size"] == 128
    assert set(recorded["versions"]) >= {"sksubtomo", "torch", "scikit-learn"}


def test_infinite_snr_is_recorded_as_json(tmp_path):
    prepare_study(tiny(snr=float("inf")), tmp_path)
    text = (tmp_path / "settings.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["settings"]["snr"] == "inf"
    prepare_study(tiny(snr=float("inf")), tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("accuracy", "score"), "line 1: expected the columns"),
        (lambda t: t[:-3], "cut short"),
        (lambda t: t + "random,1.0,6\n", r"line 18: has 3 fields"),
        (lambda t: t.replace("\nmoco,1.0,6,0,1,", "\nmoco,1.0,6,0,x,"), "line 17: inv"),
        (lambda t: t.replace("\nmoco,1.0,6,0,1,", "\nmoco,1.0,6,0,7,"), "line 17: is"),
        (lambda t: t.replace("\nmoco,1.0,6,0,1,", "\nmoco,1.0,6,9,1,"), "line 17: is"),
        (lambda t: t.replace("\nmoco,1.0,6,0,1,", "\nmoco,1.0,6,0,0,"), "17: repeats"),
        (lambda t: t.replace("\nmoco,1.0,6,0,1,", "\nmoco,1.0,6,0,1,5"), "17: accura"),
    ],
)
def test_changed_table_is_refused(copy, edit, message):
    path = copy / "label_fractions.csv"
    changed = edit(path.read_text())
    path.write_text(changed)
    with pytest.raises(ValueError, match=rf"label_fractions\.csv, .*{message}"):
        prepare_study(tiny(repeats=2), copy)
    assert path.read_text() == changed


def test_table_without_settings_is_refused(copy):
    (copy / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings\.json, which says what made it"):
        prepare_study(tiny(repeats=2), copy)


@pytest.mark.parametrize("name", ["label_fractions_crop_affine.csv", "cache"])
def test_leftovers_without_settings_are_refused(copy, name):
    for path in copy.iterdir():
        if path.is_file() and path.name != name:
            path.unlink()
    if name != "cache":
        shutil.rmtree(copy / "cache")
    with pytest.raises(ValueError, match=rf"{name} exists, but"):
        prepare_study(tiny(repeats=2), copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_broken_settings_are_refused(copy, text):
    (copy / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json: "):
        prepare_study(tiny(repeats=2), copy)


def test_output_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="expected a folder"):
        prepare_study(tiny(), tmp_path / "file")


def test_divergence_names_the_training(tmp_path):
    settings = tiny(lr=1e20, methods={"moco": MoCo()}, encoder=RB3D(), epochs=5)
    with pytest.raises(FloatingPointError, match="pretraining moco with rotate_shift"):
        run_study(settings, tmp_path, n_jobs=1)


# --- the user's own volumes -------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A stack whose two classes even two epochs can tell apart."""
    rng = np.random.default_rng(0)
    labels = np.array(["empty", "full"] * 10)
    volumes = rng.normal(size=(20, 8, 8, 8)).astype(np.float32)
    volumes[labels == "full", 2:6, 2:6, 2:6] += 5
    mrcfile.write(tmp_path / "own.mrc", volumes, voxel_size=13.5)
    lines = ["id,label", *(f"{i},{label}" for i, label in enumerate(labels))]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n", "utf-8-sig")
    return tmp_path


def own_settings(folder, **changes):
    return tiny(
        **{
            "structures": None,
            "data": folder / "own.mrc",
            "labels": folder / "own.csv",
            "fine_tune_epochs": 25,
            "methods": {"moco": MoCo()},
            "paper_views": None,
            **changes,
        }
    )


def test_own_volumes_end_to_end(own):
    study = prepare_study(own_settings(own), own / "out")
    stack = mrcfile.read(own / "own.mrc")
    for X, y in (
        (study.parts.X_train, study.parts.y_train),
        (study.parts.X_test, study.parts.y_test),
    ):
        for volume, label in zip(X, y, strict=True):
            (row,) = np.flatnonzero((stack == volume).all(axis=(1, 2, 3)))
            assert label == ["empty", "full"][row % 2]
    result = study.run(n_jobs=1)
    assert "2 classes: empty, full" in result.table
    assert "voxels of 13.5 Å, from own.mrc" in result.table
    (random,) = [
        row for row in result.rows if (row.method, row.label_fraction) == ("random", 1)
    ]
    assert random.accuracy == 1.0


def test_own_files_are_known_by_their_content(own):
    prepare_study(own_settings(own), own / "out")
    (own / "moved").mkdir()
    for name in ("own.mrc", "own.csv"):
        shutil.copy(own / name, own / "moved" / name)
    prepare_study(own_settings(own / "moved"), own / "out")
    with mrcfile.mmap(own / "own.mrc", mode="r+") as mrc:
        mrc.data[3, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="differs in the contents of data"):
        prepare_study(own_settings(own), own / "out")


def test_number_of_labels_must_fit(own):
    path = own / "own.csv"
    path.write_text("\n".join(path.read_text("utf-8-sig").splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"19 labels, but .*own\.mrc holds 20"):
        prepare_study(own_settings(own), own / "out")


def test_not_finite_volume_is_named(own):
    with mrcfile.mmap(own / "own.mrc", mode="r+") as mrc:
        mrc.data[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="volume 3 "):
        prepare_study(own_settings(own), own / "out")


def test_bad_input_leaves_no_folder(own):
    (own / "own.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"own\.csv"):
        prepare_study(own_settings(own), own / "out")
    assert not (own / "out").exists()


def test_labels_are_read_as_text(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text('label,x\n 001 ,1\n"a,b",2\n\n\n', "utf-8-sig")
    np.testing.assert_array_equal(read_labels(path), ["001", "a,b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class\na\n", r"columns \['class'\]"),
        ("label,label\na,b\n", "exactly one"),
        ("label\na\n\nb\n", "line 3: the label is empty"),
        ("x,label\n1,a\n2, \n", "line 3: the label is empty"),
        ("x,label\n1\n2,a\n", "line 2: the label is empty"),
        ("", "is empty"),
        (b"label\n\xff\xfe\n", "UTF-8"),
    ],
)
def test_bad_labels(tmp_path, text, message):
    path = tmp_path / "l.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"l\.csv.*{message}"):
        read_labels(path)


# --- settings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"repeats": 1.5}, "repeats=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"fine_tune_epochs": 0}, "fine_tune_epochs=0"),
        ({"fractions": (0.0,)}, "fractions holds 0.0"),
        ({"fractions": (1.5,)}, "fractions holds 1.5"),
        ({"fractions": (float("nan"),)}, "fractions holds nan"),
        ({"labels_per_class": (0,)}, "labels_per_class holds 0"),
        ({"fractions": (), "labels_per_class": ()}, "both empty"),
        ({"methods": {}}, "methods"),
        ({"methods": {"random": MoCo()}}, "'random'"),
        ({"methods": {"moco": "mocco"}}, "methods.'moco'.='mocco'"),
        ({"views": "crop"}, "views='crop'"),
        ({"views": "crop_affine"}, "views and paper_views are both crop_affine"),
        ({"data": "a.mrc"}, "data was given without labels"),
        ({"labels": "a.csv"}, "labels was given without data"),
        ({"data": "a.mrc", "labels": "a.csv"}, "data and structures"),
    ],
)
def test_settings_reject(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_unknown_device_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="device='gpu'"):
        prepare_study(tiny(device="gpu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_views_may_be_an_object(tmp_path):
    study = prepare_study(tiny(views=RotateShiftNoise(noise=0.5)), tmp_path)
    task = study._pretrainings()[0]
    assert task.pretrainer.augmentation.noise == 0.5
    assert task.path.name == "rotate_shift_noise-simclr.joblib"


@pytest.mark.parametrize("n", [5, 7, 10, 13, 100])
def test_split_is_60_20_20_in_each_class(n):
    labels = np.array(["a"] * n + ["b"] * 2 * n)
    parts = split_by_class(labels, np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(3 * n))
    for rows, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        for name, count in (("a", n), ("b", 2 * n)):
            assert abs(np.sum(labels[rows] == name) - share * count) <= 1
            assert np.sum(labels[rows] == name) >= 1


def test_split_needs_five_of_each_of_two_classes():
    with pytest.raises(ValueError, match=r"class 'b' has 4 volumes.*at least 5"):
        split_by_class(np.array(["a"] * 9 + ["b"] * 4), np.random.default_rng(0))
    with pytest.raises(ValueError, match="all 9 volumes are of class 'a'"):
        split_by_class(np.array(["a"] * 9), np.random.default_rng(0))


def test_label_settings_count_what_is_used():
    y = np.array(["a"] * 40 + ["b"] * 80)
    five, quarter, everything = plan_label_settings(y, [1.0, 0.25], [5])
    assert (five.per_class, quarter.per_class, everything.per_class) == (5, None, None)
    assert (quarter.label_fraction, everything.label_fraction) == (0.25, 1.0)
    assert (quarter.labels_per_class, quarter.n_labels, quarter.few) == (10, 30, False)
    assert (five.labels_per_class, five.n_labels, five.few) == (5, 10, True)
    assert five.label_fraction == pytest.approx(10 / 120, abs=1e-6)
    assert (everything.labels_per_class, everything.n_labels) == (40, 120)
    assert [s.validated for s in (five, quarter, everything)] == [False, False, True]


def test_settings_of_the_same_labels_are_one():
    y = np.repeat(["a", "b"], 20)
    (few, everything) = plan_label_settings(y, [0.25, 0.99, 1.0], [5, 20, 30])
    assert (few.label_fraction, few.per_class, few.few) == (0.25, None, True)
    assert (everything.label_fraction, everything.per_class) == (1.0, None)


def test_fewest_labels_are_few_if_no_number_is_asked_for():
    y = np.repeat(["a", "b"], 20)
    settings = plan_label_settings(y, [1.0, 0.5, 0.25], [])
    assert [(s.label_fraction, s.few) for s in settings] == [
        (0.25, True),
        (0.5, False),
        (1.0, False),
    ]
