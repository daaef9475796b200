import runpy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("plot_*.py"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that stands for the working directory and that of temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    plt.close("all")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, folder, capsys):
    runpy.run_path(str(path), run_name="__main__")
    # Pages are to be the same wherever they are built.
    assert str(folder) not in capsys.readouterr().out


def test_gallery_shows_every_example():
    listed = runpy.run_path(str(DOCS / "conf.py"))["EXAMPLES"]
    assert sorted(listed) == [path.name for path in EXAMPLES]
