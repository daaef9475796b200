import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import EpochScoring

from sksubtomo import ContrastivePretrainer, RB3DClassifier, SubtomogramClassifier
from sksubtomo._saving import _digest, check_model_folder, check_saveable
from sksubtomo.augmentation import RotateShiftNoise
from sksubtomo.contrastive import MoCo, SimCLR
from sksubtomo.networks import RB3D

X = np.random.default_rng(0).normal(size=(8, 8, 8, 8)).astype(np.float32)
Y = np.array(["001", "nan"] * 4)


class MyEncoder(RB3D):
    pass


class MyClassifier(RB3DClassifier):
    pass


@pytest.fixture(scope="module")
def pretrainer():
    return ContrastivePretrainer(
        SimCLR(temperature=0.3),
        encoder=RB3D(norm="group"),
        augmentation=RotateShiftNoise(max_translation=0.05),
        max_epochs=1,
        random_state=0,
    ).fit(X)


@pytest.fixture(scope="module")
def classifier(pretrainer):
    return RB3DClassifier(
        FrozenEstimator(pretrainer), max_epochs=2, random_state=0, verbose=0
    ).fit(X, Y)


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    """A saved classifier that no test changes."""
    folder = tmp_path_factory.mktemp("models") / "classifier"
    classifier.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def parameters_of(estimator):
    """Parameters with objects spelled out, but without what FrozenEstimator holds."""
    return {
        name: repr(value) if hasattr(value, "get_params") else value
        for name, value in estimator.get_params().items()
    }


def weights_in(folder):
    (path,) = folder.glob("*.safetensors")
    return path


def rewrite(folder, change):
    """Change model.json and make it look untouched."""
    path = folder / "model.json"
    model = json.loads(path.read_text("utf-8"))
    del model["sha256"]
    change(model)
    model["sha256"] = _digest(model)
    path.write_text(json.dumps(model), "utf-8")


def test_pretrainer_survives(pretrainer, tmp_path):
    pretrainer.save(tmp_path / "new" / "folder")
    loaded = ContrastivePretrainer.load(tmp_path / "new" / "folder")
    assert parameters_of(loaded) == parameters_of(pretrainer)
    np.testing.assert_array_equal(loaded.transform(X), pretrainer.transform(X))
    assert loaded.history_ == pretrainer.history_
    assert loaded.n_iter_ == 1
    assert loaded.volume_shape_ == (8, 8, 8)
    assert type(loaded.embedding_scale_) is np.float32
    assert loaded.normalizer_ == pretrainer.normalizer_


def test_loaded_pretrainer_fine_tunes_like_the_saved_one(
    pretrainer, classifier, tmp_path
):
    pretrainer.save(tmp_path)
    loaded = ContrastivePretrainer.load(tmp_path)
    again = clone(classifier).set_params(pretrainer=FrozenEstimator(loaded)).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


def test_classifier_survives(classifier, saved):
    loaded = RB3DClassifier.load(saved)
    assert parameters_of(loaded) == parameters_of(classifier)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert loaded.classes_.tolist() == ["001", "nan"]
    # The frozen pretrainer is stored once, and is the one it was.
    assert loaded.pretrainer.estimator is loaded.pretrainer_
    np.testing.assert_array_equal(
        loaded.pretrainer_.transform(X), classifier.pretrainer_.transform(X)
    )
    refitted = clone(loaded).fit(X, Y)
    np.testing.assert_array_equal(
        refitted.predict_proba(X), classifier.predict_proba(X)
    )


def test_classifier_with_its_own_pretraining_survives(tmp_path):
    pretrainer = ContrastivePretrainer(MoCo(queue_size=4), max_epochs=1)
    classifier = SubtomogramClassifier(pretrainer, max_epochs=1, random_state=0)
    classifier.fit(X, Y).save(tmp_path)
    loaded = SubtomogramClassifier.load(tmp_path)
    assert parameters_of(loaded) == parameters_of(classifier)
    assert not hasattr(loaded.pretrainer, "encoder_")
    np.testing.assert_array_equal(
        loaded.pretrainer_.transform(X), classifier.pretrainer_.transform(X)
    )
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["α-β", "名前"] * 4),
        np.array(["α", 'quo"te\n'] * 4, object),
        np.array([-1, 7] * 4),
        np.array([1, 2] * 4, np.uint8),
        np.array([1.0, 2.0] * 4),
        np.array([1.0, 2.0] * 4, np.float32),
        np.array([False, True] * 4),
    ],
    ids=lambda labels: labels.dtype.str,
)
def test_classes_keep_their_type(tmp_path, labels):
    classifier = RB3DClassifier(max_epochs=1, random_state=0).fit(X, labels)
    classifier.save(tmp_path)
    loaded = RB3DClassifier.load(tmp_path)
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert loaded.classes_.tolist() == classifier.classes_.tolist()
    assert loaded.predict(X).tolist() == classifier.predict(X).tolist()


def test_parameters_of_any_kind(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.reshape(8, -1)).rename(columns="v{}".format)
    classifier = RB3DClassifier(
        class_weight={0: 1.5, 1: np.float32(0.1)},
        volume_shape=np.array([8, 8, 8]),
        max_epochs=1,
        batch_size=np.int64(4),
        lr=np.float64(1e-3),
        unlabeled=-1,
        device=torch.device("cpu"),
        memory=str(tmp_path / "cache"),
        callbacks=[],
        random_state=np.random.RandomState(0),
    ).fit(frame, [0, 1, -1, 0, 1, 0, 1, 0])
    classifier.save(tmp_path / "model")
    loaded = RB3DClassifier.load(tmp_path / "model")
    assert loaded.class_weight == classifier.class_weight
    assert loaded.volume_shape.tolist() == [8, 8, 8]
    assert (loaded.batch_size, loaded.lr, loaded.unlabeled) == (4, 1e-3, -1)
    assert loaded.device == "cpu"
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    np.testing.assert_array_equal(
        loaded.predict_proba(frame), classifier.predict_proba(frame)
    )
    model = json.loads((tmp_path / "model" / "model.json").read_text("utf-8"))
    assert model["not_stored"] == ["callbacks", "memory", "random_state"]
    assert loaded.callbacks is loaded.memory is loaded.random_state is None


def test_output_configuration_survives(tmp_path):
    pytest.importorskip("pandas")
    pretrainer = ContrastivePretrainer(max_epochs=1, random_state=0)
    pretrainer.set_output(transform="pandas").fit(X).save(tmp_path)
    frame = ContrastivePretrainer.load(tmp_path).transform(X)
    assert frame.equals(pretrainer.transform(X))


def test_what_callbacks_recorded_survives(tmp_path):
    def score(net, dataset, y=None):
        return np.inf

    callback = EpochScoring(score, name="endless", on_train=True)
    pretrainer = ContrastivePretrainer(max_epochs=1, callbacks=[callback]).fit(X)
    pretrainer.save(tmp_path)
    (epoch,) = ContrastivePretrainer.load(tmp_path).history_
    assert epoch == pretrainer.history_[0]
    assert epoch["endless"] == np.inf


def test_json_is_readable(saved):
    text = (saved / "model.json").read_text("utf-8")
    model = json.loads(text)
    assert model["class"] == "RB3DClassifier"
    assert model["format_version"] == 1
    assert model["fitted"]["classes_"]["values"] == ["001", "nan"]
    frozen = model["parameters"]["pretrainer"]["estimator"]["parameters"]
    assert frozen["method"]["name"] == "simclr"
    assert frozen["encoder"] == {
        "is": "encoder",
        "name": "rb3d",
        "parameters": {"norm": "group", "variant": "gupta2022"},
    }
    assert model["weights"]["sha256"].startswith(weights_in(saved).stem[-16:])
    assert model["provenance"].keys() >= {"date", "torch", "numpy", "python"}
    # JSON of any parser, without NaN.
    assert "NaN" not in text


def test_reformatted_json_is_the_same_model(folder, classifier):
    path = folder / "model.json"
    model = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(dict(reversed(model.items()))), "utf-8")
    loaded = RB3DClassifier.load(folder)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


def test_neither_loading_nor_unpickling_moves_the_global_generator(saved, classifier):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    RB3DClassifier.load(saved)
    clone_of_state = RB3DClassifier.__new__(RB3DClassifier)
    clone_of_state.__setstate__(classifier.__getstate__())
    assert torch.rand(1) == expected


def test_a_later_save_replaces_the_model(folder, pretrainer):
    old = weights_in(folder)
    pretrainer.save(folder)
    assert not old.exists()
    assert len(list(folder.iterdir())) == 2
    loaded = ContrastivePretrainer.load(folder)
    np.testing.assert_array_equal(loaded.transform(X), pretrainer.transform(X))


def test_of_several_processes_the_first_one_writes(pretrainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for rank, written in ((1, False), (0, True)):
        monkeypatch.setenv("RANK", str(rank))
        check_saveable(pretrainer, tmp_path / "model")
        pretrainer.save(tmp_path / "model")
        assert (tmp_path / "model").exists() == written


@pytest.mark.parametrize("calls_before_the_crash", [0, 1])
def test_a_crash_while_saving_leaves_the_old_model(
    folder, classifier, pretrainer, monkeypatch, calls_before_the_crash
):
    calls = []

    def replace(*arguments):
        if len(calls) == calls_before_the_crash:
            raise OSError("no space left")
        calls.append(arguments)
        return os_replace(*arguments)

    os_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no space left"):
        pretrainer.save(folder)
    monkeypatch.undo()
    loaded = RB3DClassifier.load(folder)
    np.testing.assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    # The next save tidies up.
    pretrainer.save(folder)
    assert len(list(folder.iterdir())) == 2


def test_a_first_save_that_crashed_can_be_repeated(folder, pretrainer):
    (folder / "model.json").unlink()
    pretrainer.save(folder)
    ContrastivePretrainer.load(folder)
    assert len(list(folder.iterdir())) == 2


def test_nothing_else_is_overwritten(tmp_path, pretrainer):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="folder of something else"):
        pretrainer.save(tmp_path)
    # Other programs call their files model.json too.
    (tmp_path / "model.json").write_text('{"format": "layers"}')
    with pytest.raises(ValueError, match="folder of something else"):
        pretrainer.save(tmp_path)
    with pytest.raises(ValueError, match=r"thesis\.tex: is a file"):
        check_model_folder(tmp_path / "thesis.tex")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.json",
        "thesis.tex",
    ]


def test_what_cannot_be_saved_is_said(tmp_path):
    with pytest.raises(NotFittedError):
        RB3DClassifier().save(tmp_path / "a")
    classifier = RB3DClassifier(encoder=MyEncoder(), max_epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match=r"encoder is MyEncoder.*joblib\.dump"):
        classifier.save(tmp_path / "a")
    mine = MyClassifier(max_epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match=r"MyClassifier.*joblib\.dump"):
        mine.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cls", [ContrastivePretrainer, SubtomogramClassifier])
def test_a_model_of_another_class_is_named(saved, cls):
    with pytest.raises(ValueError, match=r"holds a RB3DClassifier; .*RB3DClassifier\."):
        cls.load(saved)


def test_a_folder_without_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: holds no saved model"):
        RB3DClassifier.load(tmp_path / "nowhere")
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model\.json: is no saved model"):
        RB3DClassifier.load(tmp_path)


def test_a_newer_format_is_refused_and_a_newer_package_is_not(folder):
    rewrite(folder, lambda model: model["provenance"].update(sksubtomo="99.0"))
    RB3DClassifier.load(folder)
    rewrite(folder, lambda model: model.update(format_version=2))
    with pytest.raises(ValueError, match=r"format 2, written by sksubtomo 99\.0"):
        RB3DClassifier.load(folder)


def test_models_from_before_a_field_of_the_normalizer(tmp_path, pretrainer):
    pretrainer.save(tmp_path)
    rewrite(tmp_path, lambda model: model["fitted"]["normalizer_"].pop("mask"))
    loaded = ContrastivePretrainer.load(tmp_path)
    assert loaded.normalizer_ == pretrainer.normalizer_
    np.testing.assert_array_equal(loaded.transform(X), pretrainer.transform(X))


def set_shape(model):
    model["fitted"]["volume_shape_"]["values"] = [8, 8, 9]


CHANGES = {
    "volume_shape_=": set_shape,
    "no parameter": lambda model: model["parameters"].update(colour="red"),
    "max_epochs": lambda model: model["parameters"].update(max_epochs="many"),
    "KeyError: 'parameters'": lambda model: model.pop("parameters"),
    "KeyError: 'weights'": lambda model: model.pop("weights"),
    "names the weights": lambda model: model["weights"].update(file="../w.safetensors"),
    "'predict' is no fitted": lambda model: model["fitted"].update(predict=1),
    "classes_": lambda model: model["fitted"].pop("classes_"),
    "'head.bias'": lambda model: model["fitted"]["classes_"].update(
        values=["001", "nan", "x"], dtype="<U3"
    ),
    "not of dtype": lambda model: model["fitted"]["classes_"].update(dtype="<U2"),
    "has dtype datetime64": lambda model: model["fitted"]["classes_"].update(
        dtype="<M8[s]"
    ),
    "has dtype <U": lambda model: model["fitted"]["classes_"].update(dtype="<U9999999"),
    "KeyError: 'system'": lambda model: model["fitted"].update(
        history_={"is": "system", "command": "true"}
    ),
    "KeyError: 'Popen'": lambda model: model["parameters"].update(
        pretrainer={"is": "estimator", "class": "Popen", "parameters": {}}
    ),
    "memory is '/tmp/cache'; expected None": lambda model: model["parameters"].update(
        memory="/tmp/cache"
    ),
    "pretrainer.callbacks is [1]": lambda model: model["parameters"]["pretrainer"][
        "estimator"
    ]["parameters"].update(callbacks=[1]),
    "'memory' is no fitted": lambda model: (
        model["parameters"].pop("memory") or model["fitted"].update(memory="cache")
    ),
    "format_version True": lambda model: model.update(format_version=True),
    "format_version 0": lambda model: model.update(format_version=0),
    "format_version 1.0": lambda model: model.update(format_version=1.0),
    "scale=0": lambda model: model["fitted"]["normalizer_"].update(scale=0),
    "mean=nan": lambda model: model["fitted"]["normalizer_"].update(mean=float("nan")),
    "mean='0'": lambda model: model["fitted"]["normalizer_"].update(mean="0"),
    "mask=1": lambda model: model["fitted"]["normalizer_"].update(mask=1),
    "has no ['colour']": lambda model: model["fitted"]["normalizer_"].update(colour=1),
    "classes_ are not sorted": lambda model: model["fitted"]["classes_"].update(
        values=["nan", "nan"]
    ),
    "voxel_size_ is '10'": lambda model: model["fitted"].update(voxel_size_="10"),
    "which it does not name": lambda model: (
        model["fitted"].update(pretrainer_=None)
        or model["parameters"].update(pretrainer=None)
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_forged_json_is_an_error_that_names_the_file(folder, message):
    rewrite(folder, CHANGES[message])
    with pytest.raises(ValueError, match=r"model\.json: cannot be loaded") as caught:
        RB3DClassifier.load(folder)
    assert message in str(caught.value)


def test_damaged_weights_are_refused(folder):
    path = weights_in(folder)
    content = path.read_bytes()
    for changed in (b"", content[:-1], content[:100], content + b"x"):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"safetensors: is damaged: its sha256"):
            RB3DClassifier.load(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model.json beside it names it"):
        RB3DClassifier.load(folder)


def drop_tensor(tensors):
    del tensors["network_.head.bias"]


def turn_tensor(tensors):
    tensors["network_.head.weight"] = tensors["network_.head.weight"].T.copy()


def double_tensor(tensors):
    tensors["network_.head.bias"] = tensors["network_.head.bias"].astype(np.float64)


def add_tensor(tensors):
    tensors["network_.tail"] = np.zeros(3, np.float32)


def drop_mean(tensors):
    del tensors["pretrainer.embedding_mean_"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_tensor, "nothing for the tensor 'head.bias'"),
        (turn_tensor, "float32 of shape (256, 2) for the tensor 'head.weight'"),
        (double_tensor, "float64 of shape (2,) for the tensor 'head.bias'"),
        (add_tensor, "'tail'; the network expects no such tensor"),
        (drop_mean, "KeyError: 'pretrainer.embedding_mean_'"),
        (None, "is no safetensors file"),
    ],
)
def test_forged_weights_are_an_error(folder, change, message):
    path = weights_in(folder)
    content = b"GIF89a"
    if change is not None:
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        content = safetensors.numpy.save(tensors)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda model: model["weights"].update(sha256=digest))
    with pytest.raises(ValueError, match="^" + re.escape(str(folder))) as caught:
        RB3DClassifier.load(folder)
    assert message in str(caught.value)


def test_mutated_files_never_load_as_another_model(folder, classifier):
    expected = classifier.predict_proba(X[:1])
    generator = np.random.default_rng(0)
    for path in (folder / "model.json", weights_in(folder)):
        content = path.read_bytes()
        refused = 0
        for _ in range(150):
            changed = bytearray(content)
            place = generator.integers(len(changed))
            match generator.integers(3):
                case 0:
                    changed[place] ^= 1 << generator.integers(8)
                case 1:
                    del changed[place:]
                case 2:
                    changed[place:place] = generator.bytes(3)
            path.write_bytes(changed)
            try:
                loaded = RB3DClassifier.load(folder)
            except ValueError:
                refused += 1
            else:  # white space
                np.testing.assert_array_equal(loaded.predict_proba(X[:1]), expected)
        path.write_bytes(content)
        assert refused > 100


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"[" * 100_000, b"", b"9" * 9999])
def test_wild_json_is_an_error(folder, text):
    (folder / "model.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"model\.json: is"):
        RB3DClassifier.load(folder)
    with pytest.raises(ValueError, match="folder of something else"):
        check_model_folder(folder)
