"""Runs the Python code of README and guide, page by page, as it stands there.

Trainings take one epoch, simulated volumes are small, and nothing is downloaded; names
that a page leaves to the reader, such as X and y, are given.
"""

import gzip
import re
import textwrap
from pathlib import Path

import gemmi
import h5py
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from sksubtomo import ContrastivePretrainer, RB3DClassifier, datasets
from sksubtomo._training.fitting import TrainingOptions
from sksubtomo.io import write_particles, write_volume, write_volume_stack

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "scaling.md",
    *sorted((ROOT / "docs" / "user_guide").glob("*.rst")),
]

# What needs a cluster. tests/test_parallel.py runs a study in dask's workers.
ELSEWHERE = re.compile(r"^(import|from) (dask|ray)\b", re.MULTILINE)

# The classes of the preset gupta2022.
PAPER = ("1bxn", "1f1b", "1yg6", "2byu", "2h12", "2ldb", "3gl1", "3hhb", "4d4r", "6t3e")


def python_blocks(path):
    """Return (line, code) of every block of Python on a page."""
    if path.suffix == ".md":
        # A line more than the fence's is where the code begins.
        fences = re.finditer(
            r"^```python\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
        return [(m.string.count("\n", 0, m.start()) + 2, m[1]) for m in fences]
    lines = path.read_text("utf-8").splitlines()
    blocks = []
    for number, line in enumerate(lines):
        opens = re.fullmatch(r"( *)(\.\. code-block:: python|(?!\.\. ).*::)", line)
        if not opens:
            continue
        block = []
        for below in lines[number + 1 :]:
            if below.strip() and not below.startswith(opens[1] + " "):
                break
            block.append(below)
        blocks.append((number + 2, textwrap.dedent("\n".join(block))))
    return blocks


def write_complex(path):
    """Write ten residues' worth of atoms, two nanometres across."""
    chain = gemmi.Chain("A")
    for number, position in enumerate(np.random.default_rng(0).normal(size=(10, 3))):
        atom = gemmi.Atom()
        atom.name, atom.element = "CA", gemmi.Element("C")
        atom.pos = gemmi.Position(*(8 * position))
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number + 1))
        residue.add_atom(atom)
        chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure = gemmi.Structure()
    structure.add_model(model)
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string()
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Names and files that the pages leave to the reader."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKSUBTOMO_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    n = 40
    y = np.arange(n) % 2
    X = rng.normal(size=(n, 8, 8, 8)).astype(np.float32)
    X[:, 2:6, 2:6, 2:6] += 1 + y[:, None, None, None]

    images = [f"{i:06d}@stack.mrc" for i in range(1, n + 1)]
    for name in ("stack.mrc", "volumes.mrc"):
        write_volume_stack(name, X, voxel_size=10)
    write_particles(
        "particles.star", {"rlnImageName": images}, optics={"rlnImagePixelSize": 10.0}
    )
    rows = [f"{image},{'ab'[label]}" for image, label in zip(images, y, strict=True)]
    Path("labels.csv").write_text("\n".join(["particle,label", *rows[:20]]) + "\n")
    Path("Refine3D/job012").mkdir(parents=True)
    centred = {f"rlnCenteredCoordinate{axis}Angst": [0.0] * n for axis in "XYZ"}
    write_particles(
        "Refine3D/job012/run_data.star",
        {"rlnImageName": images, "rlnTomoName": ["001"] * n, **centred},
        optics={"rlnImagePixelSize": 10.0, "rlnTomoTiltSeriesPixelSize": 2.0},
    )
    np.save("volumes.npy", X)
    np.save("labels.npy", y)
    with h5py.File("volumes.h5", "w") as file:
        file["subtomograms"] = X
    Path("my_complexes").mkdir()
    for name in PAPER:
        write_complex(Path("my_complexes", f"{name}.cif.gz"))
    for name in ("1bxn", "3j9i"):
        write_complex(Path(f"{name}.cif.gz"))
    for name in ("map.mrc", "ribosome.mrc"):
        write_volume(name, np.pad(np.ones((8, 8, 8), np.float32), 4), 10.0)

    ContrastivePretrainer(max_epochs=1, random_state=0).fit(X).save("encoder")
    with h5py.File("new.h5", "w") as file:
        yield {
            "X": X,
            "X_labelled": X,
            "X_unlabelled": X,
            "y": y.copy(),
            "labels": y,
            "known": np.arange(n) < 20,
            "unknown": slice(20, None),
            "tomograms": np.arange(n) // 4,
            "classifier": RB3DClassifier(max_epochs=1, random_state=0).fit(X, y),
            "class_numbers": y + 1,
            "class_names": np.array(["a", "b"])[y],
            "probabilities": np.ones(n),
            # What a block of large_data.rst and one of files.rst write to and from.
            "file": file,
            "shape": X.shape,
            "n_volumes": 2,
            "batches": np.zeros((2, 1, 32, 32, 32)),
        }
    plt.close("all")


@pytest.fixture(autouse=True)
def _little_work(monkeypatch):
    def one_epoch(self, *args, **kwargs):
        make_options(self, *args, **kwargs)
        object.__setattr__(self, "max_epochs", 1)

    def make_less(name, **less):
        make = getattr(datasets, name)

        def make_little(*args, **parameters):
            # A number of volumes may be given by its place.
            args = [value for value in args if not isinstance(value, int)]
            changes = dict(less)
            if isinstance(parameters.get("structures"), list):
                # Of a few classes of its own, a page may count on the number.
                changes.pop("n_per_class", None)
            return make(*args, **parameters | changes)

        monkeypatch.setattr(datasets, name, make_little)

    make_options = TrainingOptions.__init__
    monkeypatch.setattr(TrainingOptions, "__init__", one_epoch)
    make_less("make_subtomograms", n_per_class=12, size=8)
    make_less("write_subtomograms", n_per_class=12, size=8, voxel_size=None)
    make_less("make_tomogram", shape=(32, 80, 80))
    monkeypatch.setattr(datasets, "fetch_structure", "{}.cif.gz".format)
    # Whatever a page's n_jobs is.
    with joblib.parallel_config("sequential"):
        yield


# One epoch teaches nothing.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "path", [path for path in PAGES if python_blocks(path)], ids=lambda path: path.stem
)
def test_code_of_a_page_runs(path, names, tmp_path):
    for line, code in python_blocks(path):
        if ELSEWHERE.search(code):
            continue
        code = re.sub(r'"/(scratch|shared)/me', f'"{tmp_path}', code)
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)
