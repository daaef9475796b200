import random
import re
from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from scipy.spatial.transform import Rotation

from sksubtomo.io import (
    euler_angles,
    read_particles,
    read_star,
    rotation_matrices,
    write_particles,
)

RELION3 = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageSize #4
_rlnImageDimensionality #5
           1 opticsGroup1     10.000000           32            3

# version 30001

data_particles

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnImageName #5
_rlnCtfImage #6
_rlnClassNumber #7
_rlnOpticsGroup #8
001.mrc 10.0 20.0 30.0 Extract/001_1.mrc ctf.mrc 5 1
001.mrc 11.0 21.0 31.0 Extract/001_2.mrc ctf.mrc 5 1
002.mrc 12.0 22.0 32.0 Extract/002_1.mrc ctf.mrc 7 1
"""
RELION4 = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnTomoTiltSeriesPixelSize #2
_rlnTomoSubtomogramBinning #3
_rlnImagePixelSize #4
1 2.5 4.0 10.0
2 5.0 2.0 10.0

data_particles

loop_
_rlnTomoName #1
_rlnTomoParticleName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
_rlnCoordinateZ #5
_rlnOriginXAngst #6
_rlnOriginYAngst #7
_rlnOriginZAngst #8
_rlnImageName #9
_rlnOpticsGroup #10
001 001/1 40.0 80.0 120.0 10.0 -20.0 0.0 PseudoSubtomo/1_data.mrc 1
002 002/1 40.0 80.0 120.0 0.0 0.0 5.0 PseudoSubtomo/2_data.mrc 2
"""
RELION5 = """
data_general

_rlnTomoSubTomosAre2DStacks                       {stacks}

data_optics

loop_
_rlnOpticsGroup #1
_rlnTomoTiltSeriesPixelSize #2
_rlnImagePixelSize #3
_rlnImageDimensionality #4
1 2.5 10.0 {dimensions}

data_particles

loop_
_rlnTomoName #1
_rlnCenteredCoordinateXAngst #2
_rlnCenteredCoordinateYAngst #3
_rlnCenteredCoordinateZAngst #4
_rlnTomoVisibleFrames #5
_rlnImageName #6
_rlnOpticsGroup #7
001 -100.0 50.0 20.0 [1,1,0] Extract/1.mrcs 1
"""
WARP = """
data_

loop_
_rlnMicrographName #1
_rlnMagnification #2
_rlnDetectorPixelSize #3
_rlnCoordinateX #4
_rlnCoordinateY #5
_rlnCoordinateZ #6
_rlnImageName #7
_rlnCtfImage #8
_rlnPixelSize #9
TS_1.tomostar 10000.0 5.0 10.0 20.0 30.0 subtomo/1.mrc subtomo/1_ctf.mrc 5.0
"""
PLAIN = """
data_

loop_
_rlnImageName
000001@stack.mrc
2@stack.mrc
"""
DIALECTS = {
    "relion3.1": RELION3,
    "relion4": RELION4,
    "relion5": RELION5.format(stacks=0, dimensions=3),
    "warp": WARP,
    "plain": PLAIN,
}


@pytest.fixture
def particles(tmp_path):
    def read(text, name="particles.star"):
        path = tmp_path / name
        path.write_text(text)
        return read_particles(path)

    return read


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("by_gemmi", [False, True])
def test_dialects(particles, tmp_path, dialect, by_gemmi):
    text = DIALECTS[dialect]
    if by_gemmi:
        cif.read_string(text).write_file(str(tmp_path / "gemmi.star"))
        text = (tmp_path / "gemmi.star").read_text()
    table = particles(text)
    assert table.dialect == dialect
    n, size, tilt_series_size, tomograms = {
        "relion3.1": (3, 10.0, None, ["001.mrc", "001.mrc", "002.mrc"]),
        "relion4": (2, 10.0, None, ["001", "002"]),
        "relion5": (1, 10.0, 2.5, ["001"]),
        "warp": (1, 5.0, None, ["TS_1.tomostar"]),
        "plain": (2, None, None, None),
    }[dialect]
    assert len(table) == len(table.image_names) == n
    assert table.voxel_size == size
    assert table.tomogram_names == tomograms
    assert not table.is_image_stack
    if dialect != "relion4":
        assert table.tilt_series_voxel_size == tilt_series_size
    assert (table.optics is None) == (dialect in ("warp", "plain"))
    assert table.path == tmp_path / "particles.star"
    star = table.with_columns({"sksubtomoClass": ["a b"] * n})
    star.write(tmp_path / "out.star")
    out = cif.read(str(tmp_path / "out.star"))
    before = cif.read_string(text)
    assert [block.name for block in out] == [block.name for block in before]
    columns = out[-1].find_loop("_sksubtomoClass")
    assert list(columns) == ['"a b"'] * n
    for tag in table.loop.tags:
        assert list(out[-1].find_loop(f"_{tag}")) == list(
            before[-1].find_loop(f"_{tag}")
        )


def test_warp_by_its_own_columns(particles):
    text = PLAIN.replace("_rlnImageName", "_rlnImageName\n_wrpSourceName")
    text = text.replace("stack.mrc\n", "stack.mrc 001\n")
    table = particles(text)
    assert table.dialect == "warp"
    assert table.tomogram_names == ["001", "001"]


@pytest.mark.parametrize(
    ("stacks", "dimensions", "expected"), [(0, 3, False), (1, 3, True), (0, 2, True)]
)
def test_stacks_of_images_are_told(particles, stacks, dimensions, expected):
    table = particles(RELION5.format(stacks=stacks, dimensions=dimensions))
    assert table.is_image_stack == expected


def test_the_table_of_particles(particles):
    with pytest.raises(ValueError, match="has 0 tables .* data_x"):
        particles("data_x\n_a 1\n")
    loop = "loop_\n_rlnCoordinateX\n1\n"
    with pytest.raises(ValueError, match="has 2 tables .* data_x, data_y"):
        particles(f"data_x\n{loop}\ndata_y\n{loop}")
    assert len(particles(f"data_x\n{loop}\ndata_y\nloop_\n_a\n1\n2\n")) == 1
    assert len(particles(f"data_x\n{loop}\ndata_particles\nloop_\n_a\n1\n2\n")) == 2
    assert len(particles("data_anything\nloop_\n_a\n1\n2\n3\n")) == 3
    assert len(particles("data_particles\nloop_\n_rlnImageName\n\n")) == 0


def test_pixels_without_a_size_are_voxels(particles):
    table = particles(RELION3)
    expected = np.array([[30, 20, 10], [31, 21, 11], [32, 22, 12]])
    np.testing.assert_array_equal(table.coordinates(), expected)
    np.testing.assert_array_equal(table.coordinates(10.0), expected)
    # Given, the pixels of the coordinates are those of the tilt series.
    scaled = table.coordinates(10.0, coordinate_voxel_size=2.5)
    np.testing.assert_allclose(scaled, expected / 4)


def test_relion4_pixels_are_those_of_the_tilt_series(particles):
    table = particles(RELION4)
    unbinned = [[120, 88, 36], [119, 80, 40]]
    np.testing.assert_allclose(table.coordinates(), unbinned)
    binned = [[30, 22, 9], [59.5, 40, 20]]
    np.testing.assert_allclose(table.coordinates(10.0), binned)
    np.testing.assert_allclose(
        table.coordinates(10.0, apply_shifts=False), [[30, 20, 10], [60, 40, 20]]
    )
    with pytest.raises(ValueError, match=r"2\.5 A for particle 1 and 5 A for part"):
        _ = table.tilt_series_voxel_size


def test_relion5_counts_from_the_centre(particles):
    table = particles(RELION5.format(stacks=0, dimensions=3))
    # An odd side has its centre between two voxels.
    np.testing.assert_allclose(
        table.coordinates(10.0, (33, 64, 65)), [[16.5 + 2, 32 + 5, 32.5 - 10]]
    )
    # Without a voxel size, that of the tilt series.
    np.testing.assert_allclose(
        table.coordinates(tomogram_shape=(100, 200, 300)), [[58, 120, 110]]
    )
    with pytest.raises(ValueError, match="tomogram_shape: is needed"):
        table.coordinates(10.0)
    with pytest.raises(ValueError, match="tomogram_shape: is .* expected depth"):
        table.coordinates(10.0, (64, 64))
    with pytest.raises(ValueError, match="has no coordinates rlnCoordinateX"):
        table.coordinates(10.0, units="pixels")


def test_each_particle_may_have_a_tomogram_of_its_own(particles):
    row = "002 60.0 -30.0 10.0 [1,1,0] Extract/2.mrcs 1\n"
    table = particles(RELION5.format(stacks=0, dimensions=3) + row)
    sizes, shapes = [10.0, 20.0], [(33, 64, 65), (20, 30, 41)]
    found = table.coordinates(np.array(sizes), np.array(shapes))
    for i, (size, shape) in enumerate(zip(sizes, shapes, strict=True)):
        np.testing.assert_array_equal(found[i], table.coordinates(size, shape)[i])
    with pytest.raises(ValueError, match=r"voxel_size: has shape \(3,\).* 2 particles"):
        table.coordinates(np.ones(3), (33, 64, 65))
    with pytest.raises(ValueError, match="voxel_size: is .* above 0"):
        table.coordinates(np.array([10.0, 0.0]), (33, 64, 65))
    with pytest.raises(ValueError, match="tomogram_shape: is .* expected depth"):
        table.coordinates(10.0, np.ones((1, 3)))


def test_units_choose_between_both_kinds(particles):
    text = RELION5.format(stacks=0, dimensions=3)
    text = text.replace(
        "_rlnOpticsGroup #7",
        "_rlnOpticsGroup #7\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ",
    ).replace("1.mrcs 1", "1.mrcs 1 40 80 120")
    table = particles(text)
    np.testing.assert_allclose(table.coordinates(10.0, units="pixels"), [[30, 20, 10]])
    shape = (64, 64, 64)
    np.testing.assert_allclose(table.coordinates(10.0, shape), [[34, 37, 22]])
    with pytest.raises(ValueError, match="units: is 'nm'; expected 'pixels'"):
        table.coordinates(10.0, units="nm")


def test_warp_pixels_are_those_of_its_images(particles):
    for text in (WARP, re.sub(r"_rlnPixelSize.*\n|(?<=ctf\.mrc) 5\.0", "", WARP)):
        table = particles(text)
        np.testing.assert_allclose(table.coordinates(), [[30, 20, 10]])
        np.testing.assert_allclose(table.coordinates(10.0), [[15, 10, 5]])


def test_old_origins_are_pixels_of_the_images(particles):
    text = WARP.replace(
        "_rlnPixelSize #9", "_rlnPixelSize #9\n_rlnOriginX\n_rlnOriginZ"
    )
    table = particles(text.replace("ctf.mrc 5.0", "ctf.mrc 5.0 2.0 -4.0"))
    np.testing.assert_allclose(table.coordinates(10.0), [[17, 10, 4]])


def test_shifts_turn_with_the_subtomogram(particles):
    angles = [30.0, 40.0, 50.0]
    text = RELION4.replace(
        "_rlnOpticsGroup #10",
        "_rlnOpticsGroup #10\n_rlnTomoSubtomogramRot\n_rlnTomoSubtomogramTilt\n"
        "_rlnTomoSubtomogramPsi",
    )
    text = text.replace("1_data.mrc 1", "1_data.mrc 1 30 40 50")
    text = text.replace("2_data.mrc 2", "2_data.mrc 2 0 0 0")
    cr, sr, ct, st, cp, sp = (
        function(np.deg2rad(angle)) for angle in angles for function in (np.cos, np.sin)
    )
    # RELION's own matrix, Euler_angles2matrix.
    matrix = np.array(
        [
            [cp * ct * cr - sp * sr, cp * ct * sr + sp * cr, -cp * st],
            [-sp * ct * cr - cp * sr, -sp * ct * sr + cp * cr, sp * st],
            [st * cr, st * sr, ct],
        ]
    )
    expected = np.array([40, 80, 120]) - matrix @ [10, -20, 0] / 2.5
    np.testing.assert_allclose(particles(text).coordinates()[0], expected[::-1])


def test_shifts_in_angstroms_need_a_size(particles):
    text = RELION3.replace("_rlnCtfImage", "_rlnOriginXAngst")
    with pytest.raises(ValueError, match="rlnOriginXAngst of particle 1 is 'ctf.mrc'"):
        particles(text).coordinates(10.0)
    table = particles(text.replace("ctf.mrc", "20.0"))
    with pytest.raises(ValueError, match="voxel_size: is needed"):
        table.coordinates()
    np.testing.assert_allclose(table.coordinates(10.0)[0], [30, 20, 8])


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "1_0", '""'])
def test_coordinates_are_finite_numbers(particles, value):
    table = particles(RELION3.replace("11.0", value))
    with pytest.raises(ValueError, match="rlnCoordinateX of particle 2 is "):
        table.coordinates()


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_voxel_sizes_are_positive(particles, size):
    for argument in ("voxel_size", "coordinate_voxel_size"):
        with pytest.raises(ValueError, match=f"{argument}: is "):
            particles(RELION3).coordinates(**{argument: size})
    text = RELION3.replace("10.000000 ", f"{size} ")
    with pytest.raises(ValueError, match="rlnImagePixelSize of "):
        _ = particles(text).voxel_size


def test_optics_groups_that_contradict_or_are_missing(particles):
    two = RELION3.replace("32            3\n", "32   3\n2 other 5.0 32 3\n")
    # The other group has no particles.
    assert particles(two).voxel_size == 10.0
    table = particles(two.replace("ctf.mrc 7 1", "ctf.mrc 7 2"))
    with pytest.raises(ValueError, match="is 5 A for particle 3 and 10 A for part"):
        _ = table.voxel_size
    table = particles(two.replace("ctf.mrc 7 1", "ctf.mrc 7 3"))
    with pytest.raises(ValueError, match="particle 3 is of optics group 3.*has 1, 2"):
        _ = table.voxel_size
    table = particles(two.replace("2 other", "1 other"))
    with pytest.raises(ValueError, match="rlnOpticsGroup stands twice"):
        _ = table.voxel_size
    without = two.replace("_rlnOpticsGroup #8", "_other")
    with pytest.raises(ValueError, match="has 2 optics groups, but"):
        _ = particles(without).voxel_size
    assert particles(RELION3.replace("_rlnOpticsGroup #8", "_other")).voxel_size == 10.0


def test_resolve_image(particles, tmp_path, monkeypatch):
    job = tmp_path / "Extract" / "job001"
    job.mkdir(parents=True)
    (job / "stack.mrc").touch()
    (tmp_path / "Extract" / "001_1.mrc").touch()
    table = particles(PLAIN, "Extract/job001/particles.star")
    assert table.resolve_image(0) == (job / "stack.mrc", 0)
    assert table.resolve_image(1) == (job / "stack.mrc", 1)
    # Names count from the folder of the project.
    table = particles(RELION3, "Extract/job001/particles.star")
    assert table.resolve_image(0) == (tmp_path / "Extract" / "001_1.mrc", None)
    with pytest.raises(FileNotFoundError, match="Extract/001_2.mrc, the volume of"):
        table.resolve_image(1)
    other = tmp_path / "other"
    (other / "Extract").mkdir(parents=True)
    (other / "Extract" / "001_2.mrc").touch()
    monkeypatch.chdir(other)
    assert table.resolve_image(1)[0].samefile(other / "Extract" / "001_2.mrc")
    absolute = particles(PLAIN.replace("2@stack", f"2@{job}/stack"))
    assert absolute.resolve_image(1) == (job / "stack.mrc", 1)
    lost = particles(PLAIN.replace("2@stack", "2@/nowhere/stack"))
    with pytest.raises(FileNotFoundError, match="was not found\\.$"):
        lost.resolve_image(1)


@pytest.mark.parametrize(
    "name", ["0@s.mrc", "x@s.mrc", "@s.mrc", "1@", '""', "²@s.mrc"]
)
def test_names_that_are_no_images(particles, name):
    table = particles(PLAIN.replace("2@stack.mrc", name))
    with pytest.raises(ValueError, match="particle 2 is called"):
        table.resolve_image(1)


def test_an_image_name_that_is_not_there(particles):
    table = particles(RELION3.replace("_rlnImageName", "_other"))
    assert table.image_names is None
    with pytest.raises(ValueError, match="has no column rlnImageName"):
        table.resolve_image(0)


def test_with_classes(particles, tmp_path):
    table = particles(RELION3)
    star = table.with_classes(
        np.array([1, 2, 1]), np.array(["a b", "", "a b"]), [0.5, 1, 1 / 3], np.eye(3, 2)
    )
    star.write(tmp_path / "out.star")
    out = (tmp_path / "out.star").read_text()
    tags = ["PreviousClassNumber", "Class", "Probability", "Embedding1", "Embedding2"]
    last = "_rlnOpticsGroup #8\n"
    added = [f"_sksubtomo{tag} #{number}\n" for number, tag in enumerate(tags, 9)]
    expected = RELION3.replace(last, last + "".join(added))
    for old, new in [
        ("1_1.mrc ctf.mrc 5 1", '1_1.mrc ctf.mrc 1 1 5 "a b" 0.500000 1.0 0.0'),
        ("1_2.mrc ctf.mrc 5 1", '1_2.mrc ctf.mrc 2 1 5 "" 1.000000 0.0 1.0'),
        ("2_1.mrc ctf.mrc 7 1", '2_1.mrc ctf.mrc 1 1 7 "a b" 0.333333 0.0 0.0'),
    ]:
        expected = expected.replace(old, new)
    assert out == expected
    # The table itself stays.
    assert "sksubtomoClass" not in table.loop
    again = read_particles(tmp_path / "out.star")
    again.with_classes([3, 1, 2], ["c", "a", "b"], [1, 1, 1]).write(tmp_path / "2.star")
    columns = read_particles(tmp_path / "2.star").loop
    assert columns.tags == [
        *table.loop.tags,
        "sksubtomoPreviousClassNumber",
        "sksubtomoClass",
        "sksubtomoProbability",
    ]
    assert columns.column("rlnClassNumber") == ["3", "1", "2"]
    assert columns.column("sksubtomoPreviousClassNumber") == ["5", "5", "7"]
    assert columns.column("sksubtomoClass") == ["c", "a", "b"]


def test_class_numbers_of_others_are_kept_beside_ours(particles, tmp_path):
    star = particles(RELION3).with_classes([1, 2, 1], ["a", "b", "a"], [1, 1, 1])
    # Another program classifies what this one has written.
    star.block("particles").loops[0].set_column("rlnClassNumber", [4, 4, 6])
    star.write(tmp_path / "out.star")
    star = read_particles(tmp_path / "out.star").with_classes(
        [2, 2, 1], ["b", "b", "a"], [1, 1, 1]
    )
    loop = star.block("particles").loops[0]
    assert loop.column("sksubtomoPreviousClassNumber") == ["5", "5", "7"]
    assert loop.column("sksubtomoPreviousClassNumber2") == ["4", "4", "6"]
    assert loop.column("rlnClassNumber") == ["2", "2", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], ["a", "b", "c"], [1, 1, 1]), "class_numbers: has shape (2,)"),
        (([1, 2, 3], ["a", "b"], [1, 1, 1]), "class_names: has shape (2,)"),
        (([1, 2, 3], ["a", "b", "c"], [[1, 1, 1]]), "probabilities: has shape (1, 3)"),
        (([0, 1, 2], ["a", "b", "c"], [1, 1, 1]), "class_numbers: expected whole"),
        (([1.0, 2, 3], ["a", "b", "c"], [1, 1, 1]), "class_numbers: expected whole"),
        (([1, 2, 3], ["a", "b", "c"], [1, 1, 1.1]), "probabilities: expected numbers"),
        (([1, 2, 3], ["a", "b", "c"], [1, 1, np.nan]), "probabilities: expected numb"),
        (([1, 2, 3], ["a", "b", "c"], [1, 1, 1], np.eye(2)), "embeddings: has shape"),
        (([1, 2, 3], ["a", "b\n", "c"], [1, 1, 1]), "column sksubtomoClass: value"),
    ],
)
def test_with_classes_refuses(particles, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        particles(RELION3).with_classes(*arguments)


def test_with_columns_refuses_another_length(particles):
    with pytest.raises(ValueError, match="column x: has 2 values; .* has 3 rows"):
        particles(RELION3).with_columns({"x": [1, 2]})


def test_write_particles(tmp_path):
    path = tmp_path / "particles.star"
    coordinates = np.float32([1.1, -2.2e-9, 3e7])
    write_particles(
        path,
        {
            "rlnTomoName": ["001", "my tomo", ""],
            "rlnCenteredCoordinateXAngst": coordinates,
            "rlnCenteredCoordinateYAngst": coordinates,
            "rlnCenteredCoordinateZAngst": coordinates,
        },
        optics={"rlnImagePixelSize": 10.0, "rlnImageSize": 32, "rlnVoltage": 300.0},
    )
    table = read_particles(path)
    assert table.dialect == "relion5"
    assert table.tomogram_names == ["001", "my tomo", ""]
    assert table.voxel_size == 10.0
    assert table.optics.column("rlnImageDimensionality") == ["3"]
    assert table.loop.column("rlnOpticsGroup") == ["1", "1", "1"]
    found = table.coordinates(1.0, (10, 10, 10)).T - 5
    np.testing.assert_allclose(found, np.broadcast_to(coordinates, (3, 3)), rtol=1e-6)
    block = cif.read(str(path)).find_block("particles")
    assert [cif.as_string(name) for name in block.find_loop("_rlnTomoName")] == [
        "001",
        "my tomo",
        "",
    ]


def test_write_particles_of_several_optics_groups(tmp_path):
    path = tmp_path / "particles.star"
    columns = {"rlnImageName": np.array(["a.mrc", "b.mrc"]), "rlnOpticsGroup": [2, 1]}
    write_particles(path, columns, optics={"rlnImagePixelSize": [4.0, 5.0]})
    table = read_particles(path)
    assert table.optics.column("rlnOpticsGroup") == ["1", "2"]
    with pytest.raises(ValueError, match="voxel size is 4 A for particle 2"):
        _ = table.voxel_size


def test_write_particles_without_optics_or_rows(tmp_path):
    path = tmp_path / "particles.star"
    write_particles(path, {"rlnImageName": [], "rlnClassNumber": []}, block="")
    star = read_star(path)
    assert [block.name for block in star.blocks] == [""]
    assert read_particles(path).coordinates is not None
    assert len(read_particles(path)) == 0
    assert read_particles(path).voxel_size is None


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {}, "columns: is empty"),
        ({"a": [1], "b": [1, 2]}, {}, "columns of data_particles: differ in length"),
        ({"_a": [1]}, {}, "tag '_a'"),
        ({"a": ["x\ny"]}, {}, "column a: value"),
        ({"a": [1]}, {"block": "my block"}, "block: is 'my block'"),
        ({"a": [1]}, {"optics": {"b": [1, 2], "c": [1]}}, "columns of data_optics"),
    ],
)
def test_write_particles_refuses(tmp_path, columns, options, message):
    path = tmp_path / "particles.star"
    with pytest.raises(ValueError, match=re.escape(message)):
        write_particles(path, columns, **options)
    assert not list(tmp_path.iterdir())


def test_angles_and_rotations():
    rotations = Rotation.random(50, random_state=0).as_matrix()
    angles = euler_angles(rotations)
    np.testing.assert_allclose(rotation_matrices(angles), rotations, atol=1e-12)
    assert (angles[:, 1] >= 0).all()
    matrices = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(matrices, rotations[:, ::-1, ::-1], atol=1e-12)


def test_angles_are_those_of_relion():
    rot, tilt, psi = np.deg2rad([10.0, 20.0, 30.0])
    ca, sa, cb, sb = np.cos(rot), np.sin(rot), np.cos(tilt), np.sin(tilt)
    cg, sg = np.cos(psi), np.sin(psi)
    # Euler_angles2matrix of RELION's src/euler.cpp, on x, y, z.
    matrix = np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )
    np.testing.assert_allclose(
        rotation_matrices([[10, 20, 30]])[0], matrix[::-1, ::-1], atol=1e-12
    )
    np.testing.assert_allclose(
        euler_angles(matrix[None, ::-1, ::-1]), [[10, 20, 30]], atol=1e-9
    )


def test_angles_without_tilt():
    about_z = [[angle, 0, 0] for angle in (0, 90, 180)]
    rotations = Rotation.from_euler("zxz", [*about_z, [20, 180, 0]], degrees=True)
    rotations = rotations.as_matrix()[:, ::-1, ::-1]
    found = rotation_matrices(euler_angles(rotations))
    np.testing.assert_allclose(found, rotations, atol=1e-9)


def test_no_angles():
    assert euler_angles(np.empty((0, 3, 3))).shape == (0, 3)
    assert rotation_matrices(np.empty((0, 3))).shape == (0, 3, 3)


@pytest.mark.parametrize(
    "matrix", [np.ones((3, 3)), -np.eye(3), np.eye(3) * np.nan, np.zeros((3, 3))]
)
def test_what_is_no_rotation(matrix):
    with pytest.raises(ValueError, match="rotations: matrix 1 is no rotation"):
        euler_angles([np.eye(3), matrix])
    with pytest.raises(ValueError, match="rotations: has shape"):
        euler_angles(np.eye(3))
    with pytest.raises(ValueError, match="angles: has shape"):
        rotation_matrices([0, 0, 0])


def test_mutations_give_answers_or_value_errors(tmp_path):
    texts = [text.encode() for text in DIALECTS.values()]
    path = tmp_path / "particles.star"
    n_answers = 0
    messages = []
    for seed in range(300):
        generator = random.Random(seed)
        content = bytearray(texts[seed % len(texts)])
        for _ in range(generator.choice([1, 2, 3])):
            start = generator.randrange(len(content))
            kind = generator.randrange(4)
            if kind == 0:
                content[start] = generator.randrange(256)
            elif kind == 1:
                del content[start : start + generator.randrange(1, 9)]
            elif kind == 2:
                content[start:start] = content[
                    start : start + generator.randrange(1, 40)
                ]
            else:
                del content[max(start, 1) :]
        path.write_bytes(content)
        try:
            table = read_particles(path)
        except ValueError as error:
            messages.append(str(error))
            continue
        for question in (
            lambda table: (table.dialect, table.tomogram_names, table.is_image_stack),
            lambda table: table.voxel_size,
            lambda table: table.coordinates(10.0, (8, 8, 8)),
            lambda table: table.resolve_image(0) if len(table) else None,
        ):
            try:
                question(table)
            except (ValueError, FileNotFoundError) as error:
                messages.append(str(error))
        n = len(table)
        star = table.with_classes([1] * n, ["a"] * n, [1] * n)
        star.write(tmp_path / "out.star")
        again = read_particles(tmp_path / "out.star")
        assert again.loop.column("sksubtomoClass") == ["a"] * n
        for tag in set(table.loop.tags) - {"rlnClassNumber"}:
            assert again.loop.column(tag) == table.loop.column(tag)
        n_answers += 1
    assert 50 < n_answers < 250
    assert all(str(path) in message for message in messages)


def test_paths_may_be_strings(tmp_path):
    write_particles(str(tmp_path / "a.star"), {"rlnImageName": ["1.mrc"]})
    assert read_particles(str(tmp_path / "a.star")).path == Path(tmp_path, "a.star")


def test_selected_particles_keep_the_whole_file(tmp_path):
    path = tmp_path / "p.star"
    rows = [f"{name}  {number}@s.mrc\t'a  b'\n" for name, number in ("01", "22", "03")]
    head = "data_optics\nloop_\n_x\n1\n\ndata_particles\nloop_\n_rlnTomoName #1\n"
    head += "_rlnImageName #2\n_odd #3\n"
    path.write_text(head + "".join(rows) + "\ndata_more\n_y 5\n")
    table = read_particles(path)
    chosen = table.select(np.array([True, False, True]))
    assert chosen.tomogram_names == ["0", "0"]
    assert chosen.image_names == ["1@s.mrc", "3@s.mrc"]
    assert (len(chosen), len(table), chosen.path) == (2, 3, path)
    # Of the table itself nothing changes, and what is chosen can be changed.
    chosen.with_columns({"new": [8, 9]}).write(tmp_path / "new.star")
    chosen.star.write(tmp_path / "out.star")
    assert (tmp_path / "out.star").read_text() == (
        head + rows[0] + rows[2] + "\ndata_more\n_y 5\n"
    )
    assert read_particles(tmp_path / "new.star").loop.column("new") == ["8", "9"]
    assert table.image_names == ["1@s.mrc", "2@s.mrc", "3@s.mrc"]


def test_dimensionality_in_the_particles_own_table(tmp_path):
    path = tmp_path / "p.star"
    write_particles(
        path, {"rlnImageName": ["a", "b"], "rlnImageDimensionality": [3, 2]}
    )
    assert read_particles(path).is_image_stack
    assert not read_particles(path).select([0]).is_image_stack
