import warnings

import mrcfile
import numpy as np
import pytest

from sksubtomo.io import (
    extract_subtomograms,
    read_particles,
    read_volume_stack,
    write_particles,
    write_volume,
)
from sksubtomo.io.mrc import open_tomogram

SHAPE = (16, 24, 20)


@pytest.fixture
def tomogram():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def folder(tmp_path, tomogram):
    write_volume(tmp_path / "TS_01.mrc", tomogram, 10.0)
    return tmp_path


def write_star(path, coordinates, **columns):
    """Write positions z, y, x in voxels."""
    z, y, x = np.transpose(coordinates)
    write_particles(
        path,
        {"rlnCoordinateX": x, "rlnCoordinateY": y, "rlnCoordinateZ": z, **columns},
    )
    return path


def extract(folder, star, **options):
    options = {"size": 4, "output": folder / "out", **options}
    extraction = extract_subtomograms(folder / "TS_01.mrc", star, **options)
    volumes, voxel_size = read_volume_stack(extraction.stack)
    assert voxel_size == pytest.approx(extraction.voxel_size)
    return extraction, volumes, read_particles(extraction.star)


@pytest.mark.parametrize("size", [4, 5])
def test_box_is_centred_on_the_voxel_of_half_its_side(folder, tomogram, size):
    star = write_star(folder / "p.star", [(8, 12, 10), (5, 6, 7)])
    _, volumes, particles = extract(folder, star, size=size)
    for volume, (z, y, x) in zip(volumes, [(8, 12, 10), (5, 6, 7)], strict=True):
        assert volume[size // 2, size // 2, size // 2] == tomogram[z, y, x]
        np.testing.assert_array_equal(
            volume,
            tomogram[
                z - size // 2 : z - size // 2 + size,
                y - size // 2 : y - size // 2 + size,
                x - size // 2 : x - size // 2 + size,
            ],
        )
    assert particles.image_names == [
        "000001@subtomograms.mrc",
        "000002@subtomograms.mrc",
    ]
    assert particles.voxel_size == 10.0
    assert particles.resolve_image(1) == (folder / "out" / "subtomograms.mrc", 1)
    # Whole voxels need no origin, and the coordinates keep their bytes.
    assert "rlnOriginXAngst" not in particles.loop
    assert particles.loop.column("rlnCoordinateX") == ["10", "7"]


@pytest.mark.parametrize("binning", [1, 2, 3])
def test_what_rounding_leaves_is_kept_as_an_origin(folder, tomogram, binning):
    centres = [(8.3, 12.8, 10.45), (7.5, 11.2, 9.9)]
    star = write_star(folder / "p.star", centres)
    _, volumes, particles = extract(folder, star, size=4, binning=binning)
    # RELION: coordinate minus origin, in the tomogram ...
    found = particles.coordinates(10.0, SHAPE, coordinate_voxel_size=10.0)
    np.testing.assert_allclose(found, centres, atol=2e-4)
    origins = np.array(
        [particles.loop.column(f"rlnOrigin{axis}Angst") for axis in "ZYX"], float
    ).T
    assert 0.5 < np.abs(origins).max() <= 5.0 + 1e-6
    # ... and box centre minus origin, in the box.
    boxes = particles.coordinates(
        10.0, SHAPE, coordinate_voxel_size=10.0, apply_shifts=False
    )
    for volume, box in zip(volumes, boxes, strict=True):
        first = box - (binning - 1) / 2
        cube = tuple(slice(round(a), round(a) + binning) for a in first)
        np.testing.assert_allclose(volume[2, 2, 2], tomogram[cube].mean(), rtol=1e-5)


def test_binning_averages_cubes(folder, tomogram):
    star = write_star(folder / "p.star", [(7.5, 11.5, 9.5)])
    extraction, volumes, particles = extract(folder, star, size=2, binning=4)
    # The centre of a box of two is its second voxel.
    start = np.array([8, 12, 10]) - 2 - 4
    box = tomogram[tuple(slice(a, a + 8) for a in start)]
    np.testing.assert_allclose(
        volumes[0], box.reshape(2, 4, 2, 4, 2, 4).mean((1, 3, 5)), rtol=1e-5
    )
    assert extraction.voxel_size == particles.voxel_size == 40.0


def test_contrast_and_normalisation(folder, tomogram):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    _, volumes, _ = extract(folder, star, invert_contrast=True, normalize=True)
    box = tomogram[6:10, 10:14, 8:12].astype(float)
    np.testing.assert_allclose(
        volumes[0], -(box - box.mean()) / box.std(), rtol=1e-5, atol=1e-6
    )


def test_boxes_over_the_edge_are_dropped_and_named(folder):
    star = write_star(
        folder / "p.star",
        [(8, 12, 10), (1, 12, 10), (14, 12, 10), (15, 12, 10), (8, 99, 10)],
        rlnTomoParticleName=[f"TS_01/{i}" for i in range(1, 6)],
    )
    extraction, volumes, particles = extract(folder, star)
    assert extraction.dropped == ["TS_01/2", "TS_01/4"]
    assert extraction.outside == ["TS_01/5"]
    assert particles.loop.column("rlnTomoParticleName") == ["TS_01/1", "TS_01/3"]
    assert len(volumes) == 2
    summary = extraction.summary()
    assert "2 dropped, with boxes" in summary
    assert "edge: TS_01/2, TS_01/4." in summary
    assert "1 left out, with centres outside of the tomogram: TS_01/5." in summary
    assert "--coordinate-units" in summary


def test_boxes_over_the_edge_are_padded_with_their_mean(folder, tomogram):
    star = write_star(folder / "p.star", [(8, 12, 10), (1, 12, 10), (8, 99, 10)])
    extraction, volumes, _ = extract(folder, star, edge="pad")
    assert (extraction.dropped, extraction.outside) == ([], ["3"])
    assert extraction.padded == ["2"]
    inside = tomogram[0:3, 10:14, 8:12]
    np.testing.assert_array_equal(volumes[1, 1:], inside)
    np.testing.assert_allclose(volumes[1, 0], inside.mean(dtype=float), rtol=1e-5)


def test_constant_boxes_are_told_of_and_not_nan(tmp_path):
    write_volume(tmp_path / "TS_01.mrc", np.full(SHAPE, 3.3), 10.0)
    star = write_star(tmp_path / "p.star", [(8, 12, 10)])
    extraction, volumes, _ = extract(tmp_path, star, normalize=True)
    assert extraction.constant == ["1"]
    np.testing.assert_allclose(volumes, 0, atol=1e-6)


RELION5 = """
# version 50001

data_general

_rlnTomoSubTomosAre2DStacks                       1


# version 50001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnTomoTiltSeriesPixelSize #3
_rlnImagePixelSize #4
_rlnImageSize #5
_rlnImageDimensionality #6
1 "my optics" 2.5 5.0 64 2


# version 50001

data_particles

loop_
_rlnTomoName #1
_rlnCenteredCoordinateXAngst #2
_rlnCenteredCoordinateYAngst #3
_rlnCenteredCoordinateZAngst #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnOriginZAngst #7
_rlnTomoSubtomogramRot #8
_rlnTomoSubtomogramTilt #9
_rlnTomoSubtomogramPsi #10
_rlnOpticsGroup #11
_rlnImageName #12
_odd #13
001   13.00   7.00 -11.00  4.00 0.00 0.00  30.0  40.0 50.0 1 Extract/1_stack2d.mrcs  'a b'
002   10.00   0.00   0.00  0.00 0.00 0.00   0.0   0.0  0.0 1 Extract/2_stack2d.mrcs  "it's"
001  -20.00   0.50   0.00  0.00 0.00 0.00   0.0   0.0  0.0 1 Extract/3_stack2d.mrcs  c
"""  # noqa: E501


def test_relion5_stacks_become_volumes(folder, tomogram):
    star = folder / "p.star"
    star.write_text(RELION5)
    (folder / "TS_01.mrc").rename(folder / "rec_001.mrc")
    extraction = extract_subtomograms(
        folder / "rec_001.mrc", star, size=4, output=folder / "out"
    )
    before, after = read_particles(star), read_particles(extraction.star)
    assert before.is_image_stack
    assert not after.is_image_stack
    assert after.voxel_size == 10.0
    assert after.optics.column("rlnImageSize") == ["4"]
    assert after.optics.column("rlnOpticsGroupName") == ["my optics"]
    assert after.loop.tags == before.loop.tags
    assert after.loop.column("odd") == ["a b", "c"]
    # Only this tomogram's, whose particles are where they were.
    positions = before.coordinates(10.0, SHAPE)[[0, 2]]
    np.testing.assert_allclose(after.coordinates(10.0, SHAPE), positions, atol=2e-4)
    nearest = after.coordinates(10.0, SHAPE, apply_shifts=False)
    np.testing.assert_allclose(nearest, np.floor(positions + 0.5), atol=2e-4)
    volumes, _ = read_volume_stack(extraction.stack)
    z, y, x = nearest[0].round().astype(int)
    assert volumes[0, 2, 2, 2] == tomogram[z, y, x]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("TS_1.mrc", "TS_1"),
        ("TS_1.mrc", "TS_1.tomostar"),
        ("TS_1_10.00Apx.mrc", "TS_1.tomostar"),
        ("rec_TS_1.mrc", "TS_1"),
        ("TS_1.rec", "tomograms/TS_1.mrc"),
        ("001.mrc", "001"),
    ],
)
def test_tomogram_is_found_by_its_name(tmp_path, tomogram, file, name):
    write_volume(tmp_path / file, tomogram, 10.0)
    star = write_star(
        tmp_path / "p.star",
        [(8, 12, 10), (8, 12, 11), (8, 12, 12)],
        rlnMicrographName=["TS_11", name, "1"],
    )
    extraction = extract_subtomograms(
        tmp_path / file, star, size=4, output=tmp_path / "out"
    )
    assert extraction.names == ["2"]


def test_another_name_is_warned_of_unless_it_is_given(folder):
    star = write_star(folder / "ts02.star", [(8, 12, 10)], rlnTomoName=["TS_02"])
    options = {"size": 4, "output": folder / "out", "overwrite": True}
    with pytest.warns(
        UserWarning,
        match=r"TS_01\.mrc is taken for TS_02.*--tomogram-name TS_02 .* says",
    ) as found:
        extract_subtomograms(folder / "TS_01.mrc", star, **options)
    assert found[0].filename == __file__
    # Warnings are errors here.
    extract_subtomograms(folder / "TS_01.mrc", star, tomogram_name="TS_02", **options)
    (folder / "TS_01.mrc").rename(folder / "rec_TS_02.mrc")
    extract_subtomograms(folder / "rec_TS_02.mrc", star, **options)


def test_particles_of_other_tomograms_are_counted(folder):
    star = write_star(
        folder / "p.star",
        [(8, 12, 10)] * 4,
        rlnTomoName=["TS_02", "TS_01", "TS_03", "TS_02"],
        rlnTomoParticleName=list("abcd"),
    )
    extraction, *_ = extract(folder, star)
    assert extraction.missing == {"TS_02": 2, "TS_03": 1}
    assert extraction.unused == []
    assert (
        "3 left out, of 2 tomograms that were not given: TS_02 (2), TS_03 (1)."
        in extraction.summary()
    )
    options = {"tomogram_name": "TS_02", "selection": ["a", "b"], "overwrite": True}
    assert extract(folder, star, **options)[0].missing == {"TS_01": 1}


def test_output_that_is_a_file(folder):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    for output in (star, star / "deeper"):
        with pytest.raises(NotADirectoryError, match=r"p\.star is a file; expected a"):
            extract(folder, star, output=output)
    assert star.is_file()


def test_failure_leaves_no_empty_folder(folder):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    with (folder / "TS_01.mrc").open("r+b") as file:
        file.seek(1024 + 4 * np.ravel_multi_index((8, 12, 10), SHAPE))
        file.write(np.float32(np.nan).tobytes())
    (folder / "mine").mkdir()
    for output in ("out", "a/b", "mine", "mine/c"):
        with pytest.raises(ValueError, match="particle 1: .* NaN"):
            extract(folder, star, output=folder / output)
    left = {path.name for path in folder.rglob("*")}
    assert left == {"TS_01.mrc", "p.star", "mine"}


def test_tomogram_can_be_named(folder):
    star = write_star(
        folder / "p.star", [(8, 12, 10), (8, 12, 11)], rlnTomoName=["a", "b"]
    )
    with pytest.raises(ValueError, match=r"\(a, b\).*TS_01\.mrc.*--tomogram-name"):
        extract(folder, star)
    assert extract(folder, star, tomogram_name="b")[0].names == ["2"]
    with pytest.raises(ValueError, match="'c'"):
        extract(folder, star, tomogram_name="c", overwrite=True)


def test_selection(folder):
    star = write_star(
        folder / "p.star",
        [(8, 12, 10), (8, 12, 11), (8, 12, 12)],
        rlnTomoParticleName=["t/1", "t/2", "t/3"],
    )
    extraction, _, particles = extract(folder, star, selection=["t/3", "t/1"])
    assert extraction.names == ["t/1", "t/3"]
    assert particles.loop.column("rlnCoordinateX") == ["10", "12"]
    with pytest.raises(ValueError, match=r"1 particles are not in .*\(t/9\)"):
        extract(folder, star, selection=["t/1", "t/9"], overwrite=True)


def test_coordinates_of_another_pixel_size(folder, tomogram):
    star = write_star(folder / "p.star", [(32, 48, 40)])
    with pytest.raises(ValueError, match="z=32.0, y=48.0, x=40.0"):
        extract(folder, star)
    assert not (folder / "out").exists()
    _, volumes, particles = extract(folder, star, coordinate_voxel_size=2.5)
    assert volumes[0, 2, 2, 2] == tomogram[8, 12, 10]
    assert particles.loop.column("rlnCoordinateX") == ["40"]


def test_existing_files_are_kept_unless_asked(folder):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    extract(folder, star)
    with pytest.raises(FileExistsError, match=r"subtomograms\.mrc.*--overwrite"):
        extract(folder, star, size=6)
    _, volumes, _ = extract(folder, star, size=6, overwrite=True)
    assert volumes.shape == (1, 6, 6, 6)
    with pytest.raises(ValueError, match="is the input"):
        extract(folder, folder / "out" / "particles.star", overwrite=True)


def test_failure_leaves_the_old_files(folder):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    extract(folder, star)
    with (folder / "TS_01.mrc").open("r+b") as file:
        file.seek(1024 + 4 * np.ravel_multi_index((8, 12, 10), SHAPE))
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(ValueError, match=r"TS_01\.mrc, particle 1: .* NaN"):
        extract(folder, star, overwrite=True)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "particles.star",
        "subtomograms.mrc",
    ]
    assert np.isfinite(read_volume_stack(folder / "out" / "subtomograms.mrc")[0]).all()


def test_tilt_series_is_refused(tmp_path, tomogram):
    with mrcfile.new(tmp_path / "TS_01.mrc") as mrc:
        mrc.set_data(tomogram)
        mrc.set_image_stack()
        mrc.voxel_size = 10.0
    star = write_star(tmp_path / "p.star", [(8, 12, 10)])
    with pytest.raises(ValueError, match="16 images"):
        extract(tmp_path, star)
    assert len(extract(tmp_path, star, allow_image_stacks=True)[1]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 2.5}, "size=2.5"),
        ({"binning": 0}, "binning=0"),
        ({"edge": "cut"}, "edge='cut'"),
        ({"size": 10**6, "edge": "pad"}, "size=1000000"),
        ({"voxel_size": -1.0}, "voxel_size"),
        ({"coordinate_units": "metres"}, "'metres'"),
    ],
)
def test_bad_parameters(folder, options, message):
    star = write_star(folder / "p.star", [(8, 12, 10)])
    with pytest.raises(ValueError, match=message):
        extract(folder, star, **options)
    assert not (folder / "out").exists()


def test_unknown_voxel_size(tmp_path, tomogram):
    write_volume(tmp_path / "TS_01.mrc", tomogram, None)
    star = write_star(tmp_path / "p.star", [(8, 12, 10)])
    with pytest.raises(ValueError, match=r"TS_01\.mrc: .*--voxel-size"):
        extract(tmp_path, star)
    assert extract(tmp_path, star, voxel_size=7.0)[0].voxel_size == 7.0


def test_warp_coordinates_count_in_the_detectors_pixels(folder, tomogram):
    star = write_star(
        folder / "p.star",
        [(32, 48, 40)],
        rlnMicrographName=["TS_01.tomostar"],
        rlnDetectorPixelSize=[2.5],
        rlnMagnification=[10000.0],
    )
    _, volumes, particles = extract(folder, star)
    assert volumes[0, 2, 2, 2] == tomogram[8, 12, 10]
    assert particles.voxel_size == 10.0
    np.testing.assert_allclose(particles.coordinates(10.0), [(8, 12, 10)])
    assert particles.loop.column("rlnMagnification") == ["10000.0"]


def test_shifts_in_pixels_of_old_files_are_applied_once(folder, tomogram):
    star = write_star(
        folder / "p.star",
        [(8, 12, 10)],
        rlnOriginX=[-2.0],
        rlnOriginY=[1.25],
        rlnOriginZ=[0.0],
    )
    _, volumes, particles = extract(folder, star)
    assert volumes[0, 2, 2, 2] == tomogram[8, 11, 12]
    found = particles.coordinates(10.0, SHAPE)
    np.testing.assert_allclose(found, [(8, 10.75, 12)], atol=2e-4)
    # What is left of them, in angstroms and in pixels.
    for tag, value in (("rlnOriginYAngst", 2.5), ("rlnOriginY", 0.25)):
        assert float(particles.loop.column(tag)[0]) == pytest.approx(value)


def test_the_rest_of_the_file_keeps_its_bytes(folder):
    star = folder / "p.star"
    text = (
        "# made by hand\r\ndata_other\r\n\r\n_note  'some text'\r\n\r\n"
        "data_particles\r\nloop_\r\n_rlnCoordinateX\r\n_rlnCoordinateY\r\n_rlnCoordinateZ\r\n_odd\r\n"
        "10 12  8.0 'a b'\r\n# a comment\r\n99 12 8 gone\r\n11   12 7 \"c\"\r\n"
    )
    star.write_bytes(text.encode())
    extraction, *_ = extract(folder, star)
    written = extraction.star.read_bytes().decode()
    lines = [line for line in text.split("\r\n") if "gone" not in line and line]
    for line in lines:
        assert f"{line}\r\n" in written or f"{line} " in written
    assert "gone" not in written
    assert "\n" not in written.replace("\r\n", "")


def test_particles_without_optics_are_volumes_afterwards(folder):
    star = write_star(
        folder / "p.star",
        [(8, 12, 10), (5, 6, 7)],
        rlnImageDimensionality=[2, 2],
        rlnImageSize=[64, 64],
    )
    assert read_particles(star).is_image_stack
    particles = extract(folder, star, size=5)[2]
    assert not particles.is_image_stack
    assert particles.loop.columns(["rlnImageDimensionality", "rlnImageSize"]) == {
        "rlnImageDimensionality": ["3", "3"],
        "rlnImageSize": ["5", "5"],
    }


# Several tomograms

SHAPES = {"TS_01": SHAPE, "TS_02": (20, 18, 26)}
MIXED = ["TS_02", "TS_01", "TS_01", "TS_02", "TS_01", "TS_02"]


@pytest.fixture
def series(tmp_path):
    """Tomograms of two shapes, and a STAR file that mixes and shifts particles."""
    for seed, (name, shape) in enumerate(SHAPES.items()):
        volume = np.random.default_rng(seed).normal(size=shape)
        write_volume(tmp_path / f"rec_{name}.mrc", volume, 10.0)
    rng = np.random.default_rng(2)
    columns = {
        f"rlnCenteredCoordinate{axis}Angst": rng.uniform(-30, 30, len(MIXED))
        for axis in "XYZ"
    }
    # One over the edge.
    columns["rlnCenteredCoordinateXAngst"][4] = 95.0
    columns |= {f"rlnOrigin{axis}Angst": rng.normal(size=len(MIXED)) for axis in "XYZ"}
    columns["rlnTomoName"] = MIXED
    columns["rlnTomoParticleName"] = [f"{name}/{i}" for i, name in enumerate(MIXED)]
    write_particles(tmp_path / "p.star", columns)
    return tmp_path


def paths_of(folder, names=tuple(SHAPES)):
    return [folder / f"rec_{name}.mrc" for name in names]


@pytest.mark.parametrize("options", [{}, {"binning": 2, "edge": "pad", "size": 3}])
def test_each_row_is_cut_from_its_own_tomogram(series, options):
    options = {"size": 4, **options}
    together = extract_subtomograms(
        paths_of(series), series / "p.star", output=series / "out", **options
    )
    volumes, _ = read_volume_stack(together.stack)
    rows = read_particles(together.star)
    for name, path in zip(SHAPES, paths_of(series), strict=True):
        alone = extract_subtomograms(
            path, series / "p.star", output=series / name, **options
        )
        mine = [i for i, other in enumerate(rows.tomogram_names) if other == name]
        np.testing.assert_array_equal(volumes[mine], read_volume_stack(alone.stack)[0])
        expected = read_particles(alone.star).loop
        tags = [tag for tag in expected.tags if tag != "rlnImageName"]
        assert rows.select(mine).loop.columns(tags) == expected.columns(tags)
    # In the order of the file, in which tomograms are mixed.
    names = [f"{name}/{i}" for i, name in enumerate(MIXED)]
    assert together.dropped + together.padded == ["TS_01/4"]
    assert together.names == [name for name in names if name not in together.dropped]
    assert rows.image_names == [
        f"{i + 1:06d}@subtomograms.mrc" for i in range(len(volumes))
    ]
    assert (together.missing, together.unused) == ({}, [])


def test_one_tomogram_in_a_list_is_that_tomogram(series):
    for tomogram, output in ((paths_of(series)[1], "a"), ([paths_of(series)[1]], "b")):
        extract_subtomograms(
            tomogram, series / "p.star", size=4, output=series / output
        )
    for name in ("subtomograms.mrc", "particles.star"):
        # The header of a stack tells when it was made.
        a, b = ((series / folder / name).read_bytes() for folder in "ab")
        assert a[1024:] == b[1024:]
        assert len(a) == len(b)


def test_what_has_no_tomogram_is_left_out_and_counted(series):
    table = read_particles(series / "p.star")
    names = ["TS_02", "TS_01", "TS_04", "TS_03", "TS_01", "TS_03"]
    table.with_columns({"rlnTomoName": names}).write(series / "q.star")
    write_volume(series / "rec_TS_05.mrc", np.zeros(SHAPE), 20.0)
    files = paths_of(series, ["TS_05", *SHAPES])
    options = {"size": 4, "output": series / "out", "overwrite": True}
    extraction = extract_subtomograms(files, series / "q.star", **options)
    assert extraction.names == ["TS_02/0", "TS_01/1"]
    assert extraction.missing == {"TS_04": 1, "TS_03": 2}
    assert extraction.unused == ["rec_TS_05.mrc"]
    summary = extraction.summary()
    assert "3 left out, of 2 tomograms that were not given: TS_04 (1), TS_03 (2)." in (
        summary
    )
    assert "1 tomograms have no particle in the STAR file: rec_TS_05.mrc." in summary
    # Of the chosen particles only.
    extraction = extract_subtomograms(
        files, series / "q.star", selection=["TS_01/1", "TS_02/3"], **options
    )
    assert extraction.names == ["TS_01/1"]
    assert extraction.missing == {"TS_03": 1}
    with pytest.raises(ValueError, match="no particle of these tomograms"):
        extract_subtomograms(files, series / "q.star", selection=["TS_02/3"], **options)


def test_tomograms_are_open_one_at_a_time(series, monkeypatch):
    opened = []

    def spy(path, **options):
        opened.append(path.name[4:9])
        return open_tomogram(path, **options)

    monkeypatch.setattr("sksubtomo.io.extraction.open_tomogram", spy)
    for path in paths_of(series):
        with path.open("r+b") as file:
            file.seek(208)
            file.write(b"\0\0\0\0")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        extract_subtomograms(
            paths_of(series), series / "p.star", size=4, output=series / "out"
        )
    # Each for its shape and voxel size, of which the last is the first row's; then as
    # the rows have them, of which one of TS_01's is dropped.
    assert opened == ["TS_01", "TS_02", "TS_01", "TS_02"]
    assert len(found) == 2


def test_voxel_sizes_of_tomograms_have_to_agree(series):
    first, second = paths_of(series)
    options = {"size": 4, "output": series / "out", "overwrite": True}
    with mrcfile.open(second, "r+") as mrc:
        mrc.voxel_size = 10.2
    with pytest.raises(
        ValueError,
        match=r"rec_TS_02\.mrc: has voxels of 10\.2 A, .*rec_TS_01\.mrc of 10 A",
    ):
        extract_subtomograms([first, second], series / "p.star", **options)
    assert not (series / "out").exists()
    extraction = extract_subtomograms(
        [first, second], series / "p.star", voxel_size=10.1, **options
    )
    assert extraction.voxel_size == 10.1
    # Within the tolerance positions count in each one's own voxels.
    with mrcfile.open(second, "r+") as mrc:
        mrc.voxel_size = 10.09
    extraction = extract_subtomograms([first, second], series / "p.star", **options)
    assert extraction.voxel_size == 10.0
    before, after = read_particles(series / "p.star"), read_particles(extraction.star)
    for name, size in (("TS_01", 10.0), ("TS_02", 10.09)):
        where = (size, SHAPES[name])
        old, new = (
            table.select(np.array(table.tomogram_names) == name)
            for table in (before, after)
        )
        inside = [row != "TS_01/4" for row in old.loop.column("rlnTomoParticleName")]
        np.testing.assert_allclose(
            new.coordinates(*where), old.select(inside).coordinates(*where), atol=2e-4
        )
        boxes = new.coordinates(*where, apply_shifts=False)
        np.testing.assert_allclose(boxes, boxes.round(), atol=2e-4)


def test_several_tomograms_that_cannot_be_told_apart(series):
    files = paths_of(series)
    options = {"size": 4, "output": series / "out"}

    def refused(message, tomograms=files, star="p.star", **more):
        with pytest.raises(ValueError, match=message):
            extract_subtomograms(tomograms, series / star, **options, **more)
        assert not (series / "out").exists()

    refused(r"rec_TS_01\.mrc and .*rec_TS_01\.mrc are both", [*files, files[0]])
    refused("tomogram_name='TS_01' is for one tomogram, and 2", tomogram_name="TS_01")
    refused(r"tomogram=\[\]", [])
    table = read_particles(series / "p.star")
    table.with_columns({"rlnTomoName": list("abcdef")}).write(series / "q.star")
    refused(r"none of its tomograms \(a, b.* rec_TS_01\.mrc, rec_TS_02", star="q.star")
    names = ["TS_01.mrc", "TS_01", *"abcd"]
    table.with_columns({"rlnTomoName": names}).write(series / "q.star")
    refused(r"2 of its tomograms .*rec_TS_01\.mrc; expected one\.", star="q.star")
    write_star(series / "q.star", [(8, 12, 10)])
    refused("has no column rlnTomoName.* 2 tomograms", star="q.star")
    with pytest.raises(FileNotFoundError, match=r"rec_TS_03\.mrc"):
        extract_subtomograms(
            paths_of(series, ["TS_01", "TS_03"]), series / "p.star", **options
        )


def test_boxes_in_none_of_several_tomograms(series):
    with pytest.raises(
        ValueError,
        match=r"of 6 boxes .* first is rec_TS_02\.mrc, of shape \(20, 18, 26\)",
    ):
        extract_subtomograms(
            paths_of(series), series / "p.star", size=4, output=series, voxel_size=0.1
        )
    with pytest.raises(ValueError, match=r"size=60 .*rec_TS_01\.mrc has shape"):
        extract_subtomograms(
            paths_of(series), series / "p.star", size=60, output=series
        )
