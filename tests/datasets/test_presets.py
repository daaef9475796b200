import pytest

from sksubtomo.datasets import (
    Microscope,
    SubtomogramSimulator,
    presets,
    simulation_preset,
)

ATOM = "ATOM      1  {0}   UNK A   1       1.000   2.000   3.000  1.00  0.00{0:>12}"


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Serve downloads from a folder, and list them."""
    asked = []

    def fetch(pdb_id, *, folder):
        asked.append(pdb_id)
        path = tmp_path / f"{pdb_id}.pdb"
        path.write_text(ATOM.format("C"))
        return path

    monkeypatch.setattr(presets, "fetch_structure", fetch)
    return asked


def test_gupta2022_is_the_papers(fetched):
    preset = simulation_preset("gupta2022")
    ids = fetched
    assert " ".join(ids) == "1bxn 1f1b 1yg6 2byu 2h12 2ldb 3gl1 3hhb 4d4r 6t3e"
    assert [structure.name for structure in preset["structures"]] == ids
    simulator = SubtomogramSimulator(**preset, snr=0.05, random_state=0)
    assert simulator.n_subtomograms == 5000
    assert (simulator.size, simulator.voxel_size, simulator.resolution) == (32, 10, 10)
    assert simulator.max_shift * simulator.size == 8
    assert simulator.n_neighbors == 4
    assert simulator.tilt_range == (-60, 60)
    assert simulator.microscope == Microscope.liu2020(10.0)
    assert simulator.convention == "liu2020"
    # Half of Nyquist.
    assert simulator.low_pass == 40.0


def test_takes_files_by_id_and_fetches_the_others(fetched, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "3HHB.pdb").write_text(ATOM.format("S"))
    (folder / "4d4r.txt").write_text("no structure")
    (folder / "other.pdb").write_text("not read")
    preset = simulation_preset(structures=folder)
    assert len(fetched) == 9
    assert "3hhb" not in fetched
    own = preset["structures"][7]
    assert own.name == "3hhb"
    assert own.mass == pytest.approx(32.06, rel=1e-3)


def test_names_all_missing_files(monkeypatch, tmp_path):
    asked = []

    def fetch(pdb_id, *, folder):
        asked.append(pdb_id)
        raise OSError("no network")

    monkeypatch.setattr(presets, "fetch_structure", fetch)
    cache, own = tmp_path / "cache", tmp_path / "own"
    for folder, names in (
        (cache, ["2byu.cif.gz"]),
        (own, ["1bxn.pdb", "3HHB.pdb"]),
    ):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(ATOM.format("C"))
    with pytest.raises(OSError, match="no network") as caught:
        simulation_preset(structures=own, cache=cache)
    message = str(caught.value)
    missing = "1f1b, 1yg6, 2h12, 2ldb, 3gl1, 4d4r, 6t3e"
    assert f"7 of 10 structures are missing: {missing}." in message
    assert f"in {own}, such as 1f1b.cif.gz or .pdb, would do" in message
    # Each would take its time to fail.
    assert asked == ["1f1b"]
    with pytest.raises(OSError, match=r"10 of 10 .* in a folder given as structures"):
        simulation_preset(cache=tmp_path)


def test_refuses(fetched, tmp_path):
    with pytest.raises(ValueError, match=r"name='gupta'.*gupta2022"):
        simulation_preset("gupta")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        simulation_preset(structures=tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="file"):
        simulation_preset(structures=__file__)
    for name in ("1bxn.pdb", "1bxn.cif.gz"):
        (tmp_path / name).write_text(ATOM.format("C"))
    with pytest.raises(ValueError, match=r"1bxn\.cif\.gz and .*1bxn\.pdb are both"):
        simulation_preset(structures=tmp_path)
