"""Learning from a part of the labels, and from the rows that have none."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    _fit_context,
    clone,
)
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import (
    _num_samples,
    check_is_fitted,
    has_fit_parameter,
)

from sksubtomo._labels import (
    check_labels,
    draw_by_class,
    encode_labels,
    unpack_validation_data,
)
from sksubtomo._training.runtime import draw_seed, spawn_seeds


def _estimator_has(name):
    def check(self):
        getattr(
            self.estimator_ if hasattr(self, "estimator_") else self.estimator, name
        )
        return True

    return check


class SelfDistillation(BaseEstimator):
    """Let a fine-tuned classifier teach another one on the unlabelled rows.

    The `self_training` of a :class:`~sksubtomo.SubtomogramClassifier`. After
    fine-tuning, the network is a teacher: its probabilities of the unlabelled rows,
    averaged over orientations, become soft labels. A student is then fine-tuned with
    the classifier's own settings on all rows; labelled ones keep their labels, and
    validation rows are left out. The student may be the teacher of the next one.

    Read more in the :ref:`User Guide <self_distillation>`.

    Parameters
    ----------
    n_rounds : int, default=1
        Number of students, one after the other; the last one is kept.
    weight : float, default=1.0
        What an unlabelled row counts in the loss, where a labelled one counts 1.
    temperature : float, default=1.0
        The probabilities are taken to the power of its inverse and brought to sum to
        one again: below 1 the soft labels are sharper than the teacher, near 0 they
        are its decisions.
    n_views : int, default=4
        Number of orientations of each volume over which the teacher's probabilities
        are averaged, as by `test_views`; the first four leave the missing wedge of a
        symmetric tilt range where it is.
    max_epochs : int, default=None
        Passes of a student over all rows; None is the classifier's `max_epochs`, of
        which each is longer than over the labelled rows alone, or for "auto" what that
        is for all rows.
    from_teacher : bool, default=False
        Whether a student starts from the teacher's weights, instead of where the
        teacher itself started.

    See Also
    --------
    sklearn.semi_supervised.SelfTrainingClassifier : Labels the rows that a
        classifier is sure of.

    References
    ----------
    Q. Xie, M.-T. Luong, E. Hovy, Q. V. Le, "Self-training with noisy student improves
    ImageNet classification", CVPR 2020.

    T. Chen, S. Kornblith, K. Swersky, M. Norouzi, G. Hinton, "Big self-supervised
    models are strong semi-supervised learners", NeurIPS 2020.

    Examples
    --------
    >>> from sksubtomo import RB3DClassifier, SelfDistillation
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=3, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> y[::3] = -1
    >>> classifier = RB3DClassifier(self_training=SelfDistillation(n_views=2),
    ...                             unlabeled=-1, max_epochs=2, random_state=0)
    >>> [epoch["round"] for epoch in classifier.fit(X, y).history_]
    [0, 0, 1, 1]
    """

    _parameter_constraints: dict = {
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "weight": [Interval(Real, 0, None, closed="neither")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), None],
        "from_teacher": ["boolean"],
    }

    def __init__(
        self,
        n_rounds=1,
        weight=1.0,
        temperature=1.0,
        n_views=4,
        max_epochs=None,
        from_teacher=False,
    ):
        self.n_rounds = n_rounds
        self.weight = weight
        self.temperature = temperature
        self.n_views = n_views
        self.max_epochs = max_epochs
        self.from_teacher = from_teacher

    def soft_labels(self, probabilities):
        """Return what a student is taught of the unlabelled rows.

        Parameters
        ----------
        probabilities : ndarray of shape (n, n_classes)
            The teacher's.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Soft labels at the temperature; each row sums to `weight`.
        """
        # The largest becomes 1: at a low temperature all of a row could underflow.
        relative = probabilities / probabilities.max(axis=1, keepdims=True)
        powers = relative ** (1 / self.temperature)
        return self.weight * powers / powers.sum(axis=1, keepdims=True)


class LabelFractionClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Fit a classifier as if only a part of the labels were known.

    The labels that are kept are drawn class by class, at least one of each. A
    classifier that can use unlabelled rows, one with a parameter `unlabeled`, gets
    all rows with the hidden labels marked; any other gets the kept rows only. The
    fraction is a parameter like any other, so a search over ``label_fraction``
    draws a label study.

    Read more in the :ref:`User Guide <estimators>`.

    Parameters
    ----------
    estimator : estimator object
        A classifier, such as :class:`~sksubtomo.RB3DClassifier`.
    label_fraction : float, default=1.0
        Part of the labels of each class to keep, above 0 and up to 1; of each class
        at least one.
    labels_per_class : int, default=None
        Number of labels of each class to keep, whatever `label_fraction` says; a
        smaller class is kept whole.
    random_state : int, RandomState instance or None, default=None
        Determines which labels are kept: with one seed, those of a smaller fraction
        are among those of a larger. It also seeds every `random_state` within
        `estimator` that is None. None is fresh entropy.

    Attributes
    ----------
    estimator_ : estimator object
        The fitted clone, whose classes are 0 to ``n_classes - 1``.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    labeled_indices_ : ndarray of shape (n_labeled,)
        The rows of X whose labels were kept, in ascending order.
    n_features_in_ : int
        Number of features, if `estimator` exposes it.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if `estimator` exposes them.

    See Also
    --------
    sklearn.semi_supervised.SelfTrainingClassifier : Labels the rows that a
        classifier is sure of.

    Notes
    -----
    As the last step of a pipeline behind a
    :class:`~sksubtomo.ContrastivePretrainer` it hides labels from the classifier
    on the embedding, while the pretrainer sees every row.

    Rows that the inner estimator's own `unlabeled` marks in y stay unlabelled and
    are not counted.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sksubtomo import ContrastivePretrainer, LabelFractionClassifier
    >>> from sksubtomo.datasets import make_subtomograms
    >>> X, y = make_subtomograms(n_per_class=4, size=8, random_state=0,
    ...                          return_X_y=True)
    >>> probe = LabelFractionClassifier(LogisticRegression(max_iter=1000),
    ...                                 labels_per_class=2, random_state=0)
    >>> model = make_pipeline(
    ...     ContrastivePretrainer(max_epochs=2, random_state=0), probe)
    >>> len(model.fit(X, y)[-1].labeled_indices_)
    20
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"])],
        "label_fraction": [Interval(Real, 0, 1, closed="right")],
        "labels_per_class": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self, estimator, label_fraction=1.0, labels_per_class=None, random_state=None
    ):
        self.estimator = estimator
        self.label_fraction = label_fraction
        self.labels_per_class = labels_per_class
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, validation_data=None):
        """Draw the labels to keep and fit a clone of the estimator.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.
        y : array-like of shape (n,)
            Labels.
        validation_data : tuple (X_val, y_val), default=None
            Passed on to an estimator whose ``fit`` takes it, with its labels encoded
            as those of y are. None of them is hidden.

        Returns
        -------
        self : LabelFractionClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If y or a parameter is not acceptable.
        """
        takes_unlabeled = "unlabeled" in self.estimator.get_params(deep=False)
        mark = self.estimator.unlabeled if takes_unlabeled else None
        y, labeled = check_labels(self, X, y, unlabeled=mark)
        self.classes_, labels = np.unique(y[labeled], return_inverse=True)

        # Drawn before the labels: the nested pretraining of every fraction then has
        # one seed, and a cached one serves them all.
        label_seed, *estimator_seeds = self._draw_seeds()
        absolute = self.labels_per_class is not None
        kept = draw_by_class(
            labels,
            self.labels_per_class if absolute else self.label_fraction,
            np.random.default_rng(label_seed),
            absolute=absolute,
        )
        self.labeled_indices_ = np.flatnonzero(labeled)[kept]

        estimator = clone(self.estimator)
        estimator.set_params(
            **dict(zip(self._unseeded_parameters(), estimator_seeds, strict=True))
        )
        estimator.set_params(**self._encoded_class_weights())
        fit_params = {}
        if validation_data is not None:
            X_val, y_val = unpack_validation_data(validation_data)
            if not has_fit_parameter(estimator, "validation_data"):
                raise ValueError(
                    f"validation_data was given, but the fit of "
                    f"{type(estimator).__name__} does not take it."
                )
            # Zarr arrays have a shape, but no length.
            encoded = encode_labels(
                y_val, self.classes_, _num_samples(X_val), "validation_data"
            )
            fit_params["validation_data"] = (X_val, encoded)
        if takes_unlabeled:
            encoded = np.full(len(y), -1)
            encoded[self.labeled_indices_] = labels[kept]
            estimator.set_params(unlabeled=-1)
            self.estimator_ = estimator.fit(X, encoded, **fit_params)
        else:
            (rows,) = indexable(X)
            self.estimator_ = estimator.fit(
                _safe_indexing(rows, self.labeled_indices_), labels[kept], **fit_params
            )
        return self

    def _unseeded_parameters(self):
        """Return the names of the estimator's `random_state`s that are None."""
        if self.random_state is None:
            return []
        return sorted(
            name
            for name, value in self.estimator.get_params().items()
            if name.rpartition("__")[2] == "random_state" and value is None
        )

    def _encoded_class_weights(self):
        """Return the estimator's class weights by encoded label, by parameter name."""
        return {
            name: dict(
                zip(
                    encode_labels(
                        list(weights), self.classes_, len(weights), name
                    ).tolist(),
                    weights.values(),
                    strict=True,
                )
            )
            for name, weights in self.estimator.get_params().items()
            if name.rpartition("__")[2] == "class_weight" and isinstance(weights, dict)
        }

    def _draw_seeds(self):
        # Seeds of scikit-learn's own estimators are below 2^32, as these are.
        n_seeds = 1 + len(self._unseeded_parameters())
        return spawn_seeds(draw_seed(self.random_state), n_seeds)

    def predict(self, X):
        """Return the class of each row.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.

        Returns
        -------
        ndarray of shape (n,)
            Labels, of those in ``classes_``.
        """
        check_is_fitted(self)
        return self.classes_[self.estimator_.predict(X)]

    @available_if(_estimator_has("predict_proba"))
    def predict_proba(self, X):
        """Return the probability of each class for each row.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)

    @available_if(_estimator_has("decision_function"))
    def decision_function(self, X):
        """Return the estimator's decision function.

        Parameters
        ----------
        X : array-like
            Whatever `estimator` takes.

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
            Confidence scores, in the order of ``classes_``.
        """
        check_is_fitted(self)
        return self.estimator_.decision_function(X)

    @property
    def n_features_in_(self):  # numpydoc ignore=RT01
        """Number of features seen in ``fit``."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self):  # numpydoc ignore=RT01,SS05
        """Names of the features seen in ``fit``."""
        return self.estimator_.feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags
