import numpy as np
import pytest
import torch

from sksubtomo._training.runtime import (
    draw_seed,
    inference_device,
    resolve_device,
    seeded_torch,
    spawn_seeds,
)

CPU = torch.device("cpu")


def test_devices(monkeypatch):
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert inference_device("cuda:3") == inference_device("mps") == CPU
    with pytest.raises(ValueError, match="device='mps' is not available"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert inference_device("cuda:2") == CPU
    with pytest.raises(ValueError, match="device='cuda:2' is not available"):
        resolve_device("cuda:2")


def test_processes_of_torchrun_have_devices_of_their_own(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == inference_device("cuda") == CPU
    assert resolve_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for device in ("auto", "cuda", torch.device("cuda")):
        assert resolve_device(device) == torch.device("cuda:3")
        assert inference_device(device) == torch.device("cuda:3")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    # Where each process is shown one device only.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda:0")


def test_unknown_device():
    with pytest.raises(ValueError, match="device='gpu' is not a device"):
        resolve_device("gpu")


def test_seeds():
    assert draw_seed(3) == draw_seed(3) != draw_seed(4)
    state = np.random.RandomState(0)
    assert draw_seed(state) != draw_seed(state)
    assert draw_seed(None) != draw_seed(None)
    assert spawn_seeds(5, 2) == spawn_seeds(5, 4)[:2]
    assert len(set(spawn_seeds(5, 4))) == 4


def test_torch_is_seeded_inside_and_restored_outside():
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded_torch(seed, CPU):
            draws.append(torch.randn(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(RuntimeError, match="fails"), seeded_torch(1, CPU):
        raise RuntimeError("fails")
    assert torch.equal(torch.get_rng_state(), before)
