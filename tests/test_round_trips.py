"""What one part of the package writes, another one reads."""

import re
from functools import partial

import emfile
import h5py
import numpy as np
import pytest
import zarr
from gemmi import cif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sksubtomo import ContrastivePretrainer, ReadVolumes
from sksubtomo.cli import main
from sksubtomo.datasets import (
    make_subtomograms,
    make_tomogram,
    write_subtomograms,
    write_tomogram,
)
from sksubtomo.io import (
    extract_subtomograms,
    list_references,
    read_particles,
    read_star,
    read_volume_stack,
    read_volumes,
    write_particles,
    write_volume,
    write_volume_stack,
)
from sksubtomo.picking import Picks, match_picks, write_picks
from sksubtomo.workflows import classify_particles, default_classifier

QUICK = ["--fine-tune-epochs", "1", "--device", "cpu"]
QUICK_CLASSIFIER = default_classifier(
    max_epochs=1, pretrainer__max_epochs=1, device="cpu", pretrainer__device="cpu"
)
# Of odd and even sides; points away from its middle along each axis.
SHAPE = (17, 24, 21)
POINTS = np.array([(8, 13, 10), (6, 9, 12), (10, 14, 7)])


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


# Coordinates


def write_points(path, voxel_size):
    """Write a tomogram in which voxels at the points are bright."""
    tomogram = np.zeros(SHAPE, np.float32)
    tomogram[tuple(POINTS.T)] = np.arange(1, len(POINTS) + 1)
    write_volume(path, tomogram, voxel_size)
    return path


def write_coordinates(path, tag, coordinates, **optics):
    """Write coordinates z, y, x, as columns for X, Y and Z."""
    columns = {tag.format("ZYX"[k]): coordinates[:, k] for k in range(3)}
    write_particles(path, columns, optics=optics or None)
    return path


def check_points(extraction, size, voxel_size):
    volumes, found = read_volume_stack(extraction.stack)
    assert found == voxel_size
    centre = size // 2
    np.testing.assert_array_equal(
        volumes[:, centre, centre, centre], np.arange(1, len(POINTS) + 1)
    )
    # And once more from what was written.
    after = read_particles(extraction.star).coordinates(voxel_size, SHAPE)
    np.testing.assert_allclose(after, POINTS, atol=1e-6)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("case", ["pixels", "centred", "binned", "centred and binned"])
def test_a_bright_voxel_is_the_centre_of_its_box(tmp_path, size, case):
    star = tmp_path / "p.star"
    tomogram = write_points(tmp_path / "TS_01.mrc", 10.0)
    pixels, angstroms = "rlnCoordinate{}", "rlnCenteredCoordinate{}Angst"
    centred = (POINTS - np.array(SHAPE) / 2) * 10.0
    if case == "pixels":
        write_coordinates(star, pixels, POINTS)
    elif case == "centred":
        write_coordinates(star, angstroms, centred)
    elif case == "binned":
        # In pixels of the tilt series, of which four are a voxel.
        write_coordinates(star, pixels, 4 * POINTS, rlnTomoTiltSeriesPixelSize=2.5)
    else:
        write_coordinates(star, angstroms, centred, rlnTomoTiltSeriesPixelSize=2.5)
    found = read_particles(star).coordinates(10.0, SHAPE)
    np.testing.assert_array_equal(found, POINTS)
    extraction = extract_subtomograms(
        tomogram, star, size=size, output=tmp_path / "out"
    )
    check_points(extraction, size, 10.0)


@pytest.mark.parametrize("size", [6, 7])
def test_picks_are_where_they_were_picked(tmp_path, size):
    tomogram = write_points(tmp_path / "TS_01.mrc", 13.5)
    picks = Picks(POINTS.astype(float), np.arange(3.0), 13.5, 60.0)
    write_picks(tmp_path / "p.star", picks, tomogram_name="TS_01", tomogram_shape=SHAPE)
    for units in ("pixels", "angstroms_centered"):
        extraction = extract_subtomograms(
            tomogram,
            tmp_path / "p.star",
            size=size,
            output=tmp_path / units,
            coordinate_units=units,
        )
        check_points(extraction, size, 13.5)


def test_simulated_complexes_are_in_the_middle_of_their_boxes(tmp_path):
    scene = make_tomogram(6, shape=(40, 48, 48), voxel_size=20.0, random_state=0)
    # Only what each complex's voxel is called, not what it looks like.
    nearest = np.floor(scene.coordinates + 0.5).astype(int)
    scene.tomogram = np.zeros_like(scene.tomogram)
    scene.tomogram[tuple(nearest.T)] = np.arange(1, 7)
    star = write_tomogram(tmp_path, scene)
    particles = read_particles(star)
    coordinates = particles.coordinates(20.0, scene.tomogram.shape)
    # Four decimals are written.
    np.testing.assert_allclose(coordinates, scene.coordinates, rtol=0, atol=5e-5)
    extraction = extract_subtomograms(
        tmp_path / "tomogram.mrc", star, size=7, output=tmp_path / "out", edge="pad"
    )
    volumes, _ = read_volume_stack(extraction.stack)
    np.testing.assert_array_equal(volumes[:, 3, 3, 3], np.arange(1, 7))
    after = read_particles(extraction.star)
    np.testing.assert_allclose(
        after.coordinates(20.0, scene.tomogram.shape), coordinates, atol=1e-4
    )
    assert after.loop.column("sksubtomoClass") == particles.loop.column(
        "sksubtomoClass"
    )


# From one command to the next


def test_from_a_tomogram_to_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scene = make_tomogram(
        24,
        structures=["rubisco", "apoferritin"],
        shape=(32, 64, 64),
        voxel_size=20.0,
        snr=np.inf,
        random_state=0,
    )
    write_tomogram("sim", scene)
    run(
        *["pick", "sim/tomogram.mrc", "--diameter", 140, "--contrast", "light"],
        *["--number", 24, "--output", "picks.star", "--tomogram-name", "001"],
    )
    run(
        *["extract", "sim/tomogram.mrc", "picks.star", "--size", 8, "--output", "cut"],
        *["--tomogram-name", "001"],
    )
    particles = read_particles("cut/particles.star")
    assert len(read_volumes("cut/particles.star", invert_contrast=False)) == len(
        particles
    )
    found = particles.coordinates(20.0, scene.tomogram.shape)
    picks = Picks(found, np.ones(len(found)), 20.0, 140.0)
    pairs = match_picks(picks, scene.coordinates, tolerance=3)
    assert pairs.precision > 0.7
    names = np.array(particles.image_names)
    rows = [f"{name},{i % 2}\n" for i, name in enumerate(names[:8])]
    (tmp_path / "labels.csv").write_text("particle,label\n" + "".join(rows))
    run(
        *["classify", "cut/particles.star", "--labels", "labels.csv"],
        *["--output", "cut/out.star", "--epochs", 1, "--no-invert-contrast", *QUICK],
    )
    before, after = (
        read_star(path).block("particles").loops[0]
        for path in ("cut/particles.star", "cut/out.star")
    )
    assert after.columns(before.tags) == before.columns(before.tags)
    assert set(after.column("rlnTomoName")) == {"001"}
    assert set(after.column("sksubtomoClass")) <= {"0", "1"}
    assert capsys.readouterr().err.count("warning") == 0
    assert len(read_volumes("cut/out.star", invert_contrast=False)) == len(names)


def test_a_folder_from_which_the_volumes_are_not_found_is_told(project, monkeypatch):
    for folder in ("cut", "cut/below", "other"):
        (project / folder).mkdir()
    (project / "stack.mrc").rename("cut/stack.mrc")
    (project / "cut/p.star").write_text(loop(*PLAIN))
    labels = ["a", "b", *[None] * (N - 2)]
    classify = partial(classify_particles, "cut/p.star", classifier=QUICK_CLASSIFIER)
    for output in ("cut/out.star", "cut/below/out.star"):
        classify(labels, output=output)
        assert read_particles(output).resolve_image(0)[0].is_file()
    with pytest.warns(UserWarning, match=r"other/out\.star: .*folder cut to find them"):
        classify(labels, output="other/out.star")
    with pytest.raises(FileNotFoundError):
        read_particles("other/out.star").resolve_image(0)
    monkeypatch.chdir("cut")
    classify_particles(
        "p.star", labels, classifier=QUICK_CLASSIFIER, output="../other/2.star"
    )


def test_simulated_subtomograms_are_classified_from_their_own_columns(tmp_path):
    star = write_subtomograms(
        tmp_path, 6, structures=["rubisco", "groel"], size=8, random_state=0
    )
    X, y = make_subtomograms(
        6, structures=["rubisco", "groel"], size=8, random_state=0, return_X_y=True
    )
    subtomograms = read_volumes(star)
    np.testing.assert_array_equal(subtomograms.volumes, X)
    result = classify_particles(
        star,
        labels_column="sksubtomoClass",
        classifier=QUICK_CLASSIFIER,
        output=tmp_path / "out.star",
    )
    assert result.labels.tolist() == [["rubisco", "groel"][k] for k in y]
    # Classes written by the simulator are not those of a classification.
    after = read_particles(tmp_path / "out.star").loop
    before = read_particles(star).loop
    assert after.column("rlnImageName") == before.column("rlnImageName")


def test_cross_validation_on_the_references_of_a_star_file(tmp_path):
    star = write_subtomograms(
        tmp_path, 6, structures=["rubisco", "groel"], size=8, random_state=0
    )
    y = read_particles(star).loop.column("sksubtomoClass")
    pipeline = make_pipeline(
        ReadVolumes(invert_contrast=False),
        ContrastivePretrainer(max_epochs=1, device="cpu", random_state=0),
        LogisticRegression(),
    )
    scores = cross_val_score(pipeline, list_references(star), y, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_all_formats_give_the_same_embeddings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(3, 8, 8, 8)).astype(np.float32)
    write_volume_stack("x.mrc", X, 10)
    with h5py.File("x.h5", "w") as file:
        file["other"] = np.arange(3)
        file.create_dataset("volumes", data=X, compression="gzip")
    zarr.create_array("x.zarr", data=X.transpose(0, 3, 2, 1))
    (tmp_path / "em").mkdir()
    for number, volume in enumerate(X):
        emfile.write(f"em/{number}.em", volume)
    names = [f"{i}@x.mrc" for i in (1, 2, 3)]
    write_particles("x.star", {"rlnImageName": names})
    run(*["pretrain", "x.mrc", "--output", "encoder", "--epochs", 1, "--device", "cpu"])
    found = []
    for source in ("x.mrc", "x.star", "x.h5", "em", "x.zarr"):
        axes = ["--axes", "xyz"] if source == "x.zarr" else []
        arguments = ["--encoder", "encoder", "--device", "cpu", "--output", "e.npy"]
        run("transform", source, *arguments, *axes, "--overwrite")
        found.append(np.load("e.npy"))
    for embeddings in found:
        np.testing.assert_array_equal(embeddings, found[0])
    # One EM file is one particle.
    run("transform", "em/1.em", *arguments, "--overwrite")
    np.testing.assert_allclose(np.load("e.npy"), found[0][1:2], atol=1e-6)


def test_a_project_of_several_tomograms(tmp_path, monkeypatch, capsys):
    """A RELION 5 project: one STAR file, tomograms elsewhere, in another order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Tomograms").mkdir()
    (tmp_path / "Picks").mkdir()
    rng = np.random.default_rng(0)
    tomograms = {}
    rows = []
    for name in ("001", "01"):
        tomograms[name] = rng.normal(size=SHAPE).astype(np.float32)
        write_volume(f"Tomograms/rec_{name}.mrc", tomograms[name], 10.0)
        for z, y, x in (POINTS - np.array(SHAPE) / 2) * 10.0:
            rows.append(f"{name} {x} {y} {z} 1\n")
    # The tomograms take turns.
    rows = [rows[i] for i in (0, 3, 1, 4, 2, 5)]
    text = (
        "data_general\n\n_rlnTomoSubTomosAre2DStacks                  1\n\n"
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n"
        "1 2.5\n\ndata_particles\n\nloop_\n_rlnTomoName #1\n"
        "_rlnCenteredCoordinateXAngst #2\n_rlnCenteredCoordinateYAngst #3\n"
        "_rlnCenteredCoordinateZAngst #4\n_rlnOpticsGroup #5\n"
    )
    (tmp_path / "Picks/p.star").write_text(text + "".join(rows))
    for name, tomogram in tomograms.items():
        path = f"Tomograms/rec_{name}.mrc"
        run("extract", path, "Picks/p.star", "--size", 6, "--output", f"Extract/{name}")
        subtomograms = read_volumes(f"Extract/{name}/particles.star")
        assert subtomograms.voxel_size == 10
        assert subtomograms.particles.tomogram_names == [name] * len(POINTS)
        assert not subtomograms.particles.is_image_stack
        np.testing.assert_array_equal(
            subtomograms.volumes[:, 3, 3, 3], tomogram[tuple(POINTS.T)]
        )
    assert "3 subtomograms" in capsys.readouterr().out
    references = np.concatenate(
        [list_references(f"Extract/{name}/particles.star") for name in tomograms]
    )
    each = read_volumes(references).volumes
    assert each.shape == (6, 6, 6, 6)
    paths = [f"Tomograms/rec_{name}.mrc" for name in ("01", "001")]
    run("extract", *paths, "Picks/p.star", "--size", 6, "--output", "Extract/all")
    together = read_volumes("Extract/all/particles.star")
    assert together.particles.tomogram_names == ["001", "01"] * 3
    np.testing.assert_array_equal(together.volumes, each[[0, 3, 1, 4, 2, 5]])


# What programs and people write

N = 6
X = np.random.default_rng(0).normal(size=(N, 8, 8, 8)).astype(np.float32)
ADDED_TAG = re.compile(
    rb"_(rlnClassNumber|sksubtomoClass|sksubtomoProbability)( #\d+)?\r?\n"
)
ADDED_VALUES = re.compile(rb" [12] kind[ab] [01]\.\d{6}")
OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n"


def loop(*rows, tags=("rlnImageName",), block="particles"):
    names = "".join(f"_{tag} #{number}\n" for number, tag in enumerate(tags, 1))
    return f"data_{block}\n\nloop_\n{names}" + "".join(f"{row}\n" for row in rows)


def image(i, file="stack.mrc"):
    return f"{i + 1:06d}@{file}"


def by_gemmi():
    document = cif.Document()
    document.add_new_block("general").set_pair("_rlnTomoSubTomosAre2DStacks", "0")
    table = document.add_new_block("particles").init_loop(
        "_", ["rlnImageName", "rlnTomoName", "note"]
    )
    for i in range(N):
        table.add_row([image(i), "001", cif.quote("two words" if i else "it's #1")])
    return document.as_string()


PLAIN = [image(i) for i in range(N)]
FILES = {
    "by gemmi": by_gemmi(),
    "odd columns": loop(
        *[f"  -0.0\t{image(i)} 1e-30   0x1F  . ?  00{i}" for i in range(N)],
        tags=[
            "x.y[z]",
            "rlnImageName",
            "a-b",
            "%",
            "rlnRandomSubset",
            "?",
            "n",
        ],
    ),
    "quoted strings": loop(
        *[f'"{image(i, "my stack.mrc")}" \'it\'s  "so"\' "" \'\'' for i in range(N)],
        tags=["rlnImageName", "note", "empty", "void"],
    ),
    "several optics groups": OPTICS
    + "1 10.0\n2 10.00\n03 1e1\n\n"
    + loop(
        *[f"{image(i)} {('1', '2', '03')[i % 3]}" for i in range(N)],
        tags=["rlnImageName", "rlnOpticsGroup"],
    ),
    "names like 001": loop(
        *[f"{image(i)} 001 01 1 1e3" for i in range(N)],
        tags=["rlnImageName", "rlnTomoName", "rlnMicrographName", "rlnGroupName", "q"],
    ),
    "windows": (OPTICS + "1 10\n\n" + loop(*PLAIN) + "\ndata_end\n_x  1\n").replace(
        "\n", "\r\n"
    ),
    "no last line end": loop(*PLAIN)[:-1],
    "empty loops": loop(tags=["a", "b"], block="one")
    + "\n"
    + loop(*PLAIN)
    + "\n\n# empty\n"
    + loop(tags=["c"], block="two"),
    "comments and blank lines": "# first\n\n"
    + loop(*[f"{name} # {name}\n\n# next" for name in PLAIN])
    + "\n# last",
    "text fields": loop(
        *[f"{name}\n;lines\nof text\n;" for name in PLAIN],
        tags=["rlnImageName", "rlnComment"],
    )
    + "data_more\n_t\n;long\n;\n",
    "unicode": "data_é\n_µ 'Å'\n\n"
    + loop(*[f"{name} 'Zürich Å'" for name in PLAIN], tags=["rlnImageName", "where"]),
    "blocks of one name and of none": "data_\n_x 1\n\ndata_a\n_x 1\ndata_a\n_x 2\n"
    + loop(*PLAIN),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("stack.mrc", "my stack.mrc"):
        write_volume_stack(tmp_path / name, X, 10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classify(contents, capsys, *arguments):
    """Classify what a STAR file says; its status and what was printed."""
    with open("in.star", "wb") as file:
        file.write(contents)
    with open("labels.csv", "w") as file:
        name = "my stack.mrc" if b"my stack" in contents else "stack.mrc"
        file.write(f"particle,label\n{image(0, name)},kinda\n{image(1, name)},kindb\n")
    files = ["in.star", "--labels", "labels.csv", "--output", "out.star"]
    status = main(["classify", *files, "--epochs", "1", *QUICK, *arguments])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("case", FILES)
def test_what_is_not_ours_keeps_its_bytes(project, capsys, case):
    contents = FILES[case].encode()
    status, error = classify(contents, capsys)
    assert status == 0, error
    written = (project / "out.star").read_bytes()
    tags = ADDED_TAG.findall(written)
    assert [tag for tag, _ in tags] == [
        b"rlnClassNumber",
        b"sksubtomoClass",
        b"sksubtomoProbability",
    ]
    assert len(ADDED_VALUES.findall(written)) == N
    assert ADDED_VALUES.sub(b"", ADDED_TAG.sub(b"", written)) == contents
    # And it can be classified again.
    assert len(read_volumes("out.star", invert_contrast=False)) == N


def test_an_older_class_number_moves(project, capsys):
    rows = [f"{i + 3}\t\t{image(i)}   'a  b'" for i in range(N)]
    tags = ["rlnClassNumber", "rlnImageName", "note"]
    status, error = classify(loop(*rows, tags=tags).encode(), capsys)
    assert status == 0, error
    found = read_particles("out.star").loop
    assert found.tags[:4] == [*tags, "sksubtomoPreviousClassNumber"]
    assert found.column(found.tags[3]) == [str(i + 3) for i in range(N)]
    for i, line in enumerate((project / "out.star").read_text().splitlines()[-N:]):
        assert re.match(rf"[12]\t\t{image(i)}   'a  b' {i + 3} kind[ab] ", line)


TWO_SIZES = (
    OPTICS
    + "1 10.0\n2 5.0\n\n"
    + loop(
        *[f"{name} {i % 2 + 1}" for i, name in enumerate(PLAIN)],
        tags=["rlnImageName", "rlnOpticsGroup"],
    )
)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (loop(), "has no particles; expected at least one"),
        ("data_a\n_x 1\n", "has 0 tables"),
        (loop(*PLAIN) + loop(*PLAIN), "has 2 tables"),
        (loop("1", tags=["rlnCoordinateX"]), "no column rlnImageName.*Extract"),
        (loop(*PLAIN, "1@no.mrc"), r"no\.mrc, the volume of particle 7"),
        (loop(*PLAIN, "7@stack.mrc"), "asks for volume 7"),
        (loop(*PLAIN, "0@stack.mrc"), "particle 7 is called '0@stack.mrc'"),
        (loop(*PLAIN, PLAIN[0]), "belongs to 2 particles"),
        (loop(*PLAIN, "1@stack.mrc 5"), "line 11: the row has"),
        (loop(*PLAIN, "'1@stack.mrc"), "line 11: .*not closed"),
        (TWO_SIZES, "voxel size is 5 A for particle 2 and 10 A for particle 1"),
        (TWO_SIZES.replace("\n2 5.0", ""), "group 2, which data_optics does not have"),
        (TWO_SIZES.replace("1 10.0\n2 5.0\n", ""), "optics.* it has none"),
        (OPTICS + "1 5.0\n\n" + loop(*PLAIN), "10 A; expected 5 A"),
        (
            "data_general\n_rlnTomoSubTomosAre2DStacks 1\n" + loop(*PLAIN),
            "2-D tilt images",
        ),
    ],
)
def test_what_cannot_be_classified_is_one_line(project, capsys, contents, message):
    status, error = classify(contents.encode(), capsys)
    assert status == 2
    (line,) = error.splitlines()
    assert re.search(rf"^sksubtomo classify: error: .*{message}", line)
    assert not (project / "out.star").exists()


def test_contradictory_voxel_sizes_are_overruled(project, capsys):
    status, error = classify(TWO_SIZES.encode(), capsys, "--voxel-size", "10")
    assert status == 0, error
