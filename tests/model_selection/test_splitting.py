import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)

from sksubtomo.model_selection import LabelFractionSplit


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.array(["a"] * 24 + ["b"] * 16 + ["?"] * 10)
    order = rng.permutation(len(y))
    return rng.normal(size=(len(y), 3)), y[order]


def count(labels):
    return {str(label): int((labels == label).sum()) for label in np.unique(labels)}


def test_thins_the_training_labels_class_by_class(data):
    X, y = data
    X, y = X[y != "?"], y[y != "?"]
    cv = LabelFractionSplit(StratifiedKFold(4), 0.5, random_state=0)
    assert cv.get_n_splits(X, y) == 4
    inner = list(StratifiedKFold(4).split(X, y))
    for (train, test), (train_all, test_all) in zip(cv.split(X, y), inner, strict=True):
        assert count(y[train]) == {"a": 9, "b": 6}
        assert set(train) < set(train_all)
        np.testing.assert_array_equal(test, test_all)


def test_keeps_one_label_of_each_class_and_numbers_of_each(data):
    X, y = data
    X, y = X[y != "?"], y[y != "?"]
    for train, _ in LabelFractionSplit(4, 0.001, random_state=0).split(X, y):
        assert count(y[train]) == {"a": 1, "b": 1}
    cv = LabelFractionSplit(4, labels_per_class=15, random_state=0)
    for train, _ in cv.split(X, y):
        assert count(y[train]) == {"a": 15, "b": 12}


def test_a_smaller_fraction_is_part_of_a_larger(data):
    X, y = data
    folds = [
        list(LabelFractionSplit(4, f, "?", random_state=3).split(X, y))
        for f in (0.2, 0.6, 1.0)
    ]
    for (small, _), (middle, _), (everything, _) in zip(*folds, strict=True):
        assert set(small) < set(middle) < set(everything)


def test_unlabelled_rows_are_trained_on_and_never_tested(data):
    X, y = data
    cv = LabelFractionSplit(4, 0.5, unlabeled="?", random_state=0)
    tested = []
    for train, test in cv.split(X, y):
        assert count(y[train]) == {"?": 10, "a": 9, "b": 6}
        assert not set(train) & set(test)
        tested.extend(test)
    np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(y != "?"))


def test_the_splitter_sees_labelled_rows_only(data):
    X, y = data

    class Spy(KFold):
        def split(self, X, y=None, groups=None):
            seen.append((X, y, groups))
            return super().split(X, y)

    seen = []
    groups = np.arange(len(y))
    list(LabelFractionSplit(Spy(2), 1.0, "?").split(X, y, groups))
    for given, expected in zip(seen[0], (X, y, groups), strict=True):
        np.testing.assert_array_equal(given, expected[y != "?"])


def test_groups_that_are_tested_are_not_trained_on(data):
    X, y = data
    groups = np.arange(len(y)) % 5
    cv = LabelFractionSplit(GroupKFold(5), 0.5, unlabeled="?", random_state=0)
    assert cv.get_n_splits(X, y, groups) == 5
    marked = []
    for train, test in cv.split(X, y, groups):
        assert not set(groups[train]) & set(groups[test])
        rest = (y == "?") & ~np.isin(groups, groups[test])
        marked.append(rest.sum())
        assert count(y[train])["?"] == marked[-1]
    assert min(marked) < 10

    class Torn(KFold):
        def split(self, X, y=None, groups=None):
            return super().split(X, y)

    # Where groups are torn apart anyway, all unlabelled rows stay.
    torn = LabelFractionSplit(Torn(2, shuffle=True, random_state=0), 0.5, "?")
    for train, _ in torn.split(X, y, groups):
        assert count(y[train])["?"] == 10


def test_deterministic_whenever_it_is_called(data):
    X, y = data
    cv = LabelFractionSplit(4, 0.5, "?", random_state=0)
    first, second = list(cv.split(X, y)), list(cv.split(X, y))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    another = list(LabelFractionSplit(4, 0.5, "?", random_state=1).split(X, y))
    assert any(set(a[0]) != set(b[0]) for a, b in zip(first, another, strict=True))
    before = np.random.get_state()[1]
    list(LabelFractionSplit(4, 0.5, "?").split(X, y))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_folds_have_labels_of_their_own(data):
    X, y = data
    everything = np.arange(len(y))
    folds = [(everything, everything[:5])] * 2
    cv = LabelFractionSplit(folds, 0.2, "?", random_state=0)
    (one, _), (other, _) = cv.split(X, y)
    assert set(one) != set(other)


def test_a_list_of_splits_has_rows_of_X(data):
    X, y = data
    train, test = np.arange(25), np.arange(25, 50)
    cv = LabelFractionSplit(iter([(train, test)]), 1.0, unlabeled="?")
    for _ in range(2):
        ((kept, tested),) = cv.split(X, y)
        np.testing.assert_array_equal(kept, train)
        np.testing.assert_array_equal(tested, test[y[test] != "?"])
    assert cv.get_n_splits(X, y) == 1


class MarkedRows(ClassifierMixin, BaseEstimator):
    """Score 1 if a tenth of the training rows, or more, are marked."""

    def __init__(self, wanted=1):
        self.wanted = wanted

    def fit(self, X, y):
        self.classes_ = np.unique(y[y != "?"])
        self.marked_ = int((y == "?").sum())
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0] if self.marked_ == 10 else "none")


def test_in_cross_val_score_and_a_search(data):
    X, y = data
    cv = LabelFractionSplit(4, 0.5, unlabeled="?", random_state=0)
    np.testing.assert_allclose(cross_val_score(MarkedRows(), X, y, cv=cv), 0.6)
    search = GridSearchCV(MarkedRows(), {"wanted": [1, 2]}, cv=cv, refit=False)
    assert search.fit(X, y).n_splits_ == 4
    known = y != "?"
    plain = LabelFractionSplit(3, 0.5, random_state=0)
    model = LogisticRegression()
    assert cross_val_score(model, X[known], y[known], cv=plain).shape == (3,)


def test_groups_are_routed_to_a_splitter_that_wants_them(data):
    X, y = data
    groups = np.arange(len(y)) % 5
    with config_context(enable_metadata_routing=True):
        cv = LabelFractionSplit(GroupKFold(5), 0.5, unlabeled="?", random_state=0)
        result = cross_validate(
            MarkedRows(), X, y, cv=cv, params={"groups": groups}, return_indices=True
        )
        for train, test in zip(*result["indices"].values(), strict=True):
            assert not set(groups[train]) & set(groups[test])
        # One that does not is not given them, and says so.
        with pytest.raises(TypeError, match="groups"):
            cross_validate(
                MarkedRows(),
                X,
                y,
                cv=LabelFractionSplit(ShuffleSplit(2), 0.5),
                params={"groups": groups},
            )


def test_repr_has_the_parameters():
    cv = LabelFractionSplit(GroupKFold(3), 0.25, unlabeled=-1, random_state=4)
    text = repr(cv)
    assert text.startswith("LabelFractionSplit(cv=GroupKFold(n_splits=3")
    for part in ("label_fraction=0.25", "unlabeled=-1", "random_state=4"):
        assert part in text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"label_fraction": 0}, "label_fraction=0"),
        ({"label_fraction": 1.1}, "label_fraction=1.1"),
        ({"labels_per_class": 0}, "labels_per_class=0"),
        ({"labels_per_class": 2.5}, "labels_per_class=2.5"),
        ({"label_fraction": "0.5"}, "label_fraction='0.5'"),
    ],
)
def test_rejects(parameters, message):
    with pytest.raises(ValueError, match=message):
        LabelFractionSplit(3, **parameters)


@pytest.mark.parametrize(
    ("y", "mark", "message"),
    [
        (["p", "q", "-1"] * 4, -1, "unlabeled=-1 is of type int, but y has dtype <U"),
        ([0, 1, 2] * 4, "?", r"unlabeled='\?' is of type str"),
        (
            [0.0, 1.0, np.nan] * 4,
            np.nan,
            "unlabeled=nan; expected a mark that is equal",
        ),
        (["?"] * 12, "?", "no labelled|all"),
    ],
)
def test_marks_that_cannot_be_found_are_refused(y, mark, message):
    cv = LabelFractionSplit(KFold(2), unlabeled=mark)
    with pytest.raises(ValueError, match=message):
        next(cv.split(np.zeros((12, 1)), np.array(y)))
    with pytest.raises(ValueError, match=message):
        cv.get_n_splits(np.zeros((12, 1)), np.array(y))


def test_a_predefined_split_is_of_all_rows():
    y = np.array(["a", "b", "?"] * 8)
    folds = np.repeat([0, 1], 12)
    cv = LabelFractionSplit(PredefinedSplit(folds), unlabeled="?")
    parts = list(cv.split(np.zeros((24, 1)), y))
    for number, (train, test) in enumerate(parts):
        assert train.tolist() == np.flatnonzero(folds != number).tolist()
        expected = np.flatnonzero((folds == number) & (y != "?"))
        assert test.tolist() == expected.tolist()
