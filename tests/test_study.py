import csv
import json
import shutil
import warnings

import mrcfile
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sksubtomo import ContrastivePretrainer, SubtomogramClassifier
from sksubtomo._training.fitting import enough_epochs
from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.contrastive import MoCo
from sksubtomo.model_selection import LabelFractionSummary, _comparison
from sksubtomo.networks import RB3D
from sksubtomo.study import StudySettings, _report, prepare_study, run_study
from sksubtomo.study._data import read_labels
from sksubtomo.study._plan import plan_classifiers

# Few epochs of SwAV say that they were few.
pytestmark = pytest.mark.filterwarnings("ignore:pretraining swav")

METHODS = ["random", "simclr", "swav", "moco", "gupta2022", "recommended"]

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
        for method in METHODS
        for fraction, count in (("0.333333", "2"), ("1.0", "6"))
        for repeat in "01"
    )
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert all(float(row["seconds"]) > 0 for row in rows)


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
    body = [line for line in body if line[0].isdigit() and len(line) == 9]
    assert [(line[0], line[3]) for line in body] == [
        (count, method) for count in "26" for method in METHODS
    ]
    for line, summary in zip(body, finished.summaries, strict=True):
        assert float(line[4]) == pytest.approx(100 * summary.mean, abs=0.051)
        assert float(line[6]) == pytest.approx(100 * summary.std, abs=0.051)
    (durations,) = (line for line in table.splitlines() if "Pretraining took" in line)
    assert durations.count(",") == len(METHODS) - 2


def test_table_tells_how_long_each_row_was_trained():
    settings = tiny(epochs=7, fine_tune_epochs=None)
    pretraining, own, paper, best = _report._describe_rows(
        settings, plan_classifiers(settings)
    )
    assert pretraining.endswith(": 7 epochs on the training part")
    assert own.startswith("random, simclr, swav, moco: encoder rb3d, ")
    assert own.endswith(", fine-tuning 50 epochs")
    assert paper == "gupta2022: the recipe's own settings, fine-tuning 50 epochs"
    assert best == (
        "recommended: the recipe's own settings, fine-tuning at least 2,000 steps"
    )
    assert enough_epochs(16, batch_size=16) == 2000
    settings = tiny(fine_tune_epochs=3)
    _, *rows = _report._describe_rows(settings, plan_classifiers(settings))
    assert all(row.endswith("fine-tuning 3 epochs") for row in rows)


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
        "cells",
        "embedding.png",
        "label_fractions.csv",
        "settings.json",
        "slices.png",
        "table.txt",
    }


def test_difficulty_is_told():
    n_train, n_test = 60, 20
    for mean, verdict in [
        (0.5, "no better than chance"),
        (0.7, "no better than chance"),
        (0.8, "neither chance nor perfect"),
        (1.0, "all but perfect"),
    ]:
        row = LabelFractionSummary("random", 1.0, 30, 0, 5, mean, 0.0, float("nan"))
        few = LabelFractionSummary("random", 0.1, 3, 0, 5, 0.6, 0.0, float("nan"))
        text = _report._difficulty([few, row], n_train, n_test, 0.5)
        assert verdict in text
        assert f"{100 * mean:.1f} % (chance 50.0 %)" in text
    assert "was not run" in _report._difficulty([few], n_train, n_test, 0.5)


# --- what goes in -----------------------------------------------------------------


def test_pretraining_and_fine_tuning_see_the_training_part_only(tmp_path, monkeypatch):
    study = prepare_study(tiny(), tmp_path)
    seen = []
    for estimator in (ContrastivePretrainer, SubtomogramClassifier):
        fit = estimator.fit

        def spy(self, X, y=None, validation_data=None, fit=fit, **kwargs):
            seen.append((isinstance(self, ContrastivePretrainer), X, validation_data))
            if isinstance(self, ContrastivePretrainer):
                assert y is None
                return fit(self, X)
            return fit(self, X, y, validation_data=validation_data)

        monkeypatch.setattr(estimator, "fit", spy)
    result = study.run(n_jobs=1)
    (split,) = result.curve.splits_
    X_train = study.data.X[split.train]
    assert len(X_train) == 12
    assert sum(pretraining for pretraining, *_ in seen) == len(METHODS) - 1
    assert sum(not pretraining for pretraining, *_ in seen) == 2 * len(METHODS)
    for _, X, validation_data in seen:
        np.testing.assert_array_equal(X, X_train)
        assert validation_data is None
    held_out = np.delete(study.data.X, split.train, axis=0)
    equal = (held_out[:, None] == X_train[None]).all(axis=(2, 3, 4))
    assert not equal.any()


def test_methods_differ_in_their_start_only(tmp_path):
    settings = tiny(fine_tune_epochs=None)
    shown = {}
    for name, classifier in plan_classifiers(settings).items():
        parameters = classifier.get_params(deep=False)
        start = parameters.pop("pretrainer")
        shown[name] = {key: repr(value) for key, value in parameters.items()}
        if name in settings.methods:
            assert start.method is settings.methods[name]
            assert start.max_epochs == settings.epochs
            encoder = start.encoder
        elif name == "random":
            assert start is None
            encoder = parameters["encoder"]
        if name not in settings.recipes:
            assert encoder == settings.encoder
            del shown[name]["encoder"]
    defaults = {
        key: repr(value)
        for key, value in SubtomogramClassifier().get_params(deep=False).items()
    }
    for name in ("random", *settings.methods):
        changed = {key for key in shown[name] if shown[name][key] != defaults[key]}
        assert changed == {"device", "augmentation", "max_epochs"}


def test_recipes_are_as_they_are_but_for_the_epochs():
    from sksubtomo.recipes import gupta2022

    settings = tiny(epochs=7, fine_tune_epochs=3)
    planned = plan_classifiers(settings)["gupta2022"]
    given, own = planned.get_params(), gupta2022().get_params()
    changed = {name for name in own if repr(given[name]) != repr(own[name])}
    assert changed - {"pretrainer"} == {
        "max_epochs",
        "device",
        "pretrainer__max_epochs",
        "pretrainer__device",
    }
    assert (given["max_epochs"], given["pretrainer__max_epochs"]) == (3, 7)
    unchanged = plan_classifiers(tiny(fine_tune_epochs=None))["gupta2022"]
    assert unchanged.max_epochs == own["max_epochs"]
    without = plan_classifiers(tiny(recipes=()))
    assert list(without) == ["random", "simclr", "swav", "moco"]


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
        recipes=(),
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
            (split,) = result.curve.splits_
            np.testing.assert_array_equal(
                validation_data[0], study.data.X[split.validation]
            )
    assert "14 further validation labels" in result.table


def test_random_rows_do_not_depend_on_the_methods(finished, tmp_path):
    settings = tiny(repeats=2, methods={"moco": MoCo(momentum=0.99)}, recipes=())
    result = run_study(settings, tmp_path, n_jobs=1)
    expected = [row for row in finished.rows if row.method in ("random", "moco")]
    assert [(row.method, row.repeat, row.accuracy) for row in result.rows] == [
        (row.method, row.repeat, row.accuracy) for row in expected
    ]


def test_results_do_not_depend_on_the_number_of_processes(finished, tmp_path):
    result = run_study(tiny(repeats=2), tmp_path / "parallel", n_jobs=2)
    assert without_seconds(read(result.output / "label_fractions.csv")) == (
        without_seconds(read(finished.output / "label_fractions.csv"))
    )


def test_seed_changes_the_study(tmp_path):
    one, other = (
        prepare_study(tiny(seed=seed), tmp_path / str(seed)) for seed in (0, 1)
    )
    assert not np.array_equal(one.data.X, other.data.X)
    first, second = (study.comparison.pretrainings()[0] for study in (one, other))
    assert first.seed != second.seed
    assert not np.array_equal(first.split.train, second.split.train)


# --- interruption -----------------------------------------------------------------


def test_missing_cells_only_are_computed_again(finished, copy, monkeypatch):
    table = (copy / "label_fractions.csv").read_bytes()
    cells = [
        path for path in (copy / "cells").iterdir() if "method" in path.read_text()
    ]
    for path in cells[:3]:
        path.unlink()
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
    after = (copy / "label_fractions.csv").read_bytes()
    changed = zip(table.splitlines(), after.splitlines(), strict=True)
    assert sum(one != other for one, other in changed) <= 3
    assert without_seconds(read(copy / "label_fractions.csv")) == without_seconds(
        read(finished.output / "label_fractions.csv")
    )


def test_interrupted_study_continues(finished, tmp_path, monkeypatch):
    run = _comparison.Fit.run
    calls = []

    def interrupted(self, *args):
        calls.append(self.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, *args)

    monkeypatch.setattr(_comparison.Fit, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny(repeats=2), tmp_path / "s", n_jobs=1)
    cells = tmp_path / "s" / "cells"
    kept = {path: path.read_bytes() for path in cells.iterdir()}
    assert len(kept) == len(METHODS) - 1 + 3

    monkeypatch.setattr(ContrastivePretrainer, "fit", None)
    run_study(tiny(repeats=2), tmp_path / "s", n_jobs=1)
    assert len(calls) == 4 + 4 * len(METHODS) - 3
    assert all(path.read_bytes() == content for path, content in kept.items())
    path = tmp_path / "s" / "label_fractions.csv"
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
    assert result.table == finished.table


@pytest.mark.filterwarnings("ignore:Exception while loading results")
def test_damaged_pretraining_is_done_again(finished, copy):
    for path in (copy / "cache").rglob("output.pkl"):
        path.write_bytes(path.read_bytes()[:1000])
    result = run_study(tiny(repeats=2), copy, n_jobs=1)
    assert result.rows == finished.rows


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
    monkeypatch.setattr(_comparison, "__version__", "99")
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


def test_table_without_settings_is_refused(copy):
    (copy / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings\.json, which says what made it"):
        prepare_study(tiny(repeats=2), copy)


@pytest.mark.parametrize("name", ["label_fractions.csv", "cells", "cache"])
def test_leftovers_without_settings_are_refused(copy, name):
    for path in copy.iterdir():
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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
    settings = tiny(
        lr=1e20, methods={"moco": MoCo()}, encoder=RB3D(), epochs=5, recipes=()
    )
    with pytest.raises(FloatingPointError, match="pretraining moco, split 0: "):
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
            "recipes": (),
            **changes,
        }
    )


def test_own_volumes_end_to_end(own):
    study = prepare_study(own_settings(own), own / "out")
    stack = mrcfile.read(own / "own.mrc")
    np.testing.assert_array_equal(study.data.X, stack)
    assert study.data.y.tolist() == ["empty", "full"] * 10
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
        ({"methods": {"gupta2022": MoCo()}}, "'gupta2022'"),
        ({"recipes": ("gupta",)}, "recipes holds 'gupta'"),
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


def test_views_may_be_an_object():
    classifier = plan_classifiers(tiny(views=RotateShiftNoise(noise=0.5)))["simclr"]
    assert classifier.pretrainer.augmentation.noise == 0.5


def test_split_needs_five_of_each_of_two_classes(tmp_path):
    with pytest.raises(ValueError, match=r"class 'apofer.* has 4 volumes.*at least 5"):
        prepare_study(tiny(n_per_class=4), tmp_path / "out")
    with pytest.raises(ValueError, match="all 9 volumes are of class 'groel'"):
        prepare_study(tiny(structures=["groel"], n_per_class=9), tmp_path / "out")
    assert not (tmp_path / "out").exists()
