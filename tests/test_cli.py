import builtins
import runpy
import sys
import warnings

import mrcfile
import numpy as np
import pytest

import sksubtomo
from sksubtomo.cli import main
from sksubtomo.study import PreparedStudy, StudySettings

TINY = [
    *["study", "--size", "8", "--n-per-class", "5", "--epochs", "1"],
    *["--fine-tune-epochs", "1", "--repeats", "1", "--fractions", "1.0"],
    *["--labels-per-class", "1", "--jobs", "1"],
]


@pytest.fixture
def captured_settings(monkeypatch):
    """Stop before anything is computed, and give back the settings."""
    seen = []

    def run(self, *, n_jobs, progress):
        seen.append((self.settings, self.output, n_jobs))
        raise KeyboardInterrupt

    monkeypatch.setattr(PreparedStudy, "run", run)
    return seen


def error_of(capsys, *arguments):
    assert main(["study", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sksubtomo study: error: ")
    return lines[0]


@pytest.mark.filterwarnings("ignore:pretraining swav")
def test_study_prints_the_table_and_writes_the_files(tmp_path, capsys):
    output = tmp_path / "out"
    status = main([*TINY, "--no-recipes", "--output", str(output)])
    assert status == 0
    printed = capsys.readouterr().out
    assert (output / "table.txt").read_text("utf-8") in printed
    assert str(output) in printed
    assert (output / "label_fractions.csv").exists()
    assert len(list(output.glob("*.png"))) == 3


def test_options_become_settings(tmp_path, captured_settings):
    main(
        [
            *["study", "--size", "9", "--snr", "inf", "--n-per-class", "6"],
            *["--fractions", "0.5", "1.0", "--labels-per-class", "1", "2"],
            *["--repeats", "4", "--epochs", "7", "--fine-tune-epochs", "8"],
            *["--seed", "3", "--jobs", "2", "--output", str(tmp_path / "out")],
        ]
    )
    ((settings, output, n_jobs),) = captured_settings
    assert (output, n_jobs) == (tmp_path / "out", 2)
    defaults = StudySettings()
    expected = {
        "size": 9,
        "snr": float("inf"),
        "n_per_class": 6,
        "fractions": [0.5, 1.0],
        "labels_per_class": [1, 2],
        "repeats": 4,
        "epochs": 7,
        "fine_tune_epochs": 8,
        "seed": 3,
    }
    for name, value in expected.items():
        assert getattr(settings, name) == value
        assert getattr(defaults, name) != value
    assert settings.recipes == defaults.recipes


def test_interruption_says_how_to_continue(tmp_path, captured_settings, capsys):
    assert main([*TINY, "--output", str(tmp_path / "out")]) == 130
    message = capsys.readouterr().err
    assert "Finished cells are kept in" in message
    assert str(tmp_path / "out") in message
    assert "Traceback" not in message


def test_other_settings_are_refused(tmp_path, captured_settings, capsys):
    main([*TINY, "--output", str(tmp_path)])
    capsys.readouterr()
    message = error_of(capsys, *TINY[1:], "--seed", "5", "--output", str(tmp_path))
    assert "seed (0 there, 5 now)" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x.mrc"], "data was given without labels"),
        (["--labels", "x.csv"], "labels was given without data"),
        (["--data", "x", "--labels", "y", "--structures", "z"], "--structures is for"),
        (["--data", "x", "--labels", "y", "--n-per-class", "9"], "--n-per-class is"),
        (["--data", "no.mrc", "--labels", "no.csv"], "no.mrc: there is no such file"),
        (["--structures", "nowhere"], "nowhere: there is no such folder"),
        (["--n-per-class", "3"], "has 3 volumes"),
        (["--size", "4"], "size=4"),
        (["--snr", "-1"], "snr=-1.0"),
        (["--snr", "nan"], "snr=nan"),
        (["--fractions", "2"], "fractions holds 2.0"),
        (["--fractions", "--labels-per-class"], "both empty"),
        (["--jobs", "0"], "--jobs 0"),
        (["--device", "quantum"], "device='quantum'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["study", "--size", "x"], ["study", "--what"], ["what"], []]
)
def test_bad_syntax_is_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sksubtomo")
    assert ": error: " in line


def test_tilt_images_are_explained(tmp_path, capsys):
    with mrcfile.new(tmp_path / "stack.mrc") as mrc:
        mrc.set_data(np.zeros((37, 8, 8), np.float32))
        mrc.set_image_stack()
    message = error_of(
        capsys, "--data", str(tmp_path / "stack.mrc"), "--labels", str(tmp_path / "x")
    )
    assert "37 images" in message
    assert "volume stack" in message


def test_divergence_is_a_failure_without_traceback(tmp_path, monkeypatch, capsys):
    def run(self, **kwargs):
        raise FloatingPointError("the loss\nis NaN")

    monkeypatch.setattr(PreparedStudy, "run", run)
    assert main([*TINY, "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "sksubtomo study: error: the loss is NaN\n"


def test_a_mistake_of_ours_is_not_called_bad_input(tmp_path, monkeypatch):
    def run(self, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr(PreparedStudy, "run", run)
    with pytest.raises(ValueError, match="a bug"):
        main([*TINY, "--output", str(tmp_path)])


def test_warnings_are_one_line(tmp_path, monkeypatch, capsys):
    def run(self, **kwargs):
        warnings.simplefilter("always")
        warnings.warn("something\nodd", UserWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreparedStudy, "run", run)
    shown = warnings.showwarning
    main([*TINY, "--output", str(tmp_path)])
    assert "sksubtomo study: warning: something odd\n" in capsys.readouterr().err
    assert warnings.showwarning is shown


def test_help_shows_the_defaults_of_the_settings(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["study", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    defaults = StudySettings()
    assert f"epochs of pretraining (default: {defaults.epochs})" in text
    assert f"side of the volumes in voxels (default: {defaults.size})" in text
    assert "None" not in text


def test_python_m_sksubtomo(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sksubtomo", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("sksubtomo", run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == sksubtomo.__version__


def test_an_interruption_during_the_import(monkeypatch, capsys):
    original = builtins.__import__

    def interrupted(name, *arguments, **keywords):
        if name == "sksubtomo.cli":
            raise KeyboardInterrupt
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("sksubtomo", run_name="__main__")
    assert stop.value.code == 130
    assert capsys.readouterr().err == "sksubtomo: interrupted.\n"
