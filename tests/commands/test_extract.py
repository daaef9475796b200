import mrcfile
import numpy as np
import pytest

from sksubtomo.cli import main
from sksubtomo.io import (
    extract_subtomograms,
    read_particles,
    read_volume_stack,
    write_particles,
    write_volume,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    volume = np.random.default_rng(0).normal(size=(16, 24, 20))
    write_volume(tmp_path / "TS_01.mrc", volume, 10.0)
    write_particles(
        tmp_path / "p.star",
        {
            "rlnCoordinateX": [10, 12, 1],
            "rlnCoordinateY": [12, 11, 12],
            "rlnCoordinateZ": [8, 7, 8],
            "rlnTomoParticleName": ["TS_01/1", "TS_01/2", "TS_01/3"],
        },
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


ARGUMENTS = ["extract", "TS_01.mrc", "p.star", "--size", "4", "--output", "out"]


def error_of(capsys, *arguments):
    assert main([*ARGUMENTS, *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("sksubtomo extract: error: ")
    return line


def test_stack_and_star_are_written(folder, capsys):
    assert main([*ARGUMENTS, "--invert", "--normalize"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "2 subtomograms with voxels of 10 A" in printed.out
    assert "1 dropped" in printed.out
    assert "TS_01/3" in printed.out
    volumes, _ = read_volume_stack(folder / "out" / "subtomograms.mrc")
    with mrcfile.open(folder / "TS_01.mrc") as mrc:
        box = mrc.data[6:10, 10:14, 8:12].astype(float)
    np.testing.assert_allclose(
        volumes[0], (box.mean() - box) / box.std(), rtol=1e-4, atol=1e-5
    )
    assert len(read_particles(folder / "out" / "particles.star")) == 2


@pytest.mark.filterwarnings("default")
def test_another_name_is_a_line(folder, capsys):
    star = read_particles("p.star").with_columns({"rlnTomoName": ["TS_02"] * 3})
    star.write("p.star")
    assert main(ARGUMENTS) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sksubtomo extract: warning: TS_01.mrc is taken for TS_02")
    assert main([*ARGUMENTS, "--overwrite", "--tomogram-name", "TS_02"]) == 0
    assert capsys.readouterr().err == ""


def test_output_that_is_a_file(folder, capsys):
    message = error_of(capsys, "--output", "p.star")
    assert "p.star is a file; expected a folder" in message
    assert "Errno" not in message


def test_selection_is_read(folder, capsys):
    (folder / "selection.csv").write_text("particle,selected\nTS_01/2,1\nTS_01/1,\n")
    assert main([*ARGUMENTS, "--selection", "selection.csv"]) == 0
    particles = read_particles(folder / "out" / "particles.star")
    assert particles.loop.column("rlnTomoParticleName") == ["TS_01/2"]


def test_several_tomograms(folder, capsys):
    (folder / "TS_01.mrc").rename(folder / "rec_a.mrc")
    for name in ("rec_b.mrc", "rec_c.mrc"):
        (folder / name).write_bytes((folder / "rec_a.mrc").read_bytes())
    write_particles(
        folder / "p.star",
        {
            **{f"rlnCoordinate{axis}": [8] * 4 for axis in "XYZ"},
            "rlnTomoName": ["b", "d", "a", "d"],
        },
    )
    files = ["rec_a.mrc", "rec_b.mrc", "rec_c.mrc", "p.star"]
    assert main(["extract", *files, *ARGUMENTS[3:]]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "2 subtomograms" in printed.out
    assert "2 left out, of 1 tomograms that were not given: d (2)." in printed.out
    assert "1 tomograms have no particle in the STAR file: rec_c.mrc." in printed.out
    particles = read_particles(folder / "out" / "particles.star")
    assert particles.tomogram_names == ["b", "a"]


def test_options_reach_the_function(monkeypatch, capsys):
    seen = {}

    def extract(*positional, **options):
        seen["positional"] = positional
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr("sksubtomo.io.extract_subtomograms", extract)
    error_of(
        capsys,
        *["--binning", "2", "--invert-contrast", "--normalize", "--edge", "pad"],
        *["--voxel-size", "9.5", "--coordinate-units", "pixels"],
        *["--coordinate-voxel-size", "2.5", "--tomogram-name", "a"],
        *["--allow-image-stacks", "--overwrite"],
    )
    assert seen == {
        "positional": (["TS_01.mrc"], "p.star"),
        "size": 4,
        "output": "out",
        "binning": 2,
        "invert_contrast": True,
        "normalize": True,
        "edge": "pad",
        "voxel_size": 9.5,
        "coordinate_units": "pixels",
        "coordinate_voxel_size": 2.5,
        "selection": None,
        "tomogram_name": "a",
        "allow_image_stacks": True,
        "overwrite": True,
        "progress": False,
    }
    seen.clear()
    error_of(capsys)
    defaults = extract_subtomograms.__kwdefaults__
    assert {name: seen[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "size=0"),
        (["--size", "99"], "size=99"),
        (["--size", "20"], "none of 3 boxes"),
        (["--binning", "0"], "binning=0"),
        (["--voxel-size", "0"], "voxel_size"),
        (["--coordinate-voxel-size", "nan"], "coordinate_voxel_size"),
        (["--coordinate-units", "angstroms_centered"], "rlnCenteredCoordinateXAngst"),
        (["--selection", "no.csv"], "no.csv: there is no such file"),
        (["--tomogram-name", "b"], "'b'"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    assert message in error_of(capsys, *arguments)
    assert not (folder / "out").exists()


def test_existing_output_is_kept(folder, capsys):
    assert main(ARGUMENTS) == 0
    capsys.readouterr()
    assert "--overwrite" in error_of(capsys)
    assert main([*ARGUMENTS, "--overwrite"]) == 0


def test_tilt_series_is_refused(folder, capsys):
    with mrcfile.new(folder / "TS_01.mrc", overwrite=True) as mrc:
        mrc.set_data(np.zeros((41, 24, 20), np.float32))
        mrc.set_image_stack()
    assert "41 images" in error_of(capsys)
