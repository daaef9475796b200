import copy
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sksubtomo._training import precision as room
from sksubtomo._training.precision import computing, resolve_precision
from sksubtomo.networks import RB3D

CPU = torch.device("cpu")
CUDA = torch.device("cuda")

# Torch warns of itself when its compiler is imported.
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RB3D().build((8, 8, 8))


@pytest.fixture
def volumes():
    return torch.randn(3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def has_bf16(monkeypatch):
    monkeypatch.setattr(room, "_has_bf16", lambda device: True)


@pytest.fixture
def capability(monkeypatch):
    """Let the machine seem to have a GPU."""

    def set_capability(*version):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: version)

    set_capability(9, 0)
    return set_capability


def _convolutions_round():
    cudnn = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return cudnn.conv.fp32_precision == "tf32"
    return cudnn.allow_tf32


def _fail_unless(is_expected):
    assert is_expected
    raise ZeroDivisionError


def test_what_a_parameter_stands_for(capability, monkeypatch):
    names = ("auto", "float32", "tf32", "bf16")

    def resolved(device):
        return [resolve_precision(name, torch.device(device)) for name in names]

    assert resolved("cuda") == ["tf32", "float32", "tf32", "bf16"]
    capability(7, 5)
    assert resolved("cuda") == ["float32"] * 4
    assert resolved("mps") == ["float32", "float32", "float32", "bf16"]
    for test in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, test, lambda: False, raising=False)
    assert resolved("cpu") == ["float32"] * 4
    monkeypatch.setattr(torch.cpu, test, lambda: True, raising=False)
    assert resolved("cpu") == ["float32", "float32", "float32", "bf16"]
    with pytest.raises(ValueError, match="precision='fp16'; expected one of"):
        resolve_precision("fp16", CPU)


@pytest.mark.usefixtures("has_bf16")
def test_bf16_is_the_encoders_own(encoder, volumes):
    seen = []
    encoder.blocks.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    results = {}
    for precision in ("float32", "bf16"):
        encoder.zero_grad()
        with computing([encoder], precision=precision, device=CPU):
            features = encoder(volumes)
            features.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters()])
        results[precision] = features.detach(), gradient
        assert features.dtype == gradient.dtype == torch.float32
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert seen == [torch.float32, torch.bfloat16]
    for exact, rounded in zip(*results.values(), strict=True):
        error = (rounded - exact).norm() / exact.norm()
        assert 1e-4 < error < 0.03
    assert "forward" not in vars(encoder)
    torch.testing.assert_close(encoder(volumes), results["float32"][0])
    linear = nn.Linear(2, 2)
    with computing([linear], precision="bf16", device=CPU):
        assert linear(torch.zeros(1, 2)).dtype == torch.float32


@pytest.mark.usefixtures("has_bf16")
def test_copies_that_are_made_meanwhile_have_their_own_weights(encoder, volumes):
    names = list(encoder.state_dict())
    with computing([encoder], precision="bf16", device=CPU):
        assert list(encoder.state_dict()) == names
        expected = encoder(volumes)
        twins = [copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]
        for parameter in encoder.parameters():
            parameter.data.zero_()
        assert not encoder(volumes).any()
        for twin in twins:
            assert torch.equal(twin(volumes), expected)


@pytest.mark.usefixtures("has_bf16")
def test_an_encoder_is_as_it_was_after_an_error(encoder, volumes):
    def own(volumes):
        return volumes.flatten(1)

    encoder.forward = own
    with (
        pytest.raises(ZeroDivisionError),
        computing([encoder], precision="bf16", device=CPU),
    ):
        _fail_unless(encoder(volumes).shape == (3, 512))
    assert encoder.forward is own


@pytest.mark.usefixtures("has_bf16")
def test_one_encoder_in_threads_that_overlap(encoder, volumes):
    def own(volumes):
        return nn.functional.conv3d(volumes, torch.ones(1, 1, 8, 8, 8) / 3).flatten(1)

    for has_own in (False, True):
        if has_own:
            encoder.forward = own
        exact = encoder(volumes)
        first = computing([encoder], precision="bf16", device=CPU)
        second = computing([encoder], precision="bf16", device=CPU)
        first.__enter__()
        second.__enter__()
        rounded = encoder(volumes)
        first.__exit__(None, None, None)
        assert torch.equal(encoder(volumes), rounded)
        second.__exit__(None, None, None)
        assert torch.equal(encoder(volumes), exact)
        assert not torch.equal(rounded, exact)
        assert vars(encoder).get("forward") is (own if has_own else None)
    assert not room._autocast


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize(
    "outside",
    ["tf32", "ieee", "none"]
    if hasattr(torch.backends.cudnn, "conv")
    else [True, False],
)
def test_flags_are_restored(outside):
    before = getattr(*room._tf32_flag())
    setattr(*room._tf32_flag(), outside)
    try:
        with computing([], precision="float32", device=CUDA):
            assert not _convolutions_round()
            with (
                pytest.raises(ZeroDivisionError),
                computing([], precision="auto", device=CUDA),
            ):
                _fail_unless(_convolutions_round())
            assert not _convolutions_round()
            with computing([], precision="bf16", device=CUDA):
                assert not _convolutions_round()
            with computing([], precision="auto", device=CPU):
                assert not _convolutions_round()
        assert getattr(*room._tf32_flag()) == outside
    finally:
        setattr(*room._tf32_flag(), before)


@pytest.mark.usefixtures("capability")
def test_flags_are_restored_after_fits_that_overlap():
    before = _convolutions_round()
    first = computing([], precision="float32", device=CUDA)
    second = computing([], precision="tf32", device=CUDA)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert _convolutions_round()
    second.__exit__(None, None, None)
    assert _convolutions_round() is before


@pytest.mark.usefixtures("capability")
def test_flags_of_torch_before_2_9(monkeypatch):
    cudnn = SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    with computing([], precision="float32", device=CUDA):
        assert cudnn.allow_tf32 is False
    assert cudnn.allow_tf32 is True


@compiles
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_compiled_encoder():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    names = list(encoder.state_dict())
    volumes = torch.ones(3, 1, 2, 2, 2)
    expected = encoder(volumes)
    seen = []
    encoder.register_forward_hook(
        lambda *args: seen.append(torch.compiler.is_compiling())
    )
    with computing([encoder], precision="float32", device=CPU, compile="encoder"):
        torch.testing.assert_close(encoder(volumes), expected)
        assert list(encoder.state_dict()) == names
        assert pickle.loads(pickle.dumps(encoder[1]))
    encoder(volumes)
    assert seen == [True, False]


@compiles
def test_a_compiler_that_fails_is_named(encoder):
    class CompilerError(Exception):
        __module__ = "torch._inductor.exc"

    def fail(error, compile):
        with computing([encoder], precision="auto", device=CPU, compile=compile):
            raise error

    with pytest.raises(RuntimeError, match="compile='encoder' failed"):
        fail(CompilerError, "encoder")
    with pytest.raises(CompilerError):
        fail(CompilerError, None)
    with pytest.raises(KeyError):
        fail(KeyError, "encoder")
    assert encoder._compiled_call_impl is None


@compiles
def test_only_the_encoder_is_compiled(encoder):
    with computing([encoder], precision="auto", device=CPU, compile="step"):
        assert encoder._compiled_call_impl is None
    with computing([encoder], precision="auto", device=CPU, compile="encoder"):
        assert encoder._compiled_call_impl is not None
    assert encoder._compiled_call_impl is None
