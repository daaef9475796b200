import re

import numpy as np
import pytest

from sksubtomo import ContrastivePretrainer, workflows
from sksubtomo._training import distribution
from sksubtomo._training.fitting import _ENOUGH_PRETRAINING_EPOCHS, _ENOUGH_STEPS
from sksubtomo.cli import main
from sksubtomo.io import write_volume_stack
from sksubtomo.workflows import default_pretrainer

X = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_volume_stack(tmp_path / "stack.mrc", X, voxel_size=10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pretrain(*arguments):
    return main(["pretrain", *arguments])


def test_an_encoder_is_saved(folder, capsys):
    arguments = ["stack.mrc", "--output", "e", "--epochs", "1", "--device", "cpu"]
    assert pretrain(*arguments, "--seed", "3") == 0
    output = capsys.readouterr()
    assert output.out == "An encoder of volumes of 8 x 8 x 8 voxels is in e.\n"
    assert "pretraining: 100%" in output.err
    loaded = ContrastivePretrainer.load("e")
    expected = default_pretrainer(max_epochs=1, device="cpu", random_state=3, verbose=1)
    assert repr(loaded) == repr(expected)
    np.testing.assert_array_equal(
        loaded.transform(X), expected.set_params(verbose=0).fit(X).transform(X)
    )
    assert pretrain(*arguments) == 2
    assert pretrain(*arguments, "--overwrite") == 0
    assert ContrastivePretrainer.load("e").random_state == 0


def test_training_goes_on_from_a_checkpoint(folder, capsys):
    arguments = ["stack.mrc", "--device", "cpu", "--checkpoint-dir", "c"]
    arguments += ["--epochs", "2"]
    assert pretrain(*arguments, "--output", "first") == 0
    assert pretrain(*arguments, "--output", "again") == 0
    again = ContrastivePretrainer.load("again")
    assert [epoch["resumed"] for epoch in again.history_] == [True, True]
    capsys.readouterr()
    assert pretrain(*arguments, "--output", "other", "--seed", "3") == 2
    assert "random_state" in capsys.readouterr().err
    # A course of the learning rate is of one length.
    assert pretrain(*arguments, "--output", "more", "--epochs", "3") == 2
    assert "max_epochs" in capsys.readouterr().err


def test_precision_is_passed_on(folder):
    arguments = ["stack.mrc", "--output", "e", "--epochs", "1", "--device", "cpu"]
    assert pretrain(*arguments, "--precision", "float32") == 0
    assert ContrastivePretrainer.load("e").precision == "float32"
    with pytest.raises(SystemExit):
        pretrain(*arguments, "--precision", "float8")


def test_only_the_first_process_tells_of_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(distribution, "is_main", lambda: False)
    arguments = ["stack.mrc", "--output", "e", "--epochs", "1", "--device", "cpu"]
    assert pretrain(*arguments) == 0
    assert capsys.readouterr().out == ""


def test_options_of_reading_are_passed_on(folder, monkeypatch):
    seen = {}

    def pretrain_encoder(source, **arguments):
        seen.update(arguments, source=source)
        raise KeyboardInterrupt

    monkeypatch.setattr(workflows, "pretrain_encoder", pretrain_encoder)
    assert pretrain("a.h5", "--output", "e") == 130
    expected = {
        "source": "a.h5",
        "output": "e",
        "overwrite": False,
        "voxel_size": None,
        "invert_contrast": None,
        "axes": "zyx",
        "dataset": None,
        "allow_image_stacks": False,
    }
    assert repr(seen.pop("pretrainer")) == repr(default_pretrainer(verbose=1))
    assert seen == expected
    pretrain(
        *["a.h5", "--output", "e", "--voxel-size", "7.5", "--no-invert-contrast"],
        *["--axes", "xyz", "--dataset", "raw", "--allow-image-stacks", "--overwrite"],
    )
    del seen["pretrainer"]
    assert seen == {
        **expected,
        "overwrite": True,
        "voxel_size": 7.5,
        "invert_contrast": False,
        "axes": "xyz",
        "dataset": "raw",
        "allow_image_stacks": True,
    }


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        pretrain("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert default_pretrainer().max_epochs == "auto"
    few = f"or with few volumes as many as make {_ENOUGH_STEPS:,} steps"
    least = _ENOUGH_PRETRAINING_EPOCHS
    assert f"epochs of pretraining (default: {least}, {few})" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.mrc"], r"no\.mrc: there is no such file"),
        (["stack.mrc", "--epochs", "0"], "--epochs 0; expected at least 1"),
        (["stack.mrc", "--seed", "-1"], "--seed -1; expected at least 0"),
        (["stack.mrc", "--device", "quantum"], "device='quantum'"),
        (["stack.mrc", "--voxel-size", "-3"], "voxel_size"),
        (["stack.mrc", "--axes", "xxy"], "axes='xxy'"),
        (["stack.mrc", "--output", "."], "is a folder of something else"),
        (["stack.mrc", "--output", "stack.mrc"], r"stack\.mrc: is a file"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    if "--output" not in arguments:
        arguments = [*arguments, "--output", "e"]
    assert pretrain(*arguments) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("sksubtomo pretrain: error: ")
    assert re.search(message, line)
    assert output.out == ""
    assert [path.name for path in folder.iterdir()] == ["stack.mrc"]
