import re

import numpy as np
import pytest

from sksubtomo import RB3DClassifier
from sksubtomo._training.fitting import _ENOUGH_PRETRAINING_EPOCHS, _ENOUGH_STEPS
from sksubtomo.cli import main
from sksubtomo.io import write_volume_stack
from sksubtomo.workflows import default_pretrainer

X = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    return default_pretrainer(max_epochs=1, device="cpu").fit(X)


@pytest.fixture
def folder(tmp_path, monkeypatch, encoder):
    write_volume_stack(tmp_path / "stack.mrc", X, voxel_size=10)
    encoder.save(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def transform(*arguments):
    return main(["transform", *arguments])


def test_with_an_encoder(folder, encoder, capsys):
    arguments = ["stack.mrc", "--encoder", "encoder", "--output", "out.npy"]
    assert transform(*arguments, "--device", "cpu") == 0
    output = capsys.readouterr()
    assert output.out == "4 embeddings of 256 numbers are in out.npy.\n"
    assert "pretraining" not in output.err
    np.testing.assert_array_equal(np.load("out.npy"), encoder.transform(X))
    names = (folder / "out.csv").read_text().split()
    assert names == ["particle", *(f"{i:06d}@stack.mrc" for i in range(1, 5))]
    assert transform(*arguments) == 2
    assert transform(*arguments, "--overwrite", "--invert-contrast") == 0
    np.testing.assert_array_equal(np.load("out.npy"), encoder.transform(-X))


def test_without_an_encoder(folder, encoder, capsys):
    arguments = ["stack.mrc", "--output", "out.npy", "--epochs", "1"]
    assert transform(*arguments, "--device", "cpu") == 0
    assert "pretraining: 100%" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load("out.npy"), encoder.transform(X))


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        transform("--help")
    text = " ".join(capsys.readouterr().out.split())
    few = f"or with few volumes as many as make {_ENOUGH_STEPS:,} steps"
    least = _ENOUGH_PRETRAINING_EPOCHS
    assert f"epochs of pretraining (default: {least}, {few})" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "nowhere"], "nowhere: holds no saved model"),
        (["--encoder", "encoder", "--epochs", "3"], "--epochs is for pretraining"),
        (["--encoder", "encoder", "--device", "cuda:99"], "'cuda:99' is not available"),
        (["--encoder", "classifier"], "holds a RB3DClassifier"),
        (["--encoder", "wide"], r"shape \(8, 8, 9\), but the particles"),
        (["--output", "out.txt"], r"out\.txt: expected a name that ends in \.npy"),
        (["--output", "no/out.npy"], "no: there is no such folder"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    if arguments[-1] == "classifier":
        RB3DClassifier(max_epochs=1).fit(X, [0, 0, 1, 1]).save("classifier")
    if arguments[-1] == "wide":
        wide = np.zeros((2, 8, 8, 9), np.float32)
        default_pretrainer(max_epochs=1).fit(wide).save("wide")
    before = sorted(folder.rglob("*"))
    if "--output" not in arguments:
        arguments = [*arguments, "--output", "out.npy"]
    assert transform("stack.mrc", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sksubtomo transform: error: ")
    assert re.search(message, line)
    assert sorted(folder.rglob("*")) == before
