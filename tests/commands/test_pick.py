import sys

import numpy as np
import pytest

from sksubtomo.cli import main
from sksubtomo.io import read_particles, write_volume
from sksubtomo.picking import pick_tomogram, read_selection

CENTRES = [(8, 10, 12), (15, 25, 20)]


@pytest.fixture
def tomogram(tmp_path):
    volume = np.random.default_rng(0).normal(size=(24, 36, 32), scale=0.1)
    for z, y, x in CENTRES:
        volume[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3] -= 1
    path = tmp_path / "TS_01.mrc"
    write_volume(path, volume, 10.0)
    return path


def error_of(capsys, *arguments):
    assert main(["pick", *map(str, arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("sksubtomo pick: error: ")
    return line


def test_picks_are_written_and_drawn(tmp_path, tomogram, capsys):
    output = tmp_path / "picks.star"
    status = main(
        [
            *["pick", str(tomogram), "--diameter", "60", "--number", "2"],
            *["--output", str(output), "--rank", "--candidates", "5"],
            *["--figure", str(tmp_path / "picks.png")],
            *["--contact-sheets", str(tmp_path / "sheets")],
        ]
    )
    assert status == 0
    printed = capsys.readouterr()
    assert "2 picks with scores from 0.8" in printed.out
    assert printed.err == ""
    particles = read_particles(output)
    found = particles.coordinates(10.0, (24, 36, 32))
    assert sorted(map(tuple, found.round().astype(int).tolist())) == CENTRES
    assert set(particles.tomogram_names) == {"TS_01"}
    assert (tmp_path / "picks.png").stat().st_size > 0
    table = tmp_path / "sheets" / "selection.csv"
    table.write_text(table.read_text().replace(",\n", ",x\n"))
    assert read_selection(table) == ["TS_01/1", "TS_01/2"]


@pytest.mark.filterwarnings("default")
def test_wrong_contrast_is_a_line(tmp_path, tomogram, capsys):
    arguments = ["pick", str(tomogram), "--diameter", "60", "--contrast", "light"]
    assert main([*arguments, "--output", str(tmp_path / "picks.star")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sksubtomo pick: warning: contrast='light': ")
    assert "--contrast dark" in line


def test_options_reach_the_function(monkeypatch, capsys):
    seen = {}

    def pick(*positional, **options):
        seen["positional"] = positional
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("sksubtomo.picking.pick_tomogram", pick)
    error_of(
        capsys,
        *["t.mrc", "--diameter", 120, "--output", "p.star", "--number", 7],
        *["--contrast", "light", "--voxel-size", 9.5, "--min-distance", 50],
        *["--border", 30, "--score-range", 1, 20, "--tomogram-name", "a"],
        *["--allow-image-stacks", "--rank", "--template", "x.mrc", "--candidates", 9],
        *["--rotations", 4, "--tilt-range", -50, 55, "--tilt-axis", 85.5],
        *["--figure", "f.png", "--contact-sheets", "c", "--overwrite"],
    )
    assert seen == {
        "positional": ("t.mrc", 120.0, "p.star"),
        "n_picks": 7,
        "contrast": "light",
        "voxel_size": 9.5,
        "min_distance": 50.0,
        "border": 30.0,
        "score_range": (1.0, 20.0),
        "tomogram_name": "a",
        "allow_image_stacks": True,
        "rank": True,
        "template": "x.mrc",
        "n_candidates": 9,
        "n_rotations": 4,
        "tilt_range": (-50.0, 55.0),
        "tilt_axis": 85.5,
        "figure": "f.png",
        "contact_sheets": "c",
        "overwrite": True,
    }


def test_defaults_are_those_of_the_function(monkeypatch, capsys):
    seen = {}

    def pick(*positional, **options):
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("sksubtomo.picking.pick_tomogram", pick)
    error_of(capsys, "t.mrc", "--diameter", 120, "--output", "p.star")
    assert seen == pick_tomogram.__kwdefaults__


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (["none", "20"], (-np.inf, 20.0)),
        (["-1.5", "none"], (-1.5, np.inf)),
        (["none", "none"], (-np.inf, np.inf)),
    ],
)
def test_no_limit_of_scores(monkeypatch, capsys, limits, expected):
    seen = {}

    def pick(*positional, **options):
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("sksubtomo.picking.pick_tomogram", pick)
    arguments = ["t.mrc", "--diameter", 120, "--output", "p.star", "--score-range"]
    error_of(capsys, *arguments, *limits)
    assert seen["score_range"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--diameter", "1"], "diameter=1 A is 0.1 voxels"),
        (["--diameter", "nan"], "diameter=nan"),
        (["--diameter", "60", "--number", "0"], "n_picks=0"),
        (["--diameter", "60", "--rank", "--candidates", "0"], "expected at least 1"),
        (["--diameter", "60", "--rank", "--candidates", "9"], "(--candidates) for"),
        (["--diameter", "60", "--rotations", "4"], "(--rotations) is for ranking"),
        (["--diameter", "60", "--voxel-size", "-1"], "voxel_size"),
        (["--diameter", "60", "--score-range", "9", "1"], "score_range"),
        (["--diameter", "60", "--score-range", "900", "999"], "no particle"),
        (["--diameter", "60", "--template", "no.mrc"], "no.mrc: there is no such file"),
        (["--diameter", "60", "--rank", "--rotations", "3"], "n_rotations=3"),
        (["--diameter", "60", "--rank", "--tilt-range", "9", "1"], "tilt_range"),
        (["--diameter", "60", "--rank", "--tilt-axis", "nan"], "tilt_axis"),
        (["--diameter", "60", "--figure", "x.doc"], "x.doc"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path, tomogram, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(
        capsys, "TS_01.mrc", "--output", "picks.star", *arguments
    )
    assert list(tmp_path.iterdir()) == [tomogram]


def test_existing_picks_are_kept_unless_asked(tmp_path, tomogram, capsys):
    (tmp_path / "p.star").write_text("mine")
    arguments = [tomogram, "--diameter", 60, "--output", tmp_path / "p.star"]
    assert "--overwrite" in error_of(capsys, *arguments)
    assert (tmp_path / "p.star").read_text() == "mine"
    assert main(["pick", *map(str, arguments), "--overwrite"]) == 0


def test_missing_tomogram(tmp_path, capsys):
    output = tmp_path / "p.star"
    message = error_of(
        capsys, tmp_path / "no.mrc", "--diameter", 60, "--output", output
    )
    assert "no.mrc: there is no such file" in message


def test_missing_matplotlib_is_one_line(tmp_path, tomogram, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = error_of(
        capsys,
        *[tomogram, "--diameter", 60, "--output", tmp_path / "p.star"],
        *["--figure", tmp_path / "p.png"],
    )
    assert "sksubtomo[study]" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--diameter"),
        (["--diameter", "60", "--score-range", "no", "9"], "'no'; expected a number"),
        (
            ["--diameter", "60", "--tilt-axis", "z"],
            "argument --tilt-axis: 'z'; expected x, y or an angle",
        ),
    ],
)
def test_bad_syntax_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["pick", "t.mrc", "--output", "p.star", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
