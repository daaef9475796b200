"""scikit-learn's own checks, and those that check_estimator leaves out."""

import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sksubtomo import (
    ContrastivePretrainer,
    DSRF3DClassifier,
    LabelFractionClassifier,
    RB3DClassifier,
    SelfDistillation,
    SubtomogramClassifier,
)
from sksubtomo.contrastive import SimCLR
from sksubtomo.networks import RB3D
from sksubtomo.uncertainty import NoveltyDetector, TemperatureScaledClassifier

PRETRAINER = ContrastivePretrainer(max_epochs=2)


def _instances():
    return [
        PRETRAINER,
        ContrastivePretrainer(
            SimCLR(),
            encoder=RB3D(norm="group"),
            augmentation="rotate_shift_noise",
            normalize="volume",
            optimizer="adamw",
            schedule="warmup_cosine",
            max_epochs=1,
        ),
        RB3DClassifier(max_epochs=8),
        RB3DClassifier(PRETRAINER, class_weight="balanced", max_epochs=8),
        SubtomogramClassifier(
            encoder=RB3D(norm="group"),
            encoder_lr=2e-3,
            schedule="warmup_cosine",
            label_smoothing=0.1,
            average_weights=0.9,
            self_training=SelfDistillation(),
            max_epochs=12,
        ),
        LabelFractionClassifier(RB3DClassifier(max_epochs=8)),
        LabelFractionClassifier(LogisticRegression()),
        TemperatureScaledClassifier(LogisticRegression()),
        TemperatureScaledClassifier(LogisticRegression(), cv=2),
        NoveltyDetector(),
    ]


@parametrize_with_checks(_instances())
def test_scikit_learn_checks(estimator, check):
    check(estimator)


LEFT_OUT = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_fit_check_is_fitted",
]
LEFT_OUT_TRANSFORMER = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


@pytest.mark.parametrize("check_name", LEFT_OUT)
@pytest.mark.parametrize(
    "estimator",
    [
        PRETRAINER,
        RB3DClassifier(max_epochs=2),
        DSRF3DClassifier(max_epochs=1),
        SubtomogramClassifier(max_epochs=2),
        LabelFractionClassifier(LogisticRegression()),
        TemperatureScaledClassifier(LogisticRegression()),
        NoveltyDetector(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_checks_left_out(estimator, check_name):
    check = getattr(estimator_checks, check_name)
    check(type(estimator).__name__, clone(estimator))


# The checks themselves mix arrays and data frames between fit and transform.
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")
@pytest.mark.parametrize("check_name", LEFT_OUT_TRANSFORMER)
@pytest.mark.parametrize(
    "estimator",
    [PRETRAINER, RB3DClassifier(max_epochs=1)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_transformer_checks_left_out(estimator, check_name):
    check = getattr(estimator_checks, check_name)
    check(type(estimator).__name__, clone(estimator))
