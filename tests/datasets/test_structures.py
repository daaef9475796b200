import gzip
import os
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from sksubtomo.datasets import (
    Structure,
    coarse_grain,
    draw_density,
    load_phantom,
    load_structure,
    load_structures,
)

# z, y, x of three atoms in no symmetric arrangement, and their elements.
ATOMS = np.array([[1.0, 2.0, 3.0], [5.0, 2.0, 3.0], [1.0, 9.0, -4.0]])
ELEMENTS = ["C", "S", "O"]
MASSES = np.array([12.0107, 32.065, 15.9994])
# The same in every process: parallel test runs have to collect the same tests.
NOISE = np.random.default_rng(0).bytes(5000)


def make_entry(atoms=ATOMS, elements=ELEMENTS, residue_name="ALA"):
    entry = gemmi.Structure()
    entry.cell = gemmi.UnitCell(100, 100, 100, 90, 90, 90)
    entry.spacegroup_hm = "P 1"
    model = gemmi.Model(1)
    chain = gemmi.Chain("A")
    residue = gemmi.Residue()
    residue.name = residue_name
    residue.seqid = gemmi.SeqId("1")
    residue.entity_type = gemmi.EntityType.Polymer
    residue.subchain = "A"
    for number, ((z, y, x), element) in enumerate(zip(atoms, elements, strict=True)):
        atom = gemmi.Atom()
        atom.name = f"{element}{number}"
        atom.element = gemmi.Element(element)
        atom.pos = gemmi.Position(x, y, z)
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    entry.add_model(model)
    return entry


def write(entry, path):
    text = (
        entry.make_pdb_string()
        if ".pdb" in path.name or ".ent" in path.name
        else entry.make_mmcif_document().as_string()
    )
    if path.suffix.lower() == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_map(path, data, voxel_size=4.0):
    with mrcfile.new(path, compression="gzip" if path.suffix == ".gz" else None) as mrc:
        mrc.set_data(np.asarray(data, dtype=np.float32))
        mrc.voxel_size = voxel_size
    return path


@pytest.fixture
def ball():
    """Two touching balls of different size on the x axis, at 4 A a voxel."""
    z, y, x = np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij")
    big = (z - 9) ** 2 + (y - 9) ** 2 + (x - 6) ** 2 < 16
    small = (z - 9) ** 2 + (y - 9) ** 2 + (x - 13) ** 2 < 9
    return (big | small).astype(np.float32)


class TestStructure:
    def test_is_centred(self):
        structure = Structure("s", ATOMS, MASSES)
        np.testing.assert_allclose(MASSES @ structure.coordinates, 0, atol=1e-12)
        assert structure.mass == pytest.approx(MASSES.sum())
        assert structure.radius == np.linalg.norm(structure.coordinates, axis=1).max()

    def test_does_not_change_its_arguments(self):
        coordinates, masses = ATOMS.copy(), MASSES.copy()
        Structure("s", coordinates, masses)
        np.testing.assert_array_equal(coordinates, ATOMS)
        np.testing.assert_array_equal(masses, MASSES)

    @pytest.mark.parametrize(
        ("coordinates", "masses", "message"),
        [
            (np.zeros((0, 3)), [], r"shape \(0, 3\)"),
            (np.zeros((2, 2)), [1, 1], r"shape \(2, 2\)"),
            (np.zeros((2, 3)), [1], r"masses have shape \(1,\)"),
            ([[0, 0, np.nan]], [1], "NaN or infinite"),
            ([[0, 0, 0]], [0], "positive"),
            ([[0, 0, 0]], [np.inf], "positive"),
        ],
    )
    def test_refuses(self, coordinates, masses, message):
        with pytest.raises(ValueError, match=message):
            Structure("odd", coordinates, masses)


class TestCoarseGrain:
    def test_keeps_mass_and_centre(self):
        fine = load_phantom("rna_polymerase_ii")
        coarse = coarse_grain(fine, 12.0)
        assert len(coarse.masses) < len(fine.masses) / 10
        assert coarse.mass == pytest.approx(fine.mass)
        assert abs(coarse.radius - fine.radius) < 12 * np.sqrt(3)

    def test_hardly_changes_the_density_at_half_a_voxel(self):
        fine = load_phantom("rna_polymerase_ii")
        coarse = coarse_grain(fine, 7.0)
        volumes = [
            draw_density(structure.coordinates, structure.masses, 20, 14.0)
            for structure in (fine, coarse)
        ]
        error = np.linalg.norm(volumes[1] - volumes[0]) / np.linalg.norm(volumes[0])
        assert 0 < error < 0.03

    def test_refuses_a_cell_without_size(self):
        with pytest.raises(ValueError, match="cell=0"):
            coarse_grain(load_phantom("groel"), 0)


class TestModels:
    @pytest.mark.parametrize(
        "name", ["a.pdb", "a.ent", "a.cif", "a.mmcif", "a.pdb.gz", "a.cif.gz", "a.PDB"]
    )
    def test_reads(self, tmp_path, name):
        path = tmp_path / name
        if name == "a.PDB":
            write(make_entry(), tmp_path / "b.pdb").rename(path)
        else:
            write(make_entry(), path)
        structure = load_structure(path)
        assert structure.name == "a"
        expected = Structure("a", ATOMS, MASSES)
        np.testing.assert_allclose(
            structure.coordinates, expected.coordinates, atol=2e-3
        )
        np.testing.assert_allclose(structure.masses, MASSES, rtol=1e-4)

    @pytest.mark.parametrize("suffix", [".pdb", ".cif.gz"])
    def test_builds_the_first_assembly(self, tmp_path, suffix):
        entry = make_entry()
        assembly = gemmi.Assembly("1")
        generator = gemmi.Assembly.Gen()
        generator.subchains = ["A"]
        generator.chains = ["A"]
        for shift in (0.0, 50.0):
            operator = gemmi.Assembly.Operator()
            operator.transform = gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(shift, 0, 0))
            generator.operators.append(operator)
        assembly.generators.append(generator)
        entry.assemblies.append(assembly)
        structure = load_structure(write(entry, tmp_path / f"dimer{suffix}"))
        both = np.concatenate([ATOMS, ATOMS + np.array([0, 0, 50])])
        expected = Structure("dimer", both, np.tile(MASSES, 2))
        np.testing.assert_allclose(
            structure.coordinates, expected.coordinates, atol=2e-3
        )

    def test_leaves_waters_out(self, tmp_path):
        entry = make_entry()
        water = make_entry([[80.0, 80.0, 80.0]], ["O"], "HOH")[0]["A"][0]
        water.seqid = gemmi.SeqId("2")
        water.entity_type = gemmi.EntityType.Water
        entry[0]["A"].add_residue(water)
        path = write(entry, tmp_path / "wet.pdb")
        assert "HOH" in path.read_text()
        assert len(load_structure(path).masses) == len(ATOMS)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.pdb", b""),
            ("noise.pdb", b"nothing of the kind\n"),
            ("empty.cif", b""),
            ("noise.cif", b"\x00\x01 data loop_"),
            ("table.cif", b"data_x\n_cell.length_a 10\n"),
            ("plain.pdb.gz", b"not gzipped"),
            ("cut.cif.gz", gzip.compress(NOISE, mtime=0)[:2000]),
            ("cut.pdb.gz", gzip.compress(NOISE, mtime=0)[:2000]),
        ],
        # The contents as they are would make names that no terminal can show.
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_unreadable_file_is_named(self, tmp_path, name, content):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_structure(path)

    def test_truncated_gzip_is_an_error_and_not_half_a_structure(self, tmp_path):
        rng = np.random.default_rng(0)
        entry = make_entry(rng.uniform(0, 90, (3000, 3)), ["C"] * 3000)
        path = write(entry, tmp_path / "cut.pdb.gz")
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=r"cut\.pdb\.gz"):
            load_structure(path)

    def test_map_options_are_refused(self, tmp_path):
        path = write(make_entry(), tmp_path / "a.pdb")
        with pytest.raises(ValueError, match=r"a\.pdb: threshold=0\.5"):
            load_structure(path, threshold=0.5)
        with pytest.raises(ValueError, match=r"a\.pdb: voxel_size=2"):
            load_structure(path, voxel_size=2)


class TestMaps:
    @pytest.mark.parametrize("name", ["m.mrc", "m.map", "m.ccp4", "m.mrc.gz"])
    def test_reads(self, tmp_path, ball, name):
        structure = load_structure(write_map(tmp_path / name, ball))
        assert structure.name == "m"
        assert len(structure.masses) == ball.sum()
        assert structure.mass == pytest.approx(0.81 * 64 * ball.sum())
        expected = np.argwhere(ball) * 4.0
        expected -= expected.mean(axis=0)
        np.testing.assert_allclose(structure.coordinates, expected, atol=1e-4)

    def test_coarse_maps_are_refined(self, tmp_path, ball):
        structure = load_structure(write_map(tmp_path / "m.mrc", ball, 12.0))
        assert structure.mass == pytest.approx(0.81 * 12**3 * ball.sum(), rel=0.15)
        volume = draw_density(structure.coordinates, structure.masses, 100, 4.0)
        # Without refinement only one voxel in 27 would hold anything.
        assert (volume > 0.3).sum() > 0.8 * 27 * ball.sum()

    def test_axis_order_of_the_header(self, tmp_path, ball):
        path = write_map(tmp_path / "m.mrc", np.transpose(ball, (2, 1, 0)))
        with mrcfile.open(path, mode="r+") as mrc:
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 2, 1
        straight = load_structure(write_map(tmp_path / "n.mrc", ball))
        turned = load_structure(path)
        order = np.lexsort(turned.coordinates.T[::-1])
        np.testing.assert_allclose(
            turned.coordinates[order], straight.coordinates, atol=1e-4
        )

    def test_threshold(self, tmp_path, ball):
        noisy = ball + np.random.default_rng(0).normal(0, 0.05, ball.shape)
        path = write_map(tmp_path / "m.mrc", noisy)
        assert len(load_structure(path).masses) == ball.sum()
        assert len(load_structure(path, threshold=0.0).masses) > 5 * ball.sum()
        with pytest.raises(ValueError, match=r"m\.mrc: no density above 7"):
            load_structure(path, threshold=7)

    def test_missing_voxel_size_has_to_be_given(self, tmp_path, ball):
        path = write_map(tmp_path / "m.mrc", ball, 0.0)
        with pytest.raises(ValueError, match=r"m\.mrc: the header's voxel size is \(0"):
            load_structure(path)
        structure = load_structure(path, voxel_size=4.0)
        assert structure.mass == pytest.approx(0.81 * 64 * ball.sum())

    def test_foreign_machine_stamp_is_read(self, tmp_path, ball):
        path = write_map(tmp_path / "m.mrc", ball)
        content = bytearray(path.read_bytes())
        content[212:216] = b"\x00\x00\x00\x00"
        path.write_bytes(content)
        assert len(load_structure(path).masses) == ball.sum()

    @pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
    def test_voxel_size_has_to_be_positive(self, tmp_path, ball, value):
        path = write_map(tmp_path / "m.mrc", ball)
        with pytest.raises(ValueError, match=r"m\.mrc: voxel_size"):
            load_structure(path, voxel_size=value)

    def test_dark_protein_is_refused(self, tmp_path, ball):
        path = write_map(tmp_path / "dark.mrc", -ball)
        with pytest.raises(ValueError, match=r"dark\.mrc.*brighter"):
            load_structure(path)

    def test_nan_is_refused(self, tmp_path, ball):
        ball[0, 0, 0] = np.nan
        with pytest.warns(RuntimeWarning, match="NaN"):
            path = write_map(tmp_path / "m.mrc", ball)
        with pytest.raises(ValueError, match=r"m\.mrc: holds NaN"):
            load_structure(path)

    def test_image_is_refused(self, tmp_path, ball):
        path = write_map(tmp_path / "image.mrc", ball[0])
        with pytest.raises(ValueError, match=r"image\.mrc: is an image"):
            load_structure(path)

    @pytest.mark.parametrize("keep", [100, 1024, 5000])
    def test_truncated_file_is_named(self, tmp_path, ball, keep):
        path = write_map(tmp_path / "cut.mrc", ball)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"cut\.mrc"):
            load_structure(path)

    def test_truncated_gzip_is_named(self, tmp_path):
        data = np.random.default_rng(0).random((12, 12, 12))
        path = write_map(tmp_path / "cut.mrc.gz", data)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(ValueError, match=r"cut\.mrc\.gz"):
            load_structure(path)


class TestPaths:
    def test_unknown_suffix(self, tmp_path):
        with pytest.raises(ValueError, match=r"'\.txt' is not a structure's"):
            load_structure(tmp_path / "a.txt")

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a\.pdb"):
            load_structure(tmp_path / "a.pdb")

    def test_folder_is_sorted_and_other_files_are_ignored(self, tmp_path, ball):
        write(make_entry(), tmp_path / "b.x.pdb.gz")
        write(make_entry(), tmp_path / "c.cif")
        write_map(tmp_path / "a.mrc", ball)
        (tmp_path / "README.txt").write_text("about")
        (tmp_path / ".hidden.pdb").write_text("")
        (tmp_path / "folder.pdb").mkdir()
        names = [structure.name for structure in load_structures(str(tmp_path))]
        assert names == ["a", "b.x", "c"]

    def test_unreadable_file_in_a_folder_is_named(self, tmp_path):
        write(make_entry(), tmp_path / "a.pdb")
        (tmp_path / "b.pdb").write_text("")
        with pytest.raises(ValueError, match=r"b\.pdb"):
            load_structures(tmp_path)

    def test_folder_without_structures(self, tmp_path):
        (tmp_path / "README.txt").write_text("about")
        with pytest.raises(ValueError, match=r"holds no structure file.*\.pdb"):
            load_structures(tmp_path)

    def test_two_files_of_one_name(self, tmp_path):
        write(make_entry(), tmp_path / "a.pdb")
        write(make_entry(), tmp_path / "a.cif")
        with pytest.raises(ValueError, match=r"a\.cif and .*a\.pdb .*class 'a'"):
            load_structures(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load_structures(tmp_path / "nowhere")
        path = write(make_entry(), tmp_path / "a.pdb")
        with pytest.raises(NotADirectoryError, match=r"a\.pdb is a file"):
            load_structures(path)


FOLDER = os.environ.get("SKSUBTOMO_STRUCTURES")


@pytest.mark.skipif(
    not FOLDER, reason="SKSUBTOMO_STRUCTURES does not name a folder of structures"
)
@pytest.mark.parametrize(
    ("name", "mass", "diameter"),
    [
        ("1bxn.pdb.gz", 480, 135),
        ("1mnf.pdb.gz", 262, 166),
        ("3j9i.pdb.gz", 610, 182),
        ("4v1w.cif.gz", 432, 136),
    ],
)
def test_real_structures(name, mass, diameter):
    path = Path(FOLDER) / name
    if not path.exists():
        pytest.skip(f"{FOLDER} has no {name}")
    structure = load_structure(path)
    assert structure.mass / 1e3 == pytest.approx(mass, rel=0.01)
    assert 2 * structure.radius == pytest.approx(diameter, rel=0.01)
