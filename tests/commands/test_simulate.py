from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from sksubtomo import datasets
from sksubtomo.cli import main
from sksubtomo.datasets import Microscope, load_phantom
from sksubtomo.io import read_particles, read_volume_stack


def error_of(capsys, *arguments):
    assert main(["simulate", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("sksubtomo simulate: error: ")
    return line


@pytest.fixture
def captured(monkeypatch):
    """Catch what would be computed."""
    seen = []

    def write(output, **parameters):
        seen.append((output, parameters))
        raise ValueError("captured")

    monkeypatch.setattr(datasets, "write_subtomograms", write)
    return seen


def test_writes_subtomograms(tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["simulate", str(output), "--n-per-class", "1", "--size", "8"]
    arguments += ["--voxel-size", "25"]
    assert main([*arguments, "--clean", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert str(output) in captured.out
    assert captured.err == ""
    volumes, voxel_size = read_volume_stack(output / "subtomograms.mrc")
    assert (volumes.shape, voxel_size) == ((10, 8, 8, 8), 25.0)
    # Without noise unless asked for.
    clean, _ = read_volume_stack(output / "clean.mrc")
    np.testing.assert_array_equal(volumes, clean)
    assert len(read_particles(output / "particles.star")) == 10
    assert "already holds" in error_of(capsys, *arguments[1:])
    assert main([*arguments, "--overwrite"]) == 0
    assert not (output / "clean.mrc").exists()


def test_defaults(captured):
    assert main(["simulate", "out"]) == 2
    ((output, parameters),) = captured
    assert output == "out"
    assert parameters == {
        "n_per_class": 100,
        "size": 32,
        "voxel_size": 10.0,
        "snr": float("inf"),
        "random_state": 0,
        "clean": False,
        "overwrite": False,
        "n_jobs": -1,
        "progress": False,
    }


def test_options_override_the_preset(captured, monkeypatch):
    def preset(name, *, structures):
        assert (name, structures) == ("gupta2022", "my folder")
        return {
            "n_per_class": 500,
            "size": 32,
            "n_neighbors": 4,
            "low_pass": 40.0,
            "microscope": Microscope.liu2020(10.0),
        }

    monkeypatch.setattr(datasets, "simulation_preset", preset)
    arguments = ["simulate", "out", "--preset", "gupta2022", "--structures"]
    arguments += ["my folder", "--n-per-class", "7", "--snr", "0.05", "--seed", "4"]
    arguments += ["--neighbors", "2", "--max-shift", "0.2", "--crowding", "0.9"]
    arguments += ["--tilt-range", "-50", "55", "--resolution", "30", "--jobs", "2"]
    arguments += ["--low-pass", "60"]
    assert main(arguments) == 2
    ((_, parameters),) = captured
    expected = {
        "n_per_class": 7,
        "size": 32,
        "snr": 0.05,
        "random_state": 4,
        "n_neighbors": 2,
        "max_shift": 0.2,
        "crowding": 0.9,
        "tilt_range": (-50.0, 55.0),
        "resolution": 30.0,
        "low_pass": 60.0,
        "n_jobs": 2,
        "microscope": Microscope.liu2020(10.0),
    }
    assert {name: parameters[name] for name in expected} == expected
    assert "structures" not in parameters


def test_warns_of_a_box_that_is_too_small(tmp_path):
    arguments = ["simulate", str(tmp_path), "--n-per-class", "1", "--size", "8"]
    # Warnings are errors in these tests, and no bad input.
    with pytest.raises(UserWarning, match="does not fit into volumes of 8 voxels"):
        main(arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--defocus", "3"], {"microscope": Microscope(defocus=3.0)}),
        (["--no-optics"], {"microscope": None}),
        (["--tilt-step", "2"], {"tilt_step": 2.0}),
        (["--tilt-step", "none"], {"tilt_step": None}),
        (["--tilt-axis", "x"], {"tilt_axis": "x"}),
        (["--tilt-axis", "-85.3"], {"tilt_axis": -85.3}),
        (["--convention", "liu2020"], {"convention": "liu2020"}),
    ],
)
def test_options_of_the_optics(captured, arguments, expected):
    assert main(["simulate", "out", *arguments]) == 2
    parameters = captured[0][1]
    assert {name: parameters[name] for name in expected} == expected
    assert not {"defocus", "no_optics"} & set(parameters)


def test_defocus_of_a_preset(captured, monkeypatch):
    preset = {"microscope": Microscope.liu2020(10.0)}
    monkeypatch.setattr(datasets, "simulation_preset", lambda *_, **__: dict(preset))
    arguments = ["simulate", "out", "--preset", "gupta2022"]
    assert main([*arguments, "--defocus", "2"]) == 2
    expected = replace(preset["microscope"], defocus=2.0)
    assert captured[0][1]["microscope"] == expected
    assert main([*arguments, "--no-optics"]) == 2
    assert captured[1][1]["microscope"] is None


def test_structures_without_preset(captured):
    assert main(["simulate", "out", "--structures", "folder"]) == 2
    assert captured[0][1]["structures"] == "folder"


def test_writes_a_tomogram(tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [str(output), "--tomogram", "--shape", "16", "24", "28"]
    arguments += ["--voxel-size", "20", "--n-particles", "3", "--snr", "1"]
    assert main(["simulate", *arguments, "--clean"]) == 0
    assert "3 complexes" in capsys.readouterr().out
    with mrcfile.open(output / "tomogram.mrc") as mrc:
        assert mrc.data.shape == (16, 24, 28)
    assert (output / "clean.mrc").exists()
    assert len(read_particles(output / "particles.star")) == 3
    radius = max(load_phantom(name).radius for name in datasets.list_phantoms())
    assert radius < 16 * 20 / 2
    assert "already holds" in error_of(capsys, *arguments)
    assert main(["simulate", *arguments, "--overwrite"]) == 0
    assert not (output / "clean.mrc").exists()
    capsys.readouterr()
    assert "data of the other kind" in error_of(capsys, str(output), "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "4"], "size=4"),
        (["--n-per-class", "0"], "n_per_class=0"),
        (["--voxel-size", "-1"], "voxel_size=-1.0"),
        (["--snr", "0"], "snr=0.0"),
        (["--snr", "nan"], "snr=nan"),
        (["--seed", "-1"], "random_state=-1"),
        (["--jobs", "0"], "--jobs 0"),
        (["--structures", "nowhere"], "nowhere"),
        (["--preset", "gupta2022", "--structures", "nowhere"], "nowhere"),
        (["--shape", "8", "8", "8"], "--shape is for a tomogram"),
        (["--n-particles", "8"], "--n-particles is for a tomogram"),
        (["--defocus", "nan"], "defocus=nan"),
        (["--defocus", "2", "--no-optics"], "--defocus is a part of the optics"),
        (["--tilt-step", "130"], "tilt_step=130.0 leaves a single tilt"),
        (["--tilt-axis", "inf"], "tilt_axis=inf"),
        (["--tomogram", "--tilt-step", "3"], "--tilt-step is for subtomograms"),
        (["--tomogram", "--convention", "exact"], "--convention is for subtomograms"),
        (
            ["--tomogram", "--crowding", "0.2", "--n-particles", "3"],
            "--crowding and --n-particles both",
        ),
        (["--tomogram", "--low-pass", "0"], "low_pass=0.0"),
        (["--tomogram", "--size", "8"], "--size is for subtomograms"),
        (["--tomogram", "--preset", "gupta2022"], "--preset is for subtomograms"),
        (["--tomogram", "--shape", "8", "8", "8"], "too small for"),
    ],
)
def test_one_line_for_bad_input(tmp_path, capsys, arguments, message):
    output = tmp_path / "out"
    assert message in error_of(capsys, str(output), *arguments)
    assert not output.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["out", "--preset", "other"],
        ["out", "--tilt-axis", "z"],
        ["out", "--tilt-step", "few"],
    ],
)
def test_unknown_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["simulate", *arguments])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
