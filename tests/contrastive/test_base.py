from copy import deepcopy

import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from sksubtomo.contrastive import (
    BYOL,
    METHODS,
    ContrastiveModule,
    MoCo,
    SimCLR,
    SwAV,
    VICReg,
)
from sksubtomo.contrastive._base import (
    BatchStandardization,
    Queue,
    follow,
    projection_head,
    standardized_perceptron,
)


def toy_encoder():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.Tanh())
    encoder.n_features = 12
    return encoder


SMALL = {"projection_dim": 8, "hidden_dim": 16}
TOY_METHODS = {
    "simclr": SimCLR(**SMALL),
    "simclr, decoupled": SimCLR(decoupled=True, **SMALL),
    "moco": MoCo(queue_size=10, momentum=0.9, **SMALL),
    "swav": SwAV(n_prototypes=5, frozen_epochs=1, **SMALL),
    "byol": BYOL(momentum=0.9, **SMALL),
    "vicreg": VICReg(**SMALL),
}


def toy_method(name):
    return clone(TOY_METHODS[name])


def toy_views(n, seed):
    """Two noisy copies of n random volumes, float64."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    volumes = torch.randn(n, 1, 3, 3, 3, **options)
    return [volumes + 0.1 * torch.randn(n, 1, 3, 3, 3, **options) for _ in range(2)]


def train(module, optimizer, epochs):
    losses = []
    for epoch in epochs:
        module.start_epoch(epoch)
        loss = module(*toy_views(16, epoch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(params=TOY_METHODS)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_table_names_every_method():
    assert dict(METHODS) == {
        "simclr": SimCLR,
        "moco": MoCo,
        "swav": SwAV,
        "byol": BYOL,
        "vicreg": VICReg,
    }
    assert METHODS.keys() <= TOY_METHODS.keys()


def test_build_trains_the_encoder_it_was_given(name):
    encoder = toy_encoder()
    module = toy_method(name).build(encoder)
    assert isinstance(module, ContrastiveModule)
    assert module.encoder is encoder

    module.double()
    module(*toy_views(4, 0)).backward()
    for parameter in encoder.parameters():
        assert parameter.grad.abs().max() > 0


def test_build_is_decided_by_the_global_generator(name):
    encoder = toy_encoder()
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(toy_method(name).build(encoder).state_dict())
    first, same, other = states
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_loss_falls_on_a_toy_problem(name):
    module = toy_method(name).build(toy_encoder()).double()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = train(module, optimizer, range(150))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert module.diagnose(losses[-1]) is None


@pytest.mark.parametrize("n", [1, 2, 30])
def test_any_batch_size_gives_a_finite_loss_and_gradient(name, n):
    module = toy_method(name).build(toy_encoder()).double()
    loss = module(*toy_views(n, 0))
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    loss.backward()
    for parameter in module.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert loss.isfinite()


def test_state_dict_continues_identically(name):
    def start():
        module = toy_method(name).build(toy_encoder()).double()
        return module, torch.optim.Adam(module.parameters(), lr=1e-2)

    module, optimizer = start()
    train(module, optimizer, range(3))
    saved = [part.state_dict() for part in (module, optimizer)]
    saved = [torch.utils._pytree.tree_map(_copy, state) for state in saved]
    expected = train(module, optimizer, range(3, 7))

    torch.manual_seed(99)
    module, optimizer = start()
    for part, state in zip((module, optimizer), saved, strict=True):
        part.load_state_dict(state)
    assert train(module, optimizer, range(3, 7)) == expected


def _copy(leaf):
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def test_evaluation_changes_no_state(name):
    module = toy_method(name).build(toy_encoder()).double()
    module(*toy_views(4, 0))  # normalises prototypes in double precision
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.eval()
    module(*toy_views(4, 1))
    module.train()
    with torch.no_grad():
        module(*toy_views(4, 2))
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-15)


def test_loss_and_state_are_those_of_the_gathered_features(name):
    alone = toy_method(name).build(toy_encoder()).double()
    module = deepcopy(alone)
    views = toy_views(6, 0)
    expected = alone(*views)

    # The last two rows are here; another process sends the first four.
    sent = [
        encoder(view[:4]).detach()
        for encoder, view in zip(*encodings(name, module, views), strict=True)
    ]
    module.gather = lambda features: torch.cat([sent.pop(0), features])
    torch.testing.assert_close(module(*(view[4:] for view in views)), expected)
    torch.testing.assert_close(module.state_dict(), alone.state_dict())
    assert not sent


def encodings(name, module, views):
    """Return the encoder and the view of each call of `encode`, in their order."""
    first, last = module.encoders()[0], module.encoders()[-1]
    if name == "byol":
        return [first, first, last, last], [*views, *views]
    return [first, last], views


def test_encoders_are_the_networks_that_see_volumes(name):
    module = toy_method(name).build(toy_encoder()).double()
    seen = []
    for encoder in module.encoders():
        encoder.register_forward_hook(lambda network, *_: seen.append(network))
    views = toy_views(4, 0)
    module(*views)
    assert module.encoders()[0] is module.encoder
    assert seen == encodings(name, module, views)[0]


def test_base_module_has_no_loss_and_no_opinion():
    module = ContrastiveModule(toy_encoder())
    assert module.start_epoch(0) is None
    assert module.diagnose(1.0) is None
    with pytest.raises(NotImplementedError):
        module(*toy_views(2, 0))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SimCLR(temperature=0), r"'temperature' .* SimCLR .* Got 0 instead"),
        (SimCLR(temperature=float("nan")), "'temperature' .* Got nan"),
        (SimCLR(projection_dim=0), "'projection_dim' .* Got 0"),
        (SimCLR(hidden_dim=1.5), "'hidden_dim' .* an int .* Got 1.5"),
        (SimCLR(decoupled="yes"), "'decoupled' .* Got 'yes'"),
        (MoCo(temperature=-1.0), "'temperature' .* MoCo .* Got -1.0"),
        (MoCo(queue_size=0), "'queue_size' .* Got 0"),
        (MoCo(queue_size=12.0), "'queue_size' .* Got 12.0"),
        (MoCo(momentum=1.01), r"'momentum' .* \[0.0, 1.0\]. Got 1.01"),
        (MoCo(projection_dim=-1), "'projection_dim' .* Got -1"),
        (MoCo(hidden_dim=0), "'hidden_dim' .* Got 0"),
        (SwAV(n_prototypes=1), "'n_prototypes' .* SwAV .* Got 1"),
        (SwAV(temperature="low"), "'temperature' .* Got 'low'"),
        (SwAV(epsilon=0.0), "'epsilon' .* Got 0.0"),
        (SwAV(n_iterations=0), "'n_iterations' .* Got 0"),
        (SwAV(frozen_epochs=-1), "'frozen_epochs' .* Got -1"),
        (SwAV(projection_dim=None), "'projection_dim' .* Got None"),
        (SwAV(hidden_dim=0), "'hidden_dim' .* Got 0"),
        (BYOL(momentum=-0.1), r"'momentum' .* BYOL .* \[0.0, 1.0\]. Got -0.1"),
        (BYOL(projection_dim=0), "'projection_dim' .* Got 0"),
        (BYOL(hidden_dim=2.0), "'hidden_dim' .* Got 2.0"),
        (VICReg(invariance_weight=-1.0), "'invariance_weight' .* VICReg .* Got -1.0"),
        (VICReg(variance_weight="high"), "'variance_weight' .* Got 'high'"),
        (VICReg(covariance_weight=-1), "'covariance_weight' .* Got -1"),
        (VICReg(projection_dim=0), "'projection_dim' .* Got 0"),
        (VICReg(hidden_dim=0), "'hidden_dim' .* Got 0"),
    ],
)
def test_build_names_the_wrong_parameter(method, message):
    with pytest.raises(ValueError, match=message):
        method.build(toy_encoder())


def test_projection_head_is_a_perceptron_on_standardised_features():
    head = projection_head(toy_encoder(), hidden_dim=7, out_dim=5).double()
    x = 100 + torch.randn(9, 12, dtype=torch.float64)
    _, first, _, second = head
    assert (first.out_features, second.out_features) == (7, 5)
    z = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    expected = (z @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T
    torch.testing.assert_close(head(x), expected + second.bias)


def test_perceptron_standardises_its_hidden_layer():
    first, _, _, second = head = standardized_perceptron(4, 7, 5).double()
    assert (first.out_features, second.out_features) == (7, 5)
    assert first.bias is None
    x = 100 + torch.randn(9, 4, dtype=torch.float64)
    hidden = x @ first.weight.T
    z = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = z.clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(head(x), expected)


def test_follow_moves_parameters_and_leaves_buffers():
    target, source = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in "ab")
    source[1].running_mean.fill_(7)
    before = deepcopy(target)
    follow(target, source, 0.75)
    for new, old, other in zip(
        target.parameters(), before.parameters(), source.parameters(), strict=True
    ):
        torch.testing.assert_close(new.detach(), (0.75 * old + 0.25 * other).detach())
        assert new.grad_fn is None
    assert not target[1].running_mean.any()


@pytest.mark.parametrize("size", [1, 3, 7, 8])
@pytest.mark.parametrize("batches", [[1] * 9, [2] * 9, [3, 1, 4, 1, 5], [8, 20, 3]])
def test_queue_keeps_the_newest_rows_in_place(size, batches):
    queue = Queue(size, 2)
    expected, seen = list(queue.rows.clone()), 0
    for n in batches:
        rows = torch.randn(n, 2)
        for row in rows:
            expected[seen % size] = row
            seen += 1
        queue.enqueue(rows)
        assert torch.equal(queue.rows, torch.stack(expected))
        assert queue.position == seen % size


def test_queue_starts_with_random_unit_vectors():
    queue = Queue(500, 3)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(500))
    assert queue.rows.mean(dim=0).norm() < 0.15
    torch.manual_seed(5)
    expected = F.normalize(torch.randn(4, 3), dim=1)
    torch.manual_seed(5)
    assert torch.equal(Queue(4, 3).rows, expected)


def test_queue_takes_rows_of_lower_precision():
    queue = Queue(2, 2)
    queue.enqueue(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16))
    assert queue.rows[0].tolist() == [1, 0]
    assert queue.rows.dtype == torch.float32


def test_batch_standardization():
    torch.manual_seed(0)
    layer = BatchStandardization(3).double()
    x = 5 + 2 * torch.randn(40, 3, dtype=torch.float64)
    y = layer(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(
        y.std(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert not list(layer.parameters())
    single = layer(x[:1])
    expected = (x[:1] - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
    torch.testing.assert_close(single, expected)
    torch.testing.assert_close(layer.eval()(x[:1]), expected)
