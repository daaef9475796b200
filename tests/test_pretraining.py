import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, EarlyStopping, ParamMapper

from sksubtomo import ContrastivePretrainer, RB3DClassifier
from sksubtomo._training import fitting
from sksubtomo.augmentation import CropAffine, RotateShiftNoise
from sksubtomo.contrastive import MoCo, SimCLR, SwAV
from sksubtomo.networks import RB3D


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(12, 8, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(X):
    return ContrastivePretrainer(max_epochs=2, random_state=0).fit(X)


def _weights(pretrainer):
    return [p.detach().numpy() for p in pretrainer.encoder_.parameters()]


def _assert_same_weights(one, other):
    for a, b in zip(_weights(one), _weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_auto_epochs_are_more_than_those_of_fine_tuning(X, monkeypatch):
    monkeypatch.setattr(fitting, "_ENOUGH_EPOCHS", 1)
    monkeypatch.setattr(fitting, "_ENOUGH_PRETRAINING_EPOCHS", 2)
    monkeypatch.setattr(fitting, "_ENOUGH_STEPS", 3)
    pretrainer = ContrastivePretrainer(batch_size=12)
    assert pretrainer.fit(X).n_iter_ == 3
    assert pretrainer.set_params(batch_size=4).fit(X).n_iter_ == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "method", ["simclr", "moco", "swav", "byol", "vicreg", MoCo(queue_size=7)]
)
@pytest.mark.parametrize("augmentation", ["crop_affine", RotateShiftNoise()])
def test_every_method_trains(X, method, augmentation):
    pretrainer = ContrastivePretrainer(
        method, augmentation=augmentation, max_epochs=2, batch_size=5, random_state=0
    ).fit(X)
    assert pretrainer.transform(X).shape == (12, 256)
    assert [epoch["epoch"] for epoch in pretrainer.history_] == [1, 2]
    assert all(np.isfinite(epoch["train_loss"]) for epoch in pretrainer.history_)
    assert pretrainer.n_iter_ == 2
    untrained = ContrastivePretrainer(method, max_epochs=1, lr=1e-12, random_state=0)
    moved = [
        np.abs(a - b).max() > 1e-6
        for a, b in zip(_weights(pretrainer), _weights(untrained.fit(X)), strict=True)
    ]
    assert all(moved)


def test_learns_to_tell_volumes_apart(X):
    pretrainer = ContrastivePretrainer(
        SimCLR(),
        augmentation=CropAffine(p_crop=0, max_rotation=10),
        lr=1e-3,
        max_epochs=15,
        batch_size=12,
        random_state=0,
    ).fit(X)
    losses = [epoch["train_loss"] for epoch in pretrainer.history_]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_projection_head_is_dropped(X, fitted):
    published = clone(fitted).set_params(encoder=RB3D(), max_epochs=1).fit(X)
    assert sum(p.numel() for p in published.encoder_.parameters()) == 115_904


def test_same_seed_same_weights(X, fitted):
    again = clone(fitted).fit(X)
    _assert_same_weights(fitted, again)
    assert again.history_ == fitted.history_
    other = clone(fitted).set_params(random_state=1).fit(X)
    assert not np.array_equal(_weights(other)[0], _weights(fitted)[0])


def test_flat_rows_are_the_same_volumes(X, fitted):
    flat = X.reshape(12, -1)
    np.testing.assert_array_equal(fitted.transform(flat), fitted.transform(X))
    _assert_same_weights(clone(fitted).fit(flat), fitted)


def test_unseeded_fits_differ_and_leave_the_global_generators(X):
    numpy_state = np.random.get_state()
    torch_state = torch.random.get_rng_state()
    estimator = ContrastivePretrainer(max_epochs=1)
    one, other = clone(estimator).fit(X), clone(estimator).fit(X)
    estimator.set_params(random_state=0).fit(X).transform(X)
    assert not np.array_equal(_weights(one)[0], _weights(other)[0])
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_embedding_does_not_depend_on_the_rest_of_X(X, fitted):
    embedding = fitted.transform(X)
    for row in range(len(X)):
        np.testing.assert_array_equal(
            fitted.transform(X[row : row + 1])[0], embedding[row]
        )
    many = np.concatenate([X, X, X[:3]])
    np.testing.assert_array_equal(fitted.transform(many)[12:24], embedding)


def test_normalisation(X):
    shifted = X * 1e-3 + 50
    dataset = ContrastivePretrainer(max_epochs=1, random_state=0).fit(shifted)
    assert dataset.normalizer_.mean == pytest.approx(50, rel=1e-4)
    assert dataset.normalizer_.scale == pytest.approx(shifted.std(), rel=1e-3)
    per_volume = ContrastivePretrainer(
        normalize="volume", max_epochs=1, random_state=0
    ).fit(X)
    scales = np.linspace(1, 5, len(X), dtype=np.float32).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(
        per_volume.transform(X * scales + 3), per_volume.transform(X), atol=1e-4
    )
    none = ContrastivePretrainer(normalize=None, max_epochs=1).fit(X)
    assert (none.normalizer_.mean, none.normalizer_.scale) == (0, 1)


@pytest.mark.parametrize("normalize", ["dataset", "volume", None])
def test_constant_volumes(normalize):
    X = np.full((4, 8, 8, 8), 1234.5)
    pretrainer = ContrastivePretrainer(
        normalize=normalize, max_epochs=1, random_state=0
    )
    assert np.isfinite(pretrainer.fit_transform(X)).all()


class CountEpochs(Callback):
    def __init__(self):
        self.n_batches = 0
        self.losses = []

    def on_batch_end(self, net, training, **kwargs):
        self.n_batches += training

    def on_epoch_end(self, net, **kwargs):
        self.losses.append(net.history[-1, "train_loss"])
        assert net.history[-1, "batches", :, "train_batch_size"] == [5, 5, 2]


def test_callbacks_see_training(X):
    counter = CountEpochs()
    pretrainer = ContrastivePretrainer(
        max_epochs=3, batch_size=5, callbacks=[counter], random_state=0
    )
    pretrainer.fit(X)
    assert counter.n_batches == 9
    assert counter.losses == [epoch["train_loss"] for epoch in pretrainer.history_]


def test_a_lone_last_volume_joins_the_batch_before(X):
    sizes = []

    class Sizes(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            sizes.append(len(batch[0]))

    ContrastivePretrainer(max_epochs=1, batch_size=5, callbacks=[Sizes()]).fit(X[:11])
    assert sizes == [5, 6]


def test_callbacks_can_stop_training(X):
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10.0, sink=len)
    pretrainer = ContrastivePretrainer(max_epochs=50, callbacks=[stop]).fit(X)
    assert pretrainer.n_iter_ < 50


def test_interrupt_gets_through(X):
    class Interrupt(Callback):
        def on_batch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ContrastivePretrainer(callbacks=[Interrupt()]).fit(X)


def test_divergence_is_reported(X):
    with pytest.raises(FloatingPointError, match=r"epoch \d+; lower lr="):
        ContrastivePretrainer(lr=1e30, max_epochs=20, random_state=0).fit(X)


def test_diffuse_prototypes_are_reported(X):
    pretrainer = ContrastivePretrainer(
        SwAV(temperature=100.0), max_epochs=1, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="prototypes"):
        pretrainer.fit(X)


def test_verbose_shows_a_bar(X, capsys):
    ContrastivePretrainer(max_epochs=2, verbose=1).fit(X)
    shown = capsys.readouterr().err
    assert "pretraining" in shown
    assert "2/2" in shown
    ContrastivePretrainer(max_epochs=2).fit(X)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_pickle_is_portable(X, fitted, tmp_path):
    state = pickle.dumps(fitted)
    # Neither a tensor nor a device: nothing of torch is needed but the package.
    assert b"torch" not in state
    _assert_same_weights(pickle.loads(state), fitted)
    joblib.dump(fitted, tmp_path / "pretrainer.joblib")
    loaded = joblib.load(tmp_path / "pretrainer.joblib")
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


def test_pickle_of_another_device(X, fitted):
    """A model fitted on an accelerator predicts where there is none."""
    wanted = clone(fitted).fit(X).set_params(device="cuda")
    loaded = pickle.loads(pickle.dumps(wanted))
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda' is not available"):
            loaded.fit(X)


def test_changed_parameters_do_not_break_a_fitted_one(X, fitted):
    changed = clone(fitted).fit(X).set_params(encoder=RB3D(norm="group"))
    loaded = pickle.loads(pickle.dumps(changed))
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


def test_hash_is_the_same_in_every_process(X, fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "pretrainer.joblib")
    code = "import joblib, sys;print(joblib.hash(joblib.load(sys.argv[1])))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "pretrainer.joblib"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    }
    assert hashes == {joblib.hash(fitted)}


def test_in_a_grid_search_with_nested_parameters(X):
    y = np.arange(12) % 2
    model = make_pipeline(
        ContrastivePretrainer(SimCLR(), max_epochs=1, random_state=0),
        LogisticRegression(),
    )
    grid = {
        "contrastivepretrainer__method__temperature": [0.1, 1.0],
        "contrastivepretrainer__encoder": [RB3D(), RB3D(norm="group")],
    }
    searches = [
        GridSearchCV(model, grid, cv=2, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2)
    ]
    np.testing.assert_array_equal(
        searches[0].cv_results_["mean_test_score"],
        searches[1].cv_results_["mean_test_score"],
    )
    _assert_same_weights(searches[0].best_estimator_[0], searches[1].best_estimator_[0])


def test_set_output(X, fitted):
    frame = clone(fitted).set_output(transform="pandas").fit(X).transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert frame.shape == (12, 256)
    assert frame.columns[0] == "contrastivepretrainer0"


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"method": "dino"}, ValueError, "'method' parameter .*'moco'.* Got 'dino'"),
        ({"optimizer": "lars"}, ValueError, "'optimizer' parameter"),
        ({"schedule": "step"}, ValueError, "'schedule' parameter"),
        ({"method": SimCLR}, TypeError, r"method is the class SimCLR.*SimCLR\(\)"),
        ({"encoder": 3}, ValueError, "'encoder' parameter"),
        ({"augmentation": "flip"}, ValueError, "'augmentation' parameter"),
        ({"device": "gpu"}, ValueError, "device='gpu' is not a device"),
        ({"lr": 0.0}, ValueError, "'lr' parameter"),
        ({"precision": "fp8"}, ValueError, "'precision' parameter .*'bf16'"),
        ({"compile": True}, ValueError, "'compile' parameter .*'encoder'"),
        ({"checkpoint_dir": ""}, ValueError, "checkpoint_dir=''; expected the name"),
        ({"batch_size": 0}, ValueError, "'batch_size' parameter"),
        ({"method": MoCo(queue_size=0)}, ValueError, "queue_size"),
        ({"encoder": RB3D(norm="batch")}, ValueError, "norm='batch'"),
        ({"volume_shape": (4, 4, 4)}, ValueError, "volume_shape"),
    ],
)
def test_bad_parameters_are_named(X, parameters, error, message):
    with pytest.raises(error, match=message):
        ContrastivePretrainer(max_epochs=1, **parameters).fit(X)


def test_mask_hides_the_corners(X, fitted):
    other = X.copy()
    other[:, [0, -1]] += 5
    # What lies nearer than the radius at these two faces.
    other[:, [0, -1], 2:6, 2:6] = X[:, [0, -1], 2:6, 2:6]
    masked = ContrastivePretrainer(mask="sphere", max_epochs=1, random_state=0).fit(X)
    np.testing.assert_allclose(masked.transform(other), masked.transform(X), atol=1e-4)
    assert np.abs(fitted.transform(other) - fitted.transform(X)).max() > 0.1


def test_classifier_masks_as_its_pretrainer_does(X):
    y = [0, 1] * 6
    pretrainer = ContrastivePretrainer(mask="sphere", max_epochs=1, random_state=0)
    assert RB3DClassifier(pretrainer, max_epochs=1).fit(X, y).normalizer_.mask
    assert RB3DClassifier(mask="sphere", max_epochs=1).fit(X, y).normalizer_.mask
    assert not RB3DClassifier(max_epochs=1).fit(X, y).normalizer_.mask


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["simclr", "moco", "swav", "byol", "vicreg"])
@pytest.mark.parametrize("random_state", [0, None])
def test_goes_on_from_a_checkpoint(X, tmp_path, method, random_state):
    parameters = {
        "schedule": "constant",
        "batch_size": 5,
        "random_state": random_state,
    }
    short = ContrastivePretrainer(
        method, max_epochs=2, checkpoint_dir=tmp_path, **parameters
    ).fit(X)
    longer = ContrastivePretrainer(
        method, max_epochs=4, checkpoint_dir=tmp_path, **parameters
    ).fit(X)
    assert [epoch["resumed"] for epoch in longer.history_] == [True, True, False, False]
    assert longer.history_[:2] == [
        {**epoch, "resumed": True} for epoch in short.history_
    ]
    if random_state is not None:
        at_once = ContrastivePretrainer(method, max_epochs=4, **parameters).fit(X)
        _assert_same_weights(longer, at_once)
    again = ContrastivePretrainer(
        method, max_epochs=4, checkpoint_dir=tmp_path, **parameters
    ).fit(X)
    assert all(epoch["resumed"] for epoch in again.history_)
    _assert_same_weights(longer, again)


def test_fewer_epochs_than_the_checkpoint_has(X, tmp_path):
    pretrainer = ContrastivePretrainer(
        max_epochs=3,
        schedule="constant",
        checkpoint_dir=str(tmp_path),
        random_state=0,
    ).fit(X)
    with pytest.raises(ValueError, match=r"max_epochs=2, but .* has 3 epochs"):
        pretrainer.set_params(max_epochs=2).fit(X)


def test_a_stopped_training_goes_on_only_for_more_epochs(X, tmp_path):
    def fit(max_epochs=9, callbacks=None):
        stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
        return ContrastivePretrainer(
            max_epochs=max_epochs,
            schedule="constant",
            callbacks=[stop] if callbacks is None else callbacks,
            checkpoint_dir=tmp_path,
            random_state=0,
        ).fit(X)

    first = fit()
    assert first.n_iter_ < 9
    again = fit()
    assert again.n_iter_ == first.n_iter_
    _assert_same_weights(first, again)
    assert fit(max_epochs=10, callbacks=[]).n_iter_ == 10


def test_what_a_callback_froze_stays_frozen(X, tmp_path):
    def fit(max_epochs, **parameters):
        freeze = ParamMapper("*weight", at=2, fn=lambda p: p.requires_grad_(False))
        return ContrastivePretrainer(
            max_epochs=max_epochs,
            schedule="constant",
            callbacks=[freeze],
            random_state=0,
            **parameters,
        ).fit(X)

    for max_epochs in (2, 4):
        resumed = fit(max_epochs, checkpoint_dir=tmp_path)
    _assert_same_weights(resumed, fit(4))


def test_checkpoints_of_a_random_state_instance(X, tmp_path):
    def fit(seed):
        return ContrastivePretrainer(
            max_epochs=1,
            checkpoint_dir=tmp_path,
            random_state=np.random.RandomState(seed),
        ).fit(X)

    fit(0)
    assert fit(0).history_[0]["resumed"]
    with pytest.raises(ValueError, match="parameters.random_state: found .*draws"):
        fit(1)


def test_views_that_cannot_be_saved(X, tmp_path):
    class Nothing:
        def build(self, seed):
            return lambda volumes: volumes

    pretrainer = ContrastivePretrainer(
        augmentation=Nothing(), max_epochs=1, checkpoint_dir=tmp_path
    )
    with pytest.raises(TypeError, match="Nothing's sampler cannot be saved"):
        pretrainer.fit(X)
    pretrainer.set_params(checkpoint_dir=None).fit(X)


def test_transform_into_an_array(X, fitted, tmp_path):
    out = np.lib.format.open_memmap(
        tmp_path / "embedding.npy", "w+", np.float32, (len(X), 256)
    )
    assert fitted.transform(X, out=out) is out
    np.testing.assert_array_equal(
        np.load(tmp_path / "embedding.npy"), fitted.transform(X)
    )
    with pytest.raises(ValueError, match="out has shape .* expected 12 rows"):
        fitted.transform(X, out=out[:5])
    for wrong in ("e.npy", [[0.0]], torch.zeros(len(X), 256)):
        with pytest.raises(TypeError, match="out is a .*; expected an array of 12"):
            fitted.transform(X, out=wrong)


def test_transform_into_what_can_only_be_read(X, fitted, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["e"] = np.zeros((len(X), 256), np.float32)
    with (
        h5py.File(tmp_path / "e.h5", "r") as file,
        pytest.raises(ValueError, match="out can only be read"),
    ):
        fitted.transform(X, out=file["e"])


def test_out_and_data_frames(X, fitted):
    pretrainer = pickle.loads(pickle.dumps(fitted)).set_output(transform="pandas")
    out = np.empty((len(X), 256), np.float32)
    with pytest.raises(ValueError, match="out was given, but set_output .* pandas"):
        pretrainer.transform(X, out=out)


def test_graphs_need_a_cuda_device(X):
    pretrainer = ContrastivePretrainer(compile="step", max_epochs=1, device="cpu")
    with pytest.raises(ValueError, match=r"compile='step' .* one process on a CUDA"):
        pretrainer.fit(X)


class InterruptOnce(Callback):
    """Stop the process's first training after an epoch, as Ctrl-C does."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch + 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "warmup_cosine"])
def test_goes_on_along_a_schedule(X, tmp_path, optimizer, schedule):
    def fit(max_epochs=11, **parameters):
        return ContrastivePretrainer(
            SimCLR(),
            optimizer=optimizer,
            schedule=schedule,
            lr=1e-3,
            max_epochs=max_epochs,
            batch_size=2,
            random_state=0,
            **parameters,
        ).fit(X[:4, :4, :4, :4])

    for epoch in (1, 6):
        with pytest.raises(KeyboardInterrupt):
            fit(checkpoint_dir=tmp_path, callbacks=[InterruptOnce(epoch)])
    resumed = fit(checkpoint_dir=tmp_path)
    assert [epoch["resumed"] for epoch in resumed.history_] == [True] * 6 + [False] * 5
    at_once = fit()
    _assert_same_weights(resumed, at_once)
    rates = [epoch["event_lr"] for epoch in at_once.history_]
    assert rates == [epoch["event_lr"] for epoch in resumed.history_]
    assert max(rates) == 1e-3
    assert rates[0] == (5e-4 if schedule == "warmup_cosine" else 1e-3)
    assert 0 < rates[-1] < 1e-4
    # The rates of the epochs that are done would be others.
    with pytest.raises(ValueError, match="max_epochs: found 11, expected 12"):
        fit(max_epochs=12, checkpoint_dir=tmp_path)


def test_optimiser_and_schedule_are_part_of_the_identity(X, tmp_path):
    def fit(**parameters):
        return ContrastivePretrainer(
            max_epochs=1, random_state=0, checkpoint_dir=tmp_path, **parameters
        ).fit(X)

    fit()
    with pytest.raises(ValueError, match="optimizer: found 'adam', expected 'sgd'"):
        fit(optimizer="sgd")
    with pytest.raises(ValueError, match="schedule: found 'warmup_c.*expected 'cosine"):
        fit(schedule="cosine")
