import contextlib
import csv
import os

import numpy as np
import pytest
import zarr
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sksubtomo import ContrastivePretrainer, RB3DClassifier, _stored, workflows
from sksubtomo._stored import StoredVolumes
from sksubtomo._training import batches, inference
from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.io import (
    Subtomograms,
    read_particles,
    write_volume,
    write_volume_stack,
)
from sksubtomo.recipes import recommended
from sksubtomo.workflows import (
    classify_particles,
    default_classifier,
    default_pretrainer,
    embed_particles,
    pretrain_encoder,
)

N = 12
X = np.random.default_rng(0).normal(size=(N, 8, 8, 8)).astype(np.float32)
# Two classes that can be told apart after an epoch or two.
X[::2, 2:6, 2:6, 2:6] += 3
LABELS = ["nan", "001", "nan", "001", "nan", "001", *[""] * (N - 6)]
HEAD = (
    "# kept\r\n\r\ndata_\r\n\r\n_rlnTomoSubTomosAre2DStacks 0\r\n\r\n"
    "data_optics\r\n\r\nloop_\r\n_rlnOpticsGroup #1\r\n_rlnImagePixelSize #2\r\n"
    "1 10.0\r\n2 10.000\r\n\r\n"
    "data_particles\r\n\r\nloop_\r\n_rlnTomoName #1\r\n_rlnImageName #2\r\n"
    "_rlnClassNumber #3\r\n_rlnOpticsGroup #4\r\n_rlnRemark #5\r\n"
)
TAIL = "\r\ndata_more\r\n\r\n_rlnThing   'a  b' # also kept\r\n"


def name(i):
    return f"{i + 1:06d}@stack.mrc"


def row(i, number="7"):
    return f"001  {name(i)}\t{number} {i % 2 + 1}   \"odd 'one' é\""


@pytest.fixture
def folder(tmp_path):
    write_volume_stack(tmp_path / "stack.mrc", X, voxel_size=10)
    rows = "".join(f"{row(i)}\r\n" for i in range(N))
    text = f"{HEAD}{rows}{TAIL}"
    (tmp_path / "particles.star").write_bytes(text.encode())
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["particle", "label"])
        # In another order, and some without a line.
        writer.writerows([name(i), LABELS[i]] for i in reversed(range(N - 2)))
    return tmp_path


@pytest.fixture(scope="module")
def encoder():
    return default_pretrainer(max_epochs=1, device="cpu").fit(X)


@pytest.fixture
def classifier():
    return default_classifier(max_epochs=2, pretrainer__max_epochs=1, device="cpu")


@pytest.fixture
def no_training(monkeypatch):
    def fit(self, *arguments):
        pytest.fail("something was trained")

    monkeypatch.setattr(RB3DClassifier, "fit", fit)
    monkeypatch.setattr(ContrastivePretrainer, "fit", fit)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_defaults_are_the_recommended_recipe():
    classifier = default_classifier()
    expected = recommended(random_state=0, pretrainer__random_state=0)
    assert repr(classifier) == repr(expected)
    assert repr(default_pretrainer()) == repr(expected.pretrainer)
    assert default_pretrainer(max_epochs=3).max_epochs == 3
    assert default_classifier(pretrainer__lr=1.0).pretrainer.lr == 1


def test_the_same_star_comes_out(folder, classifier):
    output = folder / "out.star"
    result = classify_particles(
        folder / "particles.star",
        folder / "labels.csv",
        classifier=classifier,
        output=output,
    )
    text = output.read_bytes().decode()
    assert text.startswith(HEAD)
    assert text.endswith(TAIL)
    lines = text.split("\r\n")
    for i in range(N):
        number = str(result.class_numbers[i])
        (line,) = [line for line in lines if f"  {name(i)}\t" in line]
        assert line == (
            f"{row(i, number)} 7 {result.classes[i]} {result.probabilities[i]:.6f}"
        )
    loop = read_particles(output).loop
    assert loop.tags[-3:] == [
        "sksubtomoPreviousClassNumber",
        "sksubtomoClass",
        "sksubtomoProbability",
    ]
    assert result.star.block("particles").loops[0].column("sksubtomoClass") == list(
        result.classes
    )


def test_classes_are_those_of_the_estimators(folder, classifier):
    result = classify_particles(
        folder / "particles.star", folder / "labels.csv", classifier=classifier
    )
    expected = clone(classifier).set_params(unlabeled="").fit(X, LABELS)
    proba = expected.predict_proba(X)
    np.testing.assert_array_equal(result.classes, expected.predict(X))
    np.testing.assert_array_equal(result.probabilities, proba.max(axis=1))
    np.testing.assert_array_equal(result.labels, LABELS)
    np.testing.assert_array_equal(result.names, [name(i) for i in range(N)])
    # Labels stay text, and numbers count the sorted classes from 1.
    assert result.classifier.classes_.tolist() == ["001", "nan"]
    np.testing.assert_array_equal(
        result.class_numbers, np.where(result.classes == "001", 1, 2)
    )
    # The classifier that was given is as it was.
    assert not hasattr(classifier, "classes_")
    assert classifier.unlabeled is None
    assert not list(folder.glob("*out*"))


def test_labels_of_any_script(folder, encoder, classifier):
    labels = ["リボソーム", "20S «α»", "it's"] * 2 + [None] * (N - 6)
    result = classify_particles(
        folder / "particles.star",
        labels,
        encoder=encoder,
        classifier=classifier,
        output=folder / "out.star",
        model=folder / "model",
    )
    written = read_particles(folder / "out.star").loop.column("sksubtomoClass")
    assert written == result.classes.tolist()
    assert set(written) <= set(labels[:3])
    loaded = RB3DClassifier.load(folder / "model")
    np.testing.assert_array_equal(loaded.predict(X), result.classes)
    assert set(labels[:3]) == {*loaded.classes_}
    for label in labels[:3]:
        assert label in result.summary()


@pytest.mark.parametrize("saved", [False, True])
def test_an_encoder_is_where_it_starts(folder, encoder, classifier, saved):
    encoder.save(folder / "encoder")
    result = classify_particles(
        folder / "particles.star",
        folder / "labels.csv",
        encoder=folder / "encoder" if saved else encoder,
        classifier=classifier,
        embeddings=True,
        output=folder / "out.star",
    )
    fitted = result.classifier.pretrainer_
    assert (fitted is encoder) == (not saved)
    np.testing.assert_array_equal(result.embeddings, encoder.transform(X))
    columns = read_particles(folder / "out.star").loop.columns(
        [f"sksubtomoEmbedding{k + 1}" for k in range(256)]
    )
    written = np.array(list(columns.values()), dtype=np.float32).T
    np.testing.assert_array_equal(written, result.embeddings)


def test_fine_tuning_has_the_encoders_views(encoder):
    # The command's classifier has a pretrainer of its own, which the encoder replaces.
    given = default_classifier(pretrainer=default_pretrainer(max_epochs=2))
    for classifier in (None, given):
        prepared = workflows._prepare(classifier, encoder)
        assert prepared.pretrainer.estimator is encoder
        assert prepared.augmentation == "auto"
    own = default_classifier(augmentation__wedge=None)
    views = workflows._prepare(own, encoder).augmentation
    assert repr(views) == repr(RotateShiftNoise(wedge=None))


def test_labels_in_a_column(folder, encoder, classifier):
    star = folder / "particles.star"
    chosen = {"encoder": encoder, "classifier": classifier}
    first = classify_particles(star, LABELS, output=folder / "1.star", **chosen)
    table = read_particles(star)
    table.with_columns({"myLabel": LABELS}).write(folder / "labelled.star")
    own = classify_particles(
        folder / "labelled.star", labels_column="myLabel", **chosen
    )
    other = classify_particles(
        star, folder / "labelled.star", labels_column="myLabel", **chosen
    )
    for result in (own, other):
        np.testing.assert_array_equal(result.labels, LABELS)
        np.testing.assert_array_equal(result.classes, first.classes)
    # Numbers are labels as well, and all particles have one.
    again = classify_particles(star, labels_column="rlnOpticsGroup", **chosen)
    assert again.classifier.classes_.tolist() == ["1", "2"]
    assert (again.labels != "").all()


def test_other_sources_get_a_new_star(folder, encoder, classifier):
    particles = folder / "particles"
    particles.mkdir()
    for i, volume in enumerate(X):
        write_volume(particles / f"p{i}.mrc", volume, voxel_size=12.5)
    (folder / "short.csv").write_text("particle,label\np0.mrc,a\np11.mrc,b\n")
    result = classify_particles(
        particles,
        folder / "short.csv",
        encoder=encoder,
        classifier=classifier,
        embeddings=True,
        output=folder / "out.star",
    )
    assert result.star is None
    assert result.labels.tolist() == ["a", *[""] * (N - 2), "b"]
    written = read_particles(folder / "out.star")
    assert written.image_names == [f"particles/p{i}.mrc" for i in range(N)]
    assert written.voxel_size == 12.5
    assert written.loop.column("sksubtomoClass") == result.classes.tolist()
    assert written.loop.column("rlnClassNumber") == [
        str(number) for number in result.class_numbers
    ]
    assert "sksubtomoEmbedding256" in written.loop
    assert written.resolve_image(3)[0] == particles / "p3.mrc"
    # A stack is named by volume.
    stack = classify_particles(
        folder / "stack.mrc",
        folder / "labels.csv",
        encoder=encoder,
        classifier=classifier,
        output=folder / "stack.star",
    )
    assert read_particles(folder / "stack.star").image_names == list(stack.names)
    assert stack.labels.tolist() == LABELS


def test_the_new_star_finds_its_volumes(folder, encoder, classifier):
    chosen = {"encoder": encoder, "classifier": classifier}
    output = folder / "results" / "out.star"
    output.parent.mkdir()
    first = classify_particles(folder / "stack.mrc", LABELS, output=output, **chosen)
    assert read_particles(output).image_names[0] == "000001@../stack.mrc"
    again = classify_particles(output, labels_column="sksubtomoClass", **chosen)
    np.testing.assert_array_equal(again.labels, first.classes)


def test_the_input_can_be_replaced(folder, encoder, classifier):
    star = folder / "particles.star"
    with pytest.raises(FileExistsError, match="exists already"):
        classify_particles(star, LABELS, output=star)
    result = classify_particles(
        star,
        LABELS,
        encoder=encoder,
        classifier=classifier,
        output=star,
        overwrite=True,
    )
    assert read_particles(star).loop.column("sksubtomoClass") == list(result.classes)


def test_a_failed_write_leaves_the_old_star(folder, encoder, classifier, monkeypatch):
    star = folder / "particles.star"
    before = contents(folder)

    def replace(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no space left"):
        classify_particles(
            star,
            LABELS,
            encoder=encoder,
            classifier=classifier,
            output=star,
            overwrite=True,
        )
    assert contents(folder) == before


def test_summary_counts(folder, encoder, classifier):
    result = classify_particles(
        folder / "particles.star", LABELS, encoder=encoder, classifier=classifier
    )
    head, *lines = result.summary().splitlines()
    assert head.split() == [
        *["number", "class", "labelled", "assigned", "mean", "probability"]
    ]
    for number, (line, label) in enumerate(zip(lines, ["001", "nan"], strict=True), 1):
        found = line.split()
        assert found[:3] == [str(number), label, "3"]
        assert int(found[3]) == (result.classes == label).sum()


class MyViews(RotateShiftNoise):
    pass


MISTAKES = [
    ({}, "labels: there are none"),
    ({"labels": "no.csv"}, "no.csv: there is no such file"),
    ({"labels": "unknown.csv"}, "000099@stack.mrc"),
    ({"labels": "one_class.csv"}, r"one_class.csv: has 2 labelled particles of 12"),
    ({"labels": "nothing.csv"}, r"has 0 labelled particles of 12.*\(none\)"),
    ({"labels": "line_end.csv"}, "control character"),
    ({"labels": ["a", "b"]}, r"labels: has shape \(2,\); expected \(12,\)"),
    ({"labels": [1, 2] * 6}, "labels: has 1 of type int; expected text"),
    ({"labels": LABELS, "labels_column": "x"}, "labels that are not in a file"),
    ({"labels_column": "rlnNothing"}, "no column rlnNothing"),
    ({"labels_column": "x", "source": "stack.mrc"}, "not from a STAR file"),
    ({"labels": LABELS, "encoder": "nowhere"}, "nowhere: holds no saved model"),
    ({"labels": LABELS, "encoder": "other"}, r"shape \(8, 8, 9\), but the particles"),
    ({"labels": LABELS, "output": "stack.mrc"}, "stack.mrc: exists already"),
    ({"labels": LABELS, "output": "no/out.star"}, "no: there is no such folder"),
    ({"labels": LABELS, "output": "other"}, "other: is a folder"),
    ({"labels": LABELS, "model": "other"}, "other: exists already"),
    ({"labels": LABELS, "model": "."}, "is a folder of something else"),
    ({"labels": LABELS, "source": "no.star"}, "no.star: there is no such file"),
    ({"labels": LABELS, "colour": "red"}, "colour"),
    (
        {"labels": LABELS, "output": f"{'x' * 254}"},
        "xxx: cannot be written: .*too long",
    ),
    ({"labels": LABELS, "output": "a\0.star"}, "has a NUL"),
    ({"labels": LABELS, "model": "a\0"}, "has a NUL"),
    ({"labels": LABELS, "model": "x" * 300}, "too long"),
    ({"labels": LABELS, "model": "stack.mrc/m"}, "stack.mrc/m: cannot be written: Not"),
    ({"labels": LABELS, "model": "new", "output": "new"}, "expected two places"),
    ({"labels": LABELS, "model": "new/m", "output": "new"}, "expected two places"),
    (
        {"labels": LABELS, "model": "empty", "output": "empty/out.star"},
        "expected two places",
    ),
    (
        {
            "labels": LABELS,
            "model": "new",
            "classifier": RB3DClassifier(augmentation=MyViews()),
        },
        r"augmentation is MyViews.*cannot be saved",
    ),
    (
        {"labels": "nothing.csv", "output": "nothing.csv", "overwrite": True},
        "nothing.csv: is an input",
    ),
    ({"labels": LABELS, "output": "stack.mrc", "overwrite": True}, "is an input"),
    (
        {
            "labels": LABELS,
            "source": "link.mrc",
            "output": "link.mrc",
            "overwrite": True,
        },
        "link.mrc: is an input",
    ),
    ({"labels": LABELS, "output": "pipe", "overwrite": True}, "pipe: is no regular f"),
    ({"labels": "other"}, "other: is a folder"),
    ({"labels": ["a" * 201] * N}, "'aaa[a]*...' of 201 characters"),
    ({"labels": LABELS, "classifier": LogisticRegression()}, "of type LogisticReg"),
    (
        {"labels": LABELS, "classifier": RB3DClassifier(), "embeddings": True},
        "has no pretrainer",
    ),
]


@pytest.fixture
def mistaken(folder, monkeypatch):
    monkeypatch.chdir(folder)
    head = "particle,label\n"
    for stem, lines in {
        "unknown": "000001@stack.mrc,a\n000099@stack.mrc,b\n",
        "one_class": "000001@stack.mrc,a\n000002@stack.mrc,a\n000003@stack.mrc,\n",
        "nothing": "",
        "line_end": '000001@stack.mrc,a\n000002@stack.mrc,"b\nc"\n',
    }.items():
        (folder / f"{stem}.csv").write_text(head + lines)
    os.mkfifo("pipe")
    os.symlink("stack.mrc", "link.mrc")
    (folder / "empty").mkdir()
    other = np.zeros((2, 8, 8, 9), np.float32)
    default_pretrainer(max_epochs=1).fit(other).save("other")


@pytest.mark.usefixtures("mistaken")
@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_found_before_the_training(folder, request, arguments, message):
    request.getfixturevalue("no_training")
    before = contents(folder)
    arguments = {"source": "particles.star", **arguments}
    source = arguments.pop("source")
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        classify_particles(source, **arguments)
    assert contents(folder) == before


def test_pretrain_encoder(folder):
    pretrainer = default_pretrainer(max_epochs=1, device="cpu")
    fitted = pretrain_encoder(
        folder / "particles.star", pretrainer=pretrainer, output=folder / "encoder"
    )
    assert not hasattr(pretrainer, "encoder_")
    expected = clone(pretrainer).fit(X).transform(X)
    np.testing.assert_array_equal(fitted.transform(X), expected)
    loaded = ContrastivePretrainer.load(folder / "encoder")
    np.testing.assert_array_equal(loaded.transform(X), expected)
    with pytest.raises(FileExistsError, match="encoder: exists already"):
        pretrain_encoder(folder / "particles.star", output=folder / "encoder")
    pretrain_encoder(
        folder / "stack.mrc",
        pretrainer=clone(pretrainer).set_params(random_state=1),
        output=folder / "encoder",
        overwrite=True,
        invert_contrast=True,
    )
    replaced = ContrastivePretrainer.load(folder / "encoder")
    assert not np.array_equal(replaced.transform(X), expected)


@pytest.mark.usefixtures("no_training")
def test_what_cannot_be_saved_is_not_trained(folder):
    with pytest.raises(ValueError, match="augmentation is MyViews"):
        pretrain_encoder(
            folder / "stack.mrc",
            pretrainer=default_pretrainer(augmentation=MyViews()),
            output=folder / "encoder",
        )
    assert not (folder / "encoder").exists()


def test_the_classes_are_written_before_the_model(
    folder, encoder, classifier, monkeypatch
):
    def save(self, path):
        raise OSError("no space left")

    monkeypatch.setattr(RB3DClassifier, "save", save)
    with pytest.raises(OSError, match="no space left"):
        classify_particles(
            folder / "particles.star",
            LABELS,
            encoder=encoder,
            classifier=classifier,
            output=folder / "out.star",
            model=folder / "model",
        )
    assert "sksubtomoClass" in read_particles(folder / "out.star").loop


def test_missing_labels_of_pandas(folder, encoder, classifier):
    missing = [np.nan, None, np.float32("nan")]
    with contextlib.suppress(ImportError):
        import pandas as pd

        missing += [pd.NA, pd.NaT]
    labels = [*LABELS[:6], *missing, *[""] * (N - 6 - len(missing))]
    result = classify_particles(
        folder / "stack.mrc", labels, encoder=encoder, classifier=classifier
    )
    assert result.labels.tolist() == LABELS
    assert result.labels.dtype == object


def test_voxel_size_of_the_encoder(folder):
    pretrainer = default_pretrainer(max_epochs=1, device="cpu")
    output = folder / "encoder"
    pretrain_encoder(folder / "stack.mrc", pretrainer=pretrainer, output=output)
    assert ContrastivePretrainer.load(output).voxel_size_ == 10
    # Of one per cent or less nothing is said.
    embed_particles(folder / "stack.mrc", encoder=output, voxel_size=10.09)
    with pytest.warns(UserWarning, match="voxel size of 10 angstroms, but .* 10.2;"):
        embed_particles(folder / "stack.mrc", encoder=output, voxel_size=10.2)


@pytest.mark.parametrize(("factor", "shift"), [(2.1, 0), (0.4, 0), (1, 0.6)])
def test_intensities_of_the_encoder(encoder, classifier, factor, shift):
    names = np.arange(N).astype(str)
    scale = encoder.normalizer_.scale
    particles = Subtomograms(factor * X + np.float32(shift * scale), None, names)
    with pytest.warns(UserWarning, match="intensities of the particles are far"):
        classify_particles(particles, LABELS, encoder=encoder, classifier=classifier)
    by_volume = clone(encoder).set_params(normalize="volume").fit(X)
    embed_particles(particles, encoder=by_volume)


def test_transform_keeps_its_input(folder, encoder):
    os.link(folder / "stack.mrc", folder / "kept")
    (folder / "out.csv").symlink_to("stack.mrc")
    with pytest.raises(ValueError, match=r"out\.csv: is an input"):
        embed_particles(
            folder / "particles.star",
            encoder=encoder,
            output=folder / "out.npy",
            overwrite=True,
        )
    assert not (folder / "out.npy").exists()


def test_embed_particles(folder, encoder):
    encoder.save(folder / "encoder")
    output = folder / "embeddings.npy"
    result = embed_particles(
        folder / "particles.star", encoder=folder / "encoder", output=output
    )
    np.testing.assert_array_equal(result.embeddings, encoder.transform(X))
    np.testing.assert_array_equal(np.load(output), result.embeddings)
    with (folder / "embeddings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["particle"], *([name(i)] for i in range(N))]
    with pytest.raises(FileExistsError, match=r"embeddings\.npy: exists already"):
        embed_particles(folder / "stack.mrc", encoder=encoder, output=output)
    output.unlink()
    with pytest.raises(FileExistsError, match=r"embeddings\.csv: exists already"):
        embed_particles(folder / "stack.mrc", encoder=encoder, output=output)
    embed_particles(
        folder / "stack.mrc", encoder=encoder, output=output, overwrite=True
    )
    np.testing.assert_array_equal(np.load(output), result.embeddings)


def test_embed_particles_pretrains_without_an_encoder(folder):
    pretrainer = default_pretrainer(max_epochs=1, device="cpu")
    result = embed_particles(folder / "stack.mrc", pretrainer=pretrainer)
    expected = clone(pretrainer).fit(X)
    np.testing.assert_array_equal(result.embeddings, expected.transform(X))
    np.testing.assert_array_equal(result.pretrainer.transform(X), result.embeddings)


@pytest.fixture
def stored(folder, monkeypatch):
    """A Zarr store of the particles, which nothing reads as a whole."""
    zarr.create_array(folder / "stack.zarr", data=X, chunks=(1, 8, 8, 8))

    def take(self, rows):
        if len(rows) > 6:
            pytest.fail("all volumes were in memory at once")
        return take_some(self, rows)

    take_some = StoredVolumes.take
    monkeypatch.setattr(StoredVolumes, "take", take)
    monkeypatch.setattr(_stored, "_BLOCK_BYTES", 4 * X[0].nbytes)
    monkeypatch.setattr(batches, "_WINDOW_BYTES", 4 * X[0].nbytes)
    monkeypatch.setattr(inference, "_cpu_batch", lambda volume_shape: 4)
    return folder / "stack.zarr"


def test_embeddings_go_from_disk_to_disk(stored, encoder, monkeypatch):
    outputs = []

    def transform(self, X, out=None):
        outputs.append(out)
        return transform_stored(self, X, out=out)

    transform_stored = ContrastivePretrainer.transform
    monkeypatch.setattr(ContrastivePretrainer, "transform", transform)
    output = stored.with_name("embeddings.npy")
    result = embed_particles(stored, encoder=encoder, output=output)
    assert isinstance(outputs[0], np.memmap)
    assert isinstance(result.embeddings, np.memmap)
    expected = encoder.transform(X)
    np.testing.assert_array_equal(result.embeddings, expected)
    np.testing.assert_array_equal(np.load(output), expected)


def test_an_output_that_was_not_finished_is_not_there(folder, encoder, monkeypatch):
    def transform(self, X, out=None):
        out[0] = 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ContrastivePretrainer, "transform", transform)
    before = set(folder.iterdir())
    with pytest.raises(OSError, match=r"e\.npy: cannot be written: No space left"):
        embed_particles(folder / "stack.mrc", encoder=encoder, output=folder / "e.npy")
    assert set(folder.iterdir()) == before


def test_training_on_what_is_on_disk(stored, classifier):
    pretrainer = default_pretrainer(max_epochs=1, device="cpu", batch_size=4)
    encoder = pretrain_encoder(stored, pretrainer=pretrainer)
    expected = clone(pretrainer).fit(X)
    np.testing.assert_array_equal(encoder.transform(X), expected.transform(X))
    classifier.set_params(batch_size=4)
    result = classify_particles(stored, LABELS, classifier=classifier, encoder=encoder)
    classifier.set_params(unlabeled="", pretrainer=FrozenEstimator(encoder))
    np.testing.assert_array_equal(
        result.probabilities, classifier.fit(X, LABELS).predict_proba(X).max(axis=1)
    )


def test_only_the_first_process_writes(folder, encoder, classifier, monkeypatch):
    monkeypatch.setattr(workflows, "is_main", lambda: False)
    before = contents(folder)
    pretrainer = default_pretrainer(max_epochs=1, device="cpu")
    pretrain_encoder(folder / "stack.mrc", pretrainer=pretrainer, output=folder / "e")
    result = embed_particles(
        folder / "stack.mrc", encoder=encoder, output=folder / "e.npy"
    )
    np.testing.assert_array_equal(result.embeddings, encoder.transform(X))
    classify_particles(
        folder / "particles.star",
        folder / "labels.csv",
        classifier=classifier,
        encoder=encoder,
        output=folder / "out.star",
        model=folder / "model",
    )
    assert contents(folder) == before


@pytest.mark.usefixtures("no_training")
def test_embed_particles_finds_mistakes_first(folder, encoder):
    star = folder / "particles.star"
    with pytest.raises(ValueError, match="both given"):
        embed_particles(star, encoder=encoder, pretrainer=default_pretrainer())
    with pytest.raises(ValueError, match=r"ends in \.npy"):
        embed_particles(star, output=folder / "embeddings.txt")
    with pytest.raises(ValueError, match="encoder was trained on volumes of shape"):
        embed_particles(Subtomograms(X[:, :4], None, np.arange(N)), encoder=encoder)
    with pytest.raises(TypeError, match="'voxel_size'"):
        embed_particles(Subtomograms(X, None, np.arange(N)), voxel_size=3)
    with pytest.raises(ValueError, match="not fitted"):
        embed_particles(star, encoder=default_pretrainer())
