import json
import signal
import sys
import threading
from dataclasses import replace
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


def make_plan(tmp_path, **changes):
    plan = paper_tables.Plan(
        scale=SCALE,
        table=tmp_path / "table.csv",
        folder=tmp_path,
        methods=("random", "moco"),
        labels=SCALE.labels,
        columns=(("set", 1.0),),
        device="cpu",
        precision="auto",
        compile=None,
    )
    return replace(plan, **changes)


def add(path, method, count, repeat, accuracy, dataset="set"):
    line = {
        "method": method,
        "dataset": dataset,
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


@pytest.mark.parametrize(
    ("method", "fraction", "expected"),
    [("simclr", 0.5, 1e-4), ("simclr", 0.51, None), (None, 0.25, None)],
)
def test_pretrained_encoders_learn_slowly_from_few_labels(method, fraction, expected):
    classifier = settings.paper_row(method).build("simulated", fraction)
    assert classifier.encoder_lr == expected


@pytest.mark.parametrize("method", settings.ROWS)
def test_encoders_fit_their_classifiers(method):
    settings.ROWS[method].build("simulated", 0.25)._resolve_encoder()


def test_a_row_is_described_at_every_number_of_labels(tmp_path):
    plan = make_plan(tmp_path)

    def describe(method):
        return paper_tables.describe_row(plan, method, "set")

    few, many = describe("moco").split(" or ")[::-1]
    assert "encoder_lr=0.0001" in few
    assert "encoder_lr=None" in many
    assert " or " not in describe("random")
    assert describe("cb3d").endswith("for at least 1000 steps")


def test_lines_are_replaced_not_repeated(tmp_path):
    path = tmp_path / "table.csv"
    for accuracy in (0.5, 0.6):
        add(path, "moco", 5, 0, accuracy)
    add(path, "moco", 5, 1, 0.7)
    assert [line["accuracy"] for line in store.read_lines(path)] == ["0.6", "0.7"]
    cells = {store.Cell("moco", "set", 1.0, 5, repeat) for repeat in (0, 1)}
    assert store.read_cells(path) == cells
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def add_curve(path, method, repeat, epochs):
    line = {"method": method, "dataset": "set", "snr": "1", "repeat": repeat}
    for epoch in epochs:
        loss = float("nan") if epoch == 0 else 2.0 / epoch
        line |= {"epoch": epoch, "loss": loss, "probe_accuracy": 0.5, "seconds": 1}
        convergence = store.convergence_path(path)
        store.append(convergence, store.CONVERGENCE_COLUMNS, line)


def add_all(path):
    for repeat, noise in enumerate((0.0, 0.01, -0.01)):
        for count, paper, best in ((5, 0.2, 0.51), (9, 0.3, 0.49), (36, 0.4, 0.6)):
            for method in settings.PAPER_ROWS:
                add(path, method, count, repeat, paper - 0.05)
            add(path, "moco", count, repeat, paper + noise)
            add(path, "simclr", count, repeat, paper - 0.04 + 10 * noise)
            add(path, "recommended", count, repeat, best + noise)
        add(path, "moco_sgd", 36, repeat, 0.5)
        add(path, "bn_cnn", 36, repeat, 0.6)


def test_goals_follow_from_the_table(tmp_path):
    path = tmp_path / "table.csv"
    add_all(path)
    table = report.Table(path, SCALE)
    column = table.columns[0]
    assert table.heads(column) == ["5", "9 (25 %)", "36 (100 %) + 24"]
    assert table.cell("moco", column, "25%") == "30.0 ± 1.0"
    simclr, swav, moco, *of_letter, few, few_all, quarter, bn = report.goals(table)
    assert (moco.met, simclr.met, swav.met) == (True, False, False)
    assert moco.measured.startswith("+5.0 (0.013, ")
    assert [goal.text.split(",")[0] for goal in of_letter] == [
        f"{method}_sgd against random_sgd" for method in report.PRETRAINED
    ]
    assert [goal.met for goal in of_letter] == [False] * 3
    assert (few.met, few.measured) == (True, "51.0 to 20.0 (moco): +31.0")
    assert (few_all.met, few_all.measured) == (True, "51.0 to 50.0 (moco_sgd): +1.0")
    assert (quarter.met, quarter.measured) == (False, "49.0 to 30.0 (moco): +19.0")
    assert (bn.met, bn.measured) == (False, "49.0 to 60.0: -11.0")


def test_verdicts_wait_for_every_row_repeat_and_column(tmp_path):
    path = tmp_path / "table.csv"
    add_all(path)
    lines = store.read_lines(path)

    def few_goal(kept, scale=SCALE):
        store.write_lines(path, store.COLUMNS, kept)
        return report.goals(report.Table(path, scale))[6]

    goal = few_goal([x for x in lines if x["method"] != "swav_sgd"])
    assert (goal.met, goal.verdict) == (None, "incomplete")
    assert goal.measured.endswith("[3 of 3 repeats, without swav_sgd]")
    goal = few_goal([x for x in lines if (x["method"], x["repeat"]) != ("swav", "0")])
    # Of the two repeats that all of them have.
    assert goal.met is None
    assert goal.measured == "51.0 to 20.0 (moco): +31.0 [2 of 3 repeats]"
    goal = few_goal([x for x in lines if x["method"] != "recommended"])
    assert (goal.met, goal.verdict, goal.measured) == (None, "not measured", "")
    columns = replace(SCALE.data["set"], snrs=(1.0, 0.5))
    goal = few_goal(lines, replace(SCALE, data={"set": columns}))
    assert goal.met is None
    assert goal.measured.endswith("; set, SNR 0.5 [0 of 3 repeats]")
    assert few_goal(lines).met is True
    # More repeats of the paper's rows are no more of the recipe's.
    assert few_goal(lines, replace(SCALE, paper_repeats=5)).met is True
    table = report.Table(path, replace(SCALE, paper_repeats=5))
    moco = report.goals(table)[2]
    assert moco.met is None
    assert moco.measured.endswith("[3 of 5 repeats]")
    assert "moco (3 of 5)" in table.incomplete()
    assert "recommended (3 of 3)" not in table.incomplete()


def test_the_papers_rows_may_have_more_repeats(tmp_path):
    plan = make_plan(
        tmp_path,
        scale=replace(SCALE, paper_repeats=4),
        methods=("random", "bn_cnn"),
    )
    units = paper_tables.plan_units(plan, range(2, 9))
    assert [(unit.repeat, unit.methods) for unit in units] == [
        (2, ("random",)),
        (2, ("bn_cnn",)),
        (3, ("random",)),
    ]


@pytest.mark.parametrize(("bn", "at_least", "above"), [(0.6, True, False), (0.5, 1, 1)])
def test_above_is_more_than_at_least(tmp_path, bn, at_least, above):
    two = replace(SCALE, data=dict.fromkeys(("set", "other"), SCALE.data["set"]))
    path = tmp_path / "table.csv"
    for repeat in range(3):
        for dataset in two.data:
            for count in (9, 36):
                add(path, "recommended", count, repeat, 0.6, dataset)
                add(path, "bn_cnn", count, repeat, bn, dataset)
    assert report.goals(report.Table(path, SCALE))[-1].met == at_least
    assert report.goals(report.Table(path, two))[-1].met == above


def test_differences_are_of_common_repeats(tmp_path):
    path = tmp_path / "table.csv"
    for repeat, accuracy in enumerate((0.2, 0.3, 0.9)):
        add(path, "random", 9, repeat, accuracy)
    for repeat in (0, 1):
        add(path, "moco", 9, repeat, 0.4 + 0.1 * repeat)
    table = report.Table(path, SCALE)
    assert table.compared("moco", "random", table.columns[0], "25%").startswith("+20.0")


def test_rows_of_some_labels_are_not_called_incomplete(tmp_path):
    path = tmp_path / "table.csv"
    for repeat in range(3):
        for count in (5, 9):
            add(path, "recommended_without_mask", count, repeat, 0.5)
        for count in (9, 36):
            add(path, "cb3d", count, repeat, 0.5)
    add(path, "random", 5, 0, 0.5)
    assert report.Table(path, SCALE).incomplete() == ["random (0 of 3)"]


def test_a_repeat_under_way_does_not_bend_the_curves(tmp_path):
    path = tmp_path / "table.csv"
    add_curve(path, "moco", 0, (0, 1, 2))
    add_curve(path, "moco", 1, (0,))
    column = report.Column("set", 1.0)
    assert report.read_curves(path, column)["moco"][2] == (1.0, 50.0)
    add_curve(path, "moco", 1, (1, 2, 4))
    assert list(report.read_curves(path, column)["moco"]) == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "methods",
    [
        ["random", "recommended"],
        ["random", "recommended", *settings.ABLATIONS],
        ["recommended", *settings.CANDIDATES],
    ],
)
@pytest.mark.parametrize("n_columns", [1, 2])
def test_figure_has_no_empty_panel(tmp_path, monkeypatch, methods, n_columns):
    path = tmp_path / "table.csv"
    names = ("set", "other")[:n_columns]
    scale = replace(SCALE, data=dict.fromkeys(names, SCALE.data["set"]))
    lines = []
    for repeat in range(2):
        for dataset in names:
            for method in methods:
                values = (method, dataset, "1", "0.1", 5, 0, repeat, 0.5, 1)
                lines.append(dict(zip(store.COLUMNS, values, strict=True)))
    store.write_lines(path, store.COLUMNS, lines)
    add_curve(path, "recommended", 0, (0, 1, 2))
    figures = []
    plot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plot, "close", figures.append)
    report.draw(report.Table(path, scale), tmp_path / "figure.png")
    monkeypatch.undo()
    figure = figures[0]
    n_panels = 1
    if "random" in methods:
        n_panels = n_columns + 2 + ("recommended_without_mask" in methods)
    assert len(figure.axes) == n_panels
    for ax in figure.axes:
        assert ax.axison
        assert any(len(line.get_xdata()) for line in ax.get_lines())
    names = [text.get_text() for legend in figure.legends for text in legend.texts]
    expected = ["chance", "random", "recommended"] if "random" in methods else []
    assert names == expected
    plot.close(figure)


def test_scale_of_few_labels_has_no_goals(tmp_path):
    path = tmp_path / "paper_tables_development.csv"
    scale = replace(SCALE, labels=("5", "25%"))
    add(path, "recommended", 5, 0, 0.5)
    add(path, "recommended_with_byol", 5, 0, 0.4)
    report.write_pages(path, scale, tmp_path / "docs")
    text = (tmp_path / "docs" / f"{path.stem}.inc").read_text("utf-8")
    assert "images/paper_tables_development.png" in text
    assert "-10.0" in text
    assert "Goals" not in text


@pytest.mark.parametrize("name", settings.SCALES)
def test_page_shows_the_committed_results(name):
    docs = BENCHMARKS.parent / "docs"
    page = (docs / "paper_tables.rst").read_text("utf-8")
    assert f".. include:: paper_tables_{name}.inc" in page
    path = BENCHMARKS / "results" / f"paper_tables_{name}.csv"
    fragment = report.page_fragment(report.Table(path, settings.SCALES[name]))
    # `benchmarks/paper_tables.py --scale NAME --report` writes it.
    assert (docs / f"paper_tables_{name}.inc").read_text("utf-8") == fragment


def test_simplified_volumes_have_a_file_of_their_own(tmp_path):
    plan = make_plan(tmp_path)
    whole = paper_tables.data_path(plan, "set", 1.0)
    cut = paper_tables.data_path(replace(plan, simplified=True), "set", 1.0)
    assert whole != cut


def test_volumes_are_simulated_once(tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    (tmp_path / "data").mkdir()
    calls = []

    def make(**parameters):
        calls.append(parameters)
        return np.zeros((2, 8, 8, 8), np.float32), None

    monkeypatch.setattr(paper_tables, "make_subtomograms", make)
    monkeypatch.setattr(paper_tables, "simulation_parameters", lambda *_: {})
    options = paper_tables.make_parser().parse_args([])
    arguments = plan, "set", 1.0, options
    threads = [
        threading.Thread(target=paper_tables.simulate, args=arguments) for _ in range(3)
    ]
    with store.lock(paper_tables.data_path(plan, "set", 1.0)):
        for thread in threads:
            thread.start()
        threads[0].join(0.2)
        assert not calls
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_second_process_waits_for_a_pretraining_and_loads_it(tmp_path, monkeypatch):
    plan = make_plan(tmp_path)
    unit = paper_tables.Unit(0, "set", 1.0, ("moco_sgd",))
    finished = paper_tables.pretraining_of(plan, unit).finished
    found = []
    monkeypatch.setattr(paper_tables.ContrastivePretrainer, "load", found.append)
    thread = threading.Thread(
        target=paper_tables.pretrain, args=(plan, unit, None, None)
    )
    with store.lock(finished):
        thread.start()
        thread.join(0.2)
        assert not found
        finished.mkdir(parents=True)
    thread.join()
    assert found == [finished]


def test_pretraining_is_called_after_its_first_row(tmp_path):
    plan = make_plan(tmp_path)
    whole, variant = (
        paper_tables.pretraining_of(plan, paper_tables.Unit(1, "set", 1.0, (method,)))
        for method in ("recommended", "recommended_without_encoder_lr")
    )
    assert whole == variant
    assert variant.method == "recommended"
    assert variant.finished.name.startswith("recommended_set_1_1_")


def test_only_curves_of_pretrainings_done_again_are_dropped(tmp_path):
    plan = make_plan(tmp_path)
    paper_tables.claim(plan, drops_others=False)
    for repeat in (0, 1, 2):
        add(plan.table, "moco_sgd", 5, repeat, 0.5)
        add_curve(plan.table, "moco", repeat, (0, 1))
    add_curve(plan.table, "simclr", 0, (0, 1))
    for repeat, place in ((0, "finished"), (1, "checkpoints")):
        unit = paper_tables.Unit(repeat, "set", 1.0, ("moco",))
        getattr(paper_tables.pretraining_of(plan, unit), place).mkdir(parents=True)
    record = store.read_record(plan.table)
    record["rows"]["moco_sgd"] = {"set": "another"}
    store.write_record(plan.table, record)
    plan = replace(plan, methods=("moco_sgd",))
    with pytest.raises(SystemExit, match="classifiers with other parameters"):
        paper_tables.claim(plan, drops_others=False)
    paper_tables.claim(plan, drops_others=True)
    assert store.read_lines(plan.table) == []
    lines = store.read_lines(store.convergence_path(plan.table))
    curves = {(line["method"], line["repeat"]) for line in lines}
    assert curves == {("moco", "0"), ("moco", "1"), ("simclr", "0")}
    # Pretrainings of other epochs are other ones.
    plan = replace(plan, scale=replace(SCALE, pretrain_epochs=2))
    paper_tables.claim(plan, drops_others=True)
    assert store.read_lines(store.convergence_path(plan.table)) == []


def test_curves_are_dropped_under_their_lock(tmp_path):
    plan = make_plan(tmp_path)
    add_curve(plan.table, "moco", 0, (0, 1))
    path = store.convergence_path(plan.table)
    thread = threading.Thread(target=paper_tables.drop_curves, args=(plan, None))
    with store.lock(path):
        thread.start()
        thread.join(0.3)
        assert len(store.read_lines(path)) == 2
    thread.join()
    assert store.read_lines(path) == []


def test_table_without_its_record_is_refused(tmp_path):
    plan = make_plan(tmp_path)
    add(plan.table, "moco", 5, 0, 0.5)
    with pytest.raises(SystemExit, match=r"table\.json does not say"):
        paper_tables.claim(plan, drops_others=False)
    paper_tables.claim(plan, drops_others=True)
    assert store.read_lines(plan.table) == []


def test_epochs_of_a_recipe_are_counted(tmp_path):
    scale = settings.SCALES["small"]
    row = settings.ROWS["recommended"]
    classifier = row.build("simulated", 1.0)
    epochs = paper_tables.fine_tune_epochs(scale, row, classifier, 50)
    # Of 2,000 steps, four an epoch.
    assert paper_tables.count_epochs(epochs, classifier, 50) == 500
    assert paper_tables.count_epochs(7, classifier, 50) == 7


def test_page_has_every_number_and_the_figure_is_drawn(tmp_path):
    path = tmp_path / "paper_tables_small.csv"
    report.write_pages(path, SCALE, tmp_path / "docs")
    fragment = tmp_path / "docs" / "paper_tables_small.inc"
    assert "not been run" in fragment.read_text("utf-8")
    for repeat, accuracy in enumerate((0.25, 0.35)):
        add(path, "moco", 5, repeat, accuracy)
    add_curve(path, "moco", 0, (0, 1, 2))
    report.write_pages(path, SCALE, tmp_path / "docs")
    assert "30.0 ± 7.1" in fragment.read_text("utf-8")
    assert "50.0 (loss 1.000)" in fragment.read_text("utf-8")
    assert "7 of which are the same in every repeat" in fragment.read_text("utf-8")
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
        command += " --output out --folder work --device auto"
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


def test_record_says_what_code_made_the_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr(paper_tables, "code_state", lambda: "commit abc")
    assert run("--methods", "random")[0] == 0
    table = tmp_path / "out" / "paper_tables_small_cut.csv"
    record = json.loads(store.record_path(table).read_text("utf-8"))
    assert [session["code"] for session in record["sessions"]] == ["commit abc"]
    # One that is killed leaves its name, though not its duration.
    del record["sessions"][0]["minutes"]
    store.write_record(table, record)
    assert run("--methods", "random,moco")[0] == 0
    sessions = json.loads(store.record_path(table).read_text("utf-8"))["sessions"]
    assert ["minutes" in session for session in sessions] == [False, True]
    assert "Code: commit abc" in table.with_suffix(".txt").read_text("utf-8")


def test_code_state_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert paper_tables.code_state().startswith("sksubtomo ")


def test_recipes_with_epochs_of_their_own_can_be_cut(run, tmp_path):
    arguments = ("--methods", "recommended", "--most-epochs", "1")
    assert run(*arguments, "--labels", "5")[0] == 0
    table = tmp_path / "out" / "paper_tables_small_cut.csv"
    with pytest.raises(SystemExit, match="most_epochs 1, expected None"):
        run("--methods", "recommended")
    assert len(store.read_lines(table)) == 1


def test_the_papers_scale_starts_stops_and_finishes(run, tmp_path):
    arguments = ["--scale", "paper", "--labels", "25%,100%", "--repeats", "0:2"]
    arguments += ["--methods", "moco,bn_cnn", "--pretrain-epochs", "1"]
    code, said = run(*arguments, "--limit-minutes", "0")
    assert code == 0
    assert "32 cells are not done; the same command goes on" in said
    table = tmp_path / "out" / "paper_tables_paper_cut.csv"
    assert run(*arguments, "--columns", "gupta2022:inf", "--repeats", "0")[0] == 0
    begun = store.read_lines(table)
    assert len(begun) == 4
    code, said = run(*arguments)
    assert code == 0
    assert "not done" not in said
    lines = store.read_lines(table)
    assert lines[:4] == begun
    columns = [("gupta2022", snr) for snr in ("inf", "0.05", "0.03")]
    columns.append(("experimental_like", "0.1"))
    found = {(line["dataset"], line["snr"], line["repeat"]) for line in lines}
    assert found == {(*column, repeat) for column in columns for repeat in "01"}
    assert len(lines) == 32
    record = json.loads(store.record_path(table).read_text("utf-8"))
    # Sixty-four keys on experimental data, where few labels are learned slowly.
    assert "queue_size=64" in record["rows"]["moco"]["experimental_like"]
    assert all("minutes" in session for session in record["sessions"])


def test_estimate_knows_recipes_with_epochs_of_their_own(run):
    code, said = run("--estimate", "--methods", "recommended", "--labels", "5")
    assert code == 0
    assert "hours of one thread" in said


def test_unknown_device_is_refused_first(run, capsys):
    with pytest.raises(SystemExit):
        run("--device", "abacus")
    assert "--device: device='abacus'" in capsys.readouterr().err


def test_results_of_a_cut_scale_are_kept_apart(run, capsys):
    with pytest.raises(SystemExit):
        run("--output", str(paper_tables.RESULTS))
    assert "expected another --output" in capsys.readouterr().err
