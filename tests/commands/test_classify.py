import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from sksubtomo import RB3DClassifier, workflows
from sksubtomo._training.fitting import (
    _ENOUGH_EPOCHS,
    _ENOUGH_PRETRAINING_EPOCHS,
    _ENOUGH_STEPS,
)
from sksubtomo.cli import main
from sksubtomo.io import read_particles, write_particles, write_volume_stack
from sksubtomo.workflows import (
    classify_particles,
    default_classifier,
    default_pretrainer,
)

N = 6
X = np.random.default_rng(0).normal(size=(N, 8, 8, 8)).astype(np.float32)
NAMES = [f"{i + 1:06d}@stack.mrc" for i in range(N)]
LABELS = ["β", "001", "β", "", "", ""]
QUICK = ["--epochs", "1", "--fine-tune-epochs", "2", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_volume_stack(tmp_path / "stack.mrc", X, voxel_size=10)
    columns = {"rlnImageName": NAMES, "rlnClassNumber": [4] * N, "mine": LABELS}
    write_particles(
        tmp_path / "particles.star", columns, optics={"rlnImagePixelSize": 10.0}
    )
    lines = [f"{name},{label}\n" for name, label in zip(NAMES, LABELS, strict=True)]
    (tmp_path / "labels.csv").write_text(
        "particle,label\n" + "".join(lines), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classify(*arguments):
    return main(["classify", "particles.star", *arguments])


def test_the_whole_way(folder, capsys):
    arguments = ["--labels", "labels.csv", "--output", "out.star", *QUICK]
    assert classify(*arguments, "--save-model", "model", "--seed", "5") == 0
    output = capsys.readouterr()
    *summary, last = output.out.splitlines()
    assert last == "6 classified particles are in out.star."
    for title in ("pretraining", "fine-tuning"):
        assert f"{title}: 100%" in output.err
    expected = classify_particles(
        "particles.star",
        "labels.csv",
        classifier=default_classifier(
            max_epochs=2,
            random_state=5,
            pretrainer__max_epochs=1,
            pretrainer__random_state=5,
            device="cpu",
            pretrainer__device="cpu",
        ),
    )
    assert summary == expected.summary().splitlines()
    loop = read_particles("out.star").loop
    assert loop.column("sksubtomoClass") == expected.classes.tolist()
    assert loop.column("rlnClassNumber") == [
        str(number) for number in expected.class_numbers
    ]
    assert loop.column("sksubtomoPreviousClassNumber") == ["4"] * N
    assert loop.column("mine") == LABELS
    assert "sksubtomoEmbedding1" not in loop
    loaded = RB3DClassifier.load("model")
    np.testing.assert_array_equal(loaded.predict(X), expected.classes)
    # A second time only if it is meant.
    assert classify(*arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert classify(*arguments, "--overwrite", "--embeddings") == 0
    assert "sksubtomoEmbedding256" in read_particles("out.star").loop


def test_encoder_and_labels_column(folder, capsys):
    encoder = default_pretrainer(max_epochs=1, device="cpu").fit(X)
    encoder.save("encoder")
    status = classify(
        *["--labels-column", "mine", "--encoder", "encoder", "--output", "out.star"],
        *["--fine-tune-epochs", "1", "--device", "cpu"],
    )
    assert status == 0
    output = capsys.readouterr()
    assert "pretraining" not in output.err
    assert output.out.splitlines()[1].split()[:3] == ["1", "001", "1"]
    assert len(read_particles("out.star")) == N


def test_a_terminal_without_unicode(folder, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert classify("--labels", "labels.csv", "--output", "out.star", *QUICK) == 0
    terminal.flush()
    assert b"\\u03b2" in terminal.buffer.getvalue()


def test_nobody_reads_the_output(folder):
    encoder = default_pretrainer(max_epochs=1, device="cpu").fit(X)
    encoder.save("encoder")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [
                *[sys.executable, "-m", "sksubtomo", "classify", "particles.star"],
                *["--labels", "labels.csv", "--output", "out.star", "--device", "cpu"],
                *["--encoder", "encoder", "--fine-tune-epochs", "1"],
            ],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    assert len(read_particles("out.star")) == N


def test_an_interruption_writes_nothing(folder, monkeypatch, capsys):
    def classify_particles(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflows, "classify_particles", classify_particles)
    assert classify("--labels", "labels.csv", "--output", "out.star") == 130
    assert "No STAR file was written." in capsys.readouterr().err
    assert not (folder / "out.star").exists()


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        classify("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert default_classifier().max_epochs == "auto"
    few = f"or with few volumes as many as make {_ENOUGH_STEPS:,} steps"
    for training, least in (
        ("pretraining", _ENOUGH_PRETRAINING_EPOCHS),
        ("fine-tuning on the labelled ones", _ENOUGH_EPOCHS),
    ):
        assert f"epochs of {training} (default: {least}, {few})" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "labels: there are none"),
        (["--labels", "no.csv"], r"no\.csv: there is no such file"),
        (["--labels", "stack.mrc"], r"stack\.mrc"),
        (["--labels-column", "nothing"], "no column nothing"),
        (["--labels", "labels.csv", "--fine-tune-epochs", "0"], "--fine-tune-epochs 0"),
        (["--labels", "labels.csv", "--encoder", "no"], "no: holds no saved model"),
        (["--labels", "labels.csv", "--save-model", "."], "folder of something else"),
        (["--labels", "."], "is a folder; expected a CSV or STAR file"),
        (["--labels", "labels.csv", "--seed", "4294967296"], "--seed 4294967296; exp"),
        (["--labels", "labels.csv", "--device", "cuda:99"], "'cuda:99' is not availab"),
        (["--labels", "labels.csv", "--save-model", "out.star"], "expected two places"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    before = sorted(folder.rglob("*"))
    assert classify(*arguments, "--output", "out.star") == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("sksubtomo classify: error: ")
    assert re.search(message, line)
    assert output.out == ""
    assert sorted(folder.rglob("*")) == before
