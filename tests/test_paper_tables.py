import signal
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not installed", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

report = import_module("_paper_tables_report")
settings = import_module("_paper_tables_settings")
store = import_module("_paper_tables_store")
paper_tables = import_module("paper_tables")

SCALE = settings.Scale(
    data={
        "set": settings.DataSet(
            classes=("a", "b"), snrs=(1.0,), n_per_class=60, n_extra=7, size=8
        )
    },
    labels=("5", "25%", "100%"),
    repeats=3,
    pretrain_epochs=1,
)


def add(path, method, count, repeat, accuracy):
    line = {
        "method": method,
        "dataset": "set",
        "snr": "1",
        "label_fraction": f"{count / 36:.4g}",
        "labels_per_class": count,
        "validation_labels": 24 if count >= 20 else 0,
        "repeat": repeat,
        "accuracy": accuracy,
        "seconds": 1,
    }
    store.append(path, store.COLUMNS, line)


def test_split_is_by_class_and_whole(tmp_path):
    data = SCALE.data["set"]
    path = tmp_path / "volumes.npy"
    volumes = np.arange(2 * 67, dtype=np.float32).reshape(-1, 1, 1, 1)
    np.save(path, np.broadcast_to(volumes, (2 * 67, 8, 8, 8)))
    parts = paper_tables.load_parts(path, data, 0)
    sets = [
        {int(row) for row in X[:, 0, 0, 0]}
        for X in (parts.X, parts.X_val, parts.X_test)
    ]
    assert [len(rows) for rows in sets] == [72, 24, 38]
    assert set.union(*sets) == set(range(134))
    for X, y in (parts[:2], parts[2:4], parts[4:]):
        np.testing.assert_array_equal(y, X[:, 0, 0, 0] // 67)
    assert np.bincount(parts.y).tolist() == [36, 36]
    # The further volumes are in every test part, the others in some.
    extra = {*range(60, 67), *range(127, 134)}
    other = paper_tables.load_parts(path, data, 1)
    other_test = {int(row) for row in other.X_test[:, 0, 0, 0]}
    assert sets[2] & other_test >= extra
    assert sets[2] != other_test
    again = paper_tables.load_parts(path, data, 0)
    np.testing.assert_array_equal(again.X, parts.X)


def test_few_labels_are_trained_on_for_as_many_steps():
    row = settings.ROWS["random"]
    classifier = row.build("simulated", 1.0)
    scale = settings.SCALES["small"]
    epochs = paper_tables.fine_tune_epochs(scale, row, classifier, 50)
    assert epochs * 4 >= scale.fine_tune_steps > (epochs - 1) * 4
    letter = settings.ROWS["random_sgd"]
    classifier = letter.build("simulated", 1.0)
    assert paper_tables.fine_tune_epochs(scale, letter, classifier, 50) == 50


def test_lines_are_replaced_not_repeated(tmp_path):
    path = tmp_path / "table.csv"
    for accuracy in (0.5, 0.6):
        add(path, "moco", 5, 0, accuracy)
    add(path, "moco", 5, 1, 0.7)
    assert [line["accuracy"] for line in store.read_lines(path)] == ["0.6", "0.7"]
    cells = {store.Cell("moco", "set", 1.0, 5, repeat) for repeat in (0, 1)}
    assert store.read_cells(path) == cells
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_goals_follow_from_the_table(tmp_path):
    path = tmp_path / "table.csv"
    for repeat, noise in enumerate((0.0, 0.01, -0.01)):
        for count, paper, best, bn in ((5, 0.2, 0.51, 0.3), (9, 0.3, 0.49, 0.4)):
            add(path, "random", count, repeat, paper - 0.05)
            add(path, "moco", count, repeat, paper + noise)
            add(path, "simclr", count, repeat, paper - 0.04 + 10 * noise)
            add(path, "bn_cnn", count, repeat, bn)
            add(path, "recommended", count, repeat, best + noise)
        add(path, "moco_sgd", 36, repeat, 0.5)
        add(path, "bn_cnn", 36, repeat, 0.6)
    table = report.Table(path, SCALE)
    column = table.columns[0]
    assert table.heads(column) == ["5", "9 (25 %)", "36 (100 %) + 24"]
    assert table.cell("moco", column, "25%") == "30.0 ± 1.0"
    simclr, swav, moco, few, few_all, quarter, bn = report.goals(table)
    assert (moco.met, simclr.met, swav.met) == (True, False, None)
    assert moco.measured.startswith("+5.0 (0.013, ")
    assert (few.met, few.measured) == (True, "51.0 to 20.0 (moco): +31.0")
    assert (few_all.met, few_all.measured) == (True, "51.0 to 50.0 (moco_sgd): +1.0")
    assert (quarter.met, quarter.measured) == (False, "49.0 to 30.0 (moco): +19.0")
    assert (bn.met, bn.measured) == (False, "49.0 to 60.0: -11.0")


def test_page_has_every_number_and_the_figure_is_drawn(tmp_path):
    path = tmp_path / "paper_tables_small.csv"
    report.write_pages(path, SCALE, tmp_path / "docs")
    fragment = tmp_path / "docs" / "paper_tables_small.inc"
    assert "not been run" in fragment.read_text("utf-8")
    for repeat, accuracy in enumerate((0.25, 0.35)):
        add(path, "moco", 5, repeat, accuracy)
    for epoch, loss in enumerate((float("nan"), 2.0, 1.0)):
        line = dict(zip(store.CONVERGENCE_COLUMNS, ("moco", "set", 1, 0), strict=False))
        line |= {"epoch": epoch, "loss": loss, "probe_accuracy": 0.5, "seconds": 1}
        convergence = store.convergence_path(path)
        store.append(convergence, store.CONVERGENCE_COLUMNS, line)
    report.write_pages(path, SCALE, tmp_path / "docs")
    assert "30.0 ± 7.1" in fragment.read_text("utf-8")
    assert "50.0 (loss 1.000)" in fragment.read_text("utf-8")
    assert "30.0 ± 7.1" in path.with_suffix(".txt").read_text("utf-8")
    assert (tmp_path / "docs" / "images" / "paper_tables.png").stat().st_size > 1000


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a cut-down table and returns what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command = "paper_tables.py --phantoms --size 8 --n-per-class 5 --n-extra 0"
        command += " --pretrain-epochs 2 --fine-tune-epochs 1 --fine-tune-steps 1"
        command += " --repeats 0 --labels 25% --methods random,moco,moco_sgd"
        command += " --output out --folder work"
        monkeypatch.setattr(sys, "argv", [*command.split(), *arguments])
        code = paper_tables.main()
        return code, capsys.readouterr().out

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


def test_what_is_done_is_not_done_again(run, tmp_path):
    code, said = run("--methods", "moco")
    assert code == 0
    table = tmp_path / "out" / "paper_tables_small_cut.csv"
    before = store.read_lines(table)
    assert [line["method"] for line in before] == ["moco"]
    convergence = store.read_lines(store.convergence_path(table))
    assert [line["epoch"] for line in convergence] == ["0", "1", "2"]
    code, said = run()
    assert code == 0
    after = store.read_lines(table)
    assert [line["method"] for line in after] == ["moco", "moco_sgd", "random"]
    assert after[0] == before[0]
    # The same pretraining serves both fine-tunings.
    assert store.read_lines(store.convergence_path(table)) == convergence
    assert "CUT DOWN" in said
    with pytest.raises(SystemExit, match="pretrain_epochs 2, expected 3"):
        run("--pretrain-epochs", "3")
    assert store.read_lines(table) == after
    run("--pretrain-epochs", "3", "--methods", "random", "--replace")
    assert [line["method"] for line in store.read_lines(table)] == ["random"]


def test_results_of_a_cut_scale_are_kept_apart(run, capsys):
    with pytest.raises(SystemExit):
        run("--output", str(paper_tables.RESULTS))
    assert "expected another --output" in capsys.readouterr().err
