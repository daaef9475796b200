import hashlib
import inspect
import json
import threading
import time

import mrcfile
import numpy as np
import pytest
from joblib import parallel_config
from scipy.ndimage import affine_transform
from sklearn.utils import Bunch

from sksubtomo._version import __version__
from sksubtomo.datasets import (
    Microscope,
    Structure,
    SubtomogramSimulator,
    load_phantom,
    make_subtomograms,
    make_tomogram,
    write_subtomograms,
    write_tomogram,
    writing,
)
from sksubtomo.io import read_particles, read_volume_stack, rotation_matrices

PAIR = ["groel", "rna_polymerase_ii"]
SMALL = {"structures": PAIR, "size": 8, "random_state": 0}


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


class TestWriteSubtomograms:
    def test_files_hold_what_make_subtomograms_makes(self, tmp_path):
        path = write_subtomograms(tmp_path / "a" / "b", 5, clean=True, **SMALL)
        expected = make_subtomograms(5, return_clean=True, **SMALL)
        assert path == tmp_path / "a" / "b" / "particles.star"
        assert files_in(path.parent) == [
            "clean.mrc",
            "particles.star",
            "simulation.json",
            "subtomograms.mrc",
        ]
        for name, volumes in (
            ("subtomograms.mrc", expected.data),
            ("clean.mrc", expected.clean),
        ):
            found, voxel_size = read_volume_stack(path.with_name(name))
            np.testing.assert_array_equal(found, volumes)
            assert voxel_size == pytest.approx(expected.voxel_size, rel=1e-5)
            with mrcfile.open(path.with_name(name)) as mrc:
                assert (int(mrc.header.ispg), int(mrc.header.mz)) == (401, 8)
            assert mrcfile.validate(path.with_name(name))
        particles = read_particles(path)
        assert len(particles) == 10
        assert particles.voxel_size == expected.voxel_size
        assert not particles.is_image_stack
        assert particles.resolve_image(9) == (path.with_name("subtomograms.mrc"), 9)
        column = particles.loop.column
        assert column("rlnImageName")[0] == "000001@subtomograms.mrc"
        assert column("rlnClassNumber") == [str(k + 1) for k in expected.target]
        names = expected.target_names[expected.target].tolist()
        assert column("sksubtomoClass") == names
        assert column("sksubtomoNeighbors") == [
            ",".join(row) for row in expected.target_names[expected.neighbors]
        ]
        angles = [column(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
        rotations = rotation_matrices(np.array(angles, dtype=float).T)
        np.testing.assert_allclose(rotations, expected.rotations, atol=1e-5)

    @pytest.mark.parametrize("size", [16, 17])
    def test_shift_and_angles_bring_the_target_back(self, tmp_path, size):
        """Apply them by RELION's rules, and compare with a reference."""
        lopsided = Structure(
            "lopsided", [[0, 0, 0], [60, 0, 0], [0, 40, 20]], [3, 1, 2]
        )
        options = {
            "structures": [lopsided],
            "size": size,
            "voxel_size": 12.0,
            "resolution": 48.0,
            "snr": np.inf,
            "n_neighbors": 0,
            "max_shift": 0.1,
            "microscope": None,
            "tilt_range": (-90.0, 90.0),
            "tilt_step": None,
        }
        path = write_subtomograms(tmp_path, 3, random_state=0, **options)
        volumes, _ = read_volume_stack(tmp_path / "subtomograms.mrc")
        particles = read_particles(path)
        assert "sksubtomoNeighbors" not in particles.loop
        column = particles.loop.column
        angles = [column(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
        origins = [column(f"rlnOrigin{axis}Angst") for axis in "ZYX"]
        shifts = np.array(origins, dtype=float).T / 12.0
        rotations = rotation_matrices(np.array(angles, dtype=float).T)
        # RELION's centre, with the structure's centre of mass on it.
        centre = size // 2
        ticks = (np.indices((size,) * 3) - centre) * 12.0
        reference = np.zeros((size,) * 3)
        sigma = 48.0 / (np.sqrt(2) * np.pi)
        for point, mass in zip(lopsided.coordinates, lopsided.masses, strict=True):
            squared = sum((t - p) ** 2 for t, p in zip(ticks, point, strict=True))
            reference += mass * np.exp(-squared / (2 * sigma**2))
        for volume, shift, rotation in zip(volumes, shifts, rotations, strict=True):
            # A voxel x of the aligned volume comes from R (x - c) + c - shift.
            offset = centre - shift - rotation @ np.full(3, centre)
            aligned = affine_transform(volume.astype(float), rotation, offset, order=3)
            assert np.corrcoef(aligned.ravel(), reference.ravel())[0, 1] > 0.98
            wrong = affine_transform(
                volume.astype(float), rotation, offset + 2 * shift, order=3
            )
            assert np.corrcoef(wrong.ravel(), reference.ravel())[0, 1] < 0.95

    def test_same_bytes_for_any_workers(self, tmp_path, monkeypatch):
        # Several chunks and windows.
        monkeypatch.setattr(writing, "_CHUNK_VOXELS", 3 * 8**3)
        monkeypatch.setattr(writing, "_CHUNKS_PER_JOB", 2)
        found = []
        for backend, n_jobs in (
            ("threading", 1),
            ("threading", 2),
            ("loky", 2),
        ):
            folder = tmp_path / f"{backend}{n_jobs}"
            with parallel_config(backend=backend):
                write_subtomograms(folder, 10, clean=True, n_jobs=n_jobs, **SMALL)
            found.append(digests(folder))
        assert found[0] == found[1] == found[2]
        other = write_subtomograms(
            tmp_path / "other", 10, **SMALL | {"random_state": 1}
        )
        assert digests(other.parent)["subtomograms.mrc"] != found[0]["subtomograms.mrc"]

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_memory_holds_a_few_chunks(self, tmp_path, monkeypatch, n_jobs):
        monkeypatch.setattr(writing, "_CHUNK_VOXELS", 2 * 8**3)
        monkeypatch.setattr(writing, "_CHUNKS_PER_JOB", 3)
        made, written, most = [], [], [0]
        simulate = SubtomogramSimulator.simulate
        write = writing.VolumeStackWriter.write

        def counting_simulate(self, rows, *, clean):
            made.append(1)
            return simulate(self, rows, clean=clean)

        def counting_write(self, volumes):
            most[0] = max(most[0], len(made) - len(written))
            assert len(volumes) <= 2
            write(self, volumes)
            written.append(1)

        monkeypatch.setattr(SubtomogramSimulator, "simulate", counting_simulate)
        monkeypatch.setattr(writing.VolumeStackWriter, "write", counting_write)
        write_subtomograms(tmp_path, 40, n_jobs=n_jobs, **SMALL)
        assert len(made) == len(written) == 40
        assert most[0] <= 3 * n_jobs

    def test_refuses_to_overwrite_unless_told(self, tmp_path):
        write_subtomograms(tmp_path, 2, clean=True, **SMALL)
        before = digests(tmp_path)
        with pytest.raises(FileExistsError, match=r"already holds subtomograms\.mrc"):
            write_subtomograms(tmp_path, 3, **SMALL)
        assert digests(tmp_path) == before
        (tmp_path / "notes.txt").write_text("mine")
        write_subtomograms(tmp_path, 3, overwrite=True, **SMALL)
        # The clean volumes were those of the earlier set.
        assert files_in(tmp_path) == [
            "notes.txt",
            "particles.star",
            "simulation.json",
            "subtomograms.mrc",
        ]
        assert len(read_particles(tmp_path / "particles.star")) == 6

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_leaves_nothing_half_written(self, tmp_path, monkeypatch, error, n_jobs):
        monkeypatch.setattr(writing, "_CHUNK_VOXELS", 2 * 8**3)
        write_subtomograms(tmp_path / "old", 2, **SMALL)
        before = digests(tmp_path / "old")
        write = writing.VolumeStackWriter.write

        def failing_write(self, volumes):
            if self.n_written >= 4:
                raise error("full")
            write(self, volumes)

        monkeypatch.setattr(writing.VolumeStackWriter, "write", failing_write)
        for folder in ("old", "new"):
            with pytest.raises(error, match="full"):
                write_subtomograms(
                    tmp_path / folder, 9, overwrite=True, n_jobs=n_jobs, **SMALL
                )
        assert digests(tmp_path / "old") == before
        assert not (tmp_path / "new").exists()

    def test_interruption_waits_for_the_threads(self, tmp_path, monkeypatch):
        monkeypatch.setattr(writing, "_CHUNK_VOXELS", 2 * 8**3)
        simulate, started = SubtomogramSimulator.simulate, threading.Event()
        done = []

        def slow_simulate(self, rows, *, clean):
            if rows.start == 0:
                started.wait(5)
                raise KeyboardInterrupt
            started.set()
            time.sleep(0.3)
            done.append(rows)
            return simulate(self, rows, clean=clean)

        monkeypatch.setattr(SubtomogramSimulator, "simulate", slow_simulate)
        earlier = set(threading.enumerate())
        with pytest.raises(KeyboardInterrupt):
            write_subtomograms(tmp_path / "new", 9, n_jobs=2, **SMALL)
        assert done
        assert set(threading.enumerate()) <= earlier

    def test_star_file_says_that_the_set_is_whole(self, tmp_path, monkeypatch):
        write_subtomograms(tmp_path, 2, clean=True, **SMALL)
        replace = writing.os.replace

        def failing_replace(source, target):
            if target == tmp_path / "clean.mrc":
                raise OSError("no space")
            replace(source, target)

        monkeypatch.setattr(writing.os, "replace", failing_replace)
        with pytest.raises(OSError, match="no space"):
            write_subtomograms(tmp_path, 3, clean=True, overwrite=True, **SMALL)
        assert files_in(tmp_path) == [
            "clean.mrc",
            "simulation.json",
            "subtomograms.mrc",
        ]

    def test_progress_bar(self, tmp_path, capsys):
        write_subtomograms(tmp_path / "quiet", 2, **SMALL)
        assert capsys.readouterr().err == ""
        write_subtomograms(tmp_path / "shown", 2, progress=True, **SMALL)
        assert "4/4" in capsys.readouterr().err

    def test_refuses(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("")
        with pytest.raises(NotADirectoryError, match="file is a file"):
            write_subtomograms(file, 2, **SMALL)
        with pytest.raises(ValueError, match="snr"):
            write_subtomograms(tmp_path / "new", 2, snr=0.0, **SMALL)
        with pytest.raises(TypeError, match="unknown"):
            write_subtomograms(tmp_path / "new", 2, unknown=1)
        assert files_in(tmp_path) == ["file"]

    @pytest.mark.parametrize("kind", ["int", "none", "generator", "state"])
    def test_settings_make_the_same_volumes(self, tmp_path, kind):
        seed = {
            "int": 5,
            "none": None,
            "generator": np.random.default_rng(0),
            "state": np.random.RandomState(0),
        }[kind]
        options = SMALL | {"random_state": seed, "snr": np.float32(0.5)}
        path = write_subtomograms(tmp_path, 2, tilt_axis=np.float32(30), **options)
        settings = json.loads((tmp_path / "simulation.json").read_text())
        assert settings["sksubtomo"] == __version__
        assert settings["kind"] == "subtomograms"
        assert [item["name"] for item in settings["structures"]] == PAIR
        groel = load_phantom("groel")
        assert settings["structures"][0]["mass"] == pytest.approx(groel.mass, rel=1e-4)
        assert settings["structures"][0]["radius"] == pytest.approx(groel.radius, 1e-4)
        parameters = settings["parameters"]
        microscope = Microscope(**parameters.pop("microscope"))
        again = make_subtomograms(structures=PAIR, microscope=microscope, **parameters)
        volumes, _ = read_volume_stack(path.with_name("subtomograms.mrc"))
        np.testing.assert_array_equal(again.data, volumes)

    def test_settings_have_every_parameter(self, tmp_path):
        write_subtomograms(tmp_path, 1, microscope=None, **SMALL | {"snr": np.inf})
        text = (tmp_path / "simulation.json").read_text()
        parameters = json.loads(text, parse_constant=pytest.fail)["parameters"]
        expected = set(inspect.signature(SubtomogramSimulator).parameters)
        assert set(parameters) == expected - {"structures"}
        assert parameters["snr"] == "inf"
        assert parameters["microscope"] is None

    def test_defocus(self, tmp_path):
        path = write_subtomograms(
            tmp_path / "a", 2, microscope=Microscope(defocus=-2.5), **SMALL
        )
        column = read_particles(path).loop.column
        for tag in ("rlnDefocusU", "rlnDefocusV"):
            assert [float(value) for value in column(tag)] == [-25000] * 4
        assert [float(value) for value in column("rlnDefocusAngle")] == [0] * 4
        path = write_subtomograms(tmp_path / "b", 2, microscope=None, **SMALL)
        assert "rlnDefocusU" not in read_particles(path).loop

    def test_refuses_commas_in_names(self, tmp_path):
        groel = load_phantom("groel")
        named = Structure("a,b", groel.coordinates, groel.masses)
        with pytest.raises(ValueError, match="class 'a,b' has a comma"):
            write_subtomograms(tmp_path / "out", 1, structures=[named], size=8)
        assert files_in(tmp_path) == []
        write_subtomograms(tmp_path, 1, structures=[named], size=8, n_neighbors=0)

    def test_odd_names_come_back(self, tmp_path):
        odd = Structure(
            "a 'b' #c",
            *[getattr(load_phantom("groel"), k) for k in ("coordinates", "masses")],
        )
        path = write_subtomograms(tmp_path, 1, structures=[odd], size=8, n_neighbors=2)
        column = read_particles(path).loop.column
        assert column("sksubtomoClass") == ["a 'b' #c"]
        assert column("sksubtomoNeighbors") == ["a 'b' #c,a 'b' #c"]


class TestWriteTomogram:
    @pytest.fixture
    def scene(self):
        return make_tomogram(
            5,
            shape=(20, 30, 36),
            voxel_size=20.0,
            structures=PAIR,
            random_state=0,
            return_clean=True,
        )

    def test_files_hold_the_scene(self, tmp_path, scene):
        path = write_tomogram(tmp_path / "out", scene)
        assert files_in(path.parent) == [
            "clean.mrc",
            "particles.star",
            "simulation.json",
            "tomogram.mrc",
        ]
        for name, volume in (("tomogram", scene.tomogram), ("clean", scene.clean)):
            with mrcfile.open(path.with_name(f"{name}.mrc")) as mrc:
                np.testing.assert_array_equal(mrc.data, volume)
                assert mrc.voxel_size.x == pytest.approx(20.0)
                assert int(mrc.header.ispg) == 1
        particles = read_particles(path)
        found = particles.coordinates(20.0, tomogram_shape=scene.tomogram.shape)
        np.testing.assert_allclose(found, scene.coordinates, atol=1e-4)
        assert particles.tomogram_names == ["tomogram"] * 5
        column = particles.loop.column
        names = scene.target_names[scene.target].tolist()
        assert column("sksubtomoClass") == names
        assert column("rlnClassNumber") == [str(k + 1) for k in scene.target]
        np.testing.assert_allclose(
            np.array(column("sksubtomoRadius"), dtype=float), scene.radii, atol=0.01
        )
        angles = [column(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
        rotations = rotation_matrices(np.array(angles, dtype=float).T)
        np.testing.assert_allclose(rotations, scene.rotations, atol=1e-5)

    def test_settings_make_the_same_tomogram(self, tmp_path, scene):
        write_tomogram(tmp_path, scene)
        settings = json.loads((tmp_path / "simulation.json").read_text())
        assert settings["kind"] == "tomogram"
        parameters = settings["parameters"]
        arguments = set(inspect.signature(make_tomogram).parameters)
        assert set(parameters) == arguments - {"structures", "return_clean"}
        microscope = Microscope(**parameters.pop("microscope"))
        again = make_tomogram(structures=PAIR, microscope=microscope, **parameters)
        np.testing.assert_array_equal(again.tomogram, scene.tomogram)
        column = read_particles(tmp_path / "particles.star").loop.column
        assert [float(value) for value in column("rlnDefocusU")] == [50000] * 5

    def test_a_folder_holds_one_kind(self, tmp_path, scene):
        write_tomogram(tmp_path / "a", scene)
        before = digests(tmp_path / "a")
        with pytest.raises(FileExistsError, match=r"holds tomogram\.mrc, data of the"):
            write_subtomograms(tmp_path / "a", 1, overwrite=True, **SMALL)
        assert digests(tmp_path / "a") == before
        write_subtomograms(tmp_path / "b", 1, **SMALL)
        before = digests(tmp_path / "b")
        with pytest.raises(FileExistsError, match=r"holds subtomograms\.mrc, data of"):
            write_tomogram(tmp_path / "b", scene, overwrite=True)
        assert digests(tmp_path / "b") == before

    def test_overwriting(self, tmp_path, scene):
        write_tomogram(tmp_path, scene)
        with pytest.raises(FileExistsError, match=r"already holds tomogram\.mrc"):
            write_tomogram(tmp_path, scene)
        without = Bunch(
            **{key: value for key, value in scene.items() if key != "clean"}
        )
        write_tomogram(tmp_path, without, overwrite=True)
        assert files_in(tmp_path) == [
            "particles.star",
            "simulation.json",
            "tomogram.mrc",
        ]
