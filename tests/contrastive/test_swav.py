import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sksubtomo.contrastive import SwAV, sinkhorn, swapped_prediction_loss


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def build(**parameters):
    parameters = {"n_prototypes": 4, "queue_size": 0} | parameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
        encoder.n_features = 5
        method = SwAV(projection_dim=3, hidden_dim=7, **parameters)
        return method.build(encoder).double()


def views(n=5, seed=0):
    return randn(n, 1, 3, 3, 3, seed=seed), randn(n, 1, 3, 3, 3, seed=seed + 50)


@pytest.mark.parametrize("n_iterations", [1, 3])
def test_sinkhorn_equals_the_plain_iterations(n_iterations):
    scores = randn(6, 4)
    codes = [[math.exp(s / 0.5) for s in row] for row in scores.tolist()]
    for _ in range(n_iterations):
        for k in range(4):
            total = sum(row[k] for row in codes)
            for row in codes:
                row[k] /= 4 * total
        for row in codes:
            total = sum(row)
            row[:] = [q / (6 * total) for q in row]
    expected = 6 * torch.tensor(codes, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores, 0.5, n_iterations), expected)


def test_sinkhorn_sums():
    scores = randn(12, 5).clamp(-1, 1)
    codes = sinkhorn(scores, 0.3, 200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12).double())
    torch.testing.assert_close(codes.sum(dim=0), torch.full((5,), 12 / 5).double())
    # Rows are exact after every iteration, columns only approach their sum.
    few = sinkhorn(scores, 0.3, 1)
    torch.testing.assert_close(few.sum(dim=1), torch.ones(12).double())
    assert (few.sum(dim=0) - 12 / 5).abs().max() > 1e-3


def test_sinkhorn_of_equal_scores_is_uniform():
    codes = sinkhorn(torch.full((3, 4), 0.7).double(), 0.03, 3)
    torch.testing.assert_close(codes, torch.full((3, 4), 0.25).double())


def test_sinkhorn_of_two_rows_and_two_prototypes():
    scores = torch.tensor([[1.0, 0.9], [0.9, 0.2]]).double()
    codes = sinkhorn(scores, 0.2, 100)
    # Both rows prefer column 0; the balanced solution moves the first one, as that
    # costs less.
    own = 1 / (1 + math.exp((0.9 + 0.9 - 1.0 - 0.2) / (2 * 0.2)))
    expected = torch.tensor([[own, 1 - own], [1 - own, own]]).double()
    assert own < 0.2
    torch.testing.assert_close(codes, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sinkhorn_survives_what_overflows_the_exponential(dtype):
    scores = randn(8, 5).clamp(-1, 1)
    codes = sinkhorn(scores.to(dtype), 0.001, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(8, dtype=dtype))


def test_sinkhorn_stops_the_gradient():
    assert not sinkhorn(randn(3, 4).requires_grad_(), 0.05, 3).requires_grad


def test_loss_equals_the_formula():
    scores_1, scores_2 = randn(3, 4), randn(3, 4, seed=1)
    codes_1, codes_2 = randn(3, 4, seed=2).softmax(1), randn(3, 4, seed=3).softmax(1)
    total = 0.0
    for scores, codes in ((scores_1, codes_2), (scores_2, codes_1)):
        for row, targets in zip(scores.tolist(), codes.tolist(), strict=True):
            exps = [math.exp(s / 0.1) for s in row]
            total -= sum(
                q * math.log(e / sum(exps)) for q, e in zip(targets, exps, strict=True)
            )
    loss = swapped_prediction_loss(scores_1, scores_2, codes_1, codes_2, 0.1)
    assert loss.item() == pytest.approx(total / 6, abs=1e-12)


def test_loss_of_uniform_predictions_is_the_logarithm_of_the_prototypes():
    scores, codes = torch.ones(3, 7).double(), randn(3, 7).softmax(1)
    loss = swapped_prediction_loss(scores, scores, codes, codes, 0.1)
    assert loss.item() == pytest.approx(math.log(7), abs=1e-12)


def test_gradient():
    scores = [randn(3, 4, seed=seed).requires_grad_() for seed in (0, 1)]
    codes = [randn(3, 4, seed=seed).softmax(1) for seed in (2, 3)]
    assert torch.autograd.gradcheck(
        lambda a, b: swapped_prediction_loss(a, b, *codes, 0.5), scores
    )


def test_forward_equals_its_parts():
    module = build(temperature=0.2, epsilon=0.1, n_iterations=2)
    prototypes = F.normalize(module.prototypes.detach(), dim=1)
    view_1, view_2 = views()
    with torch.no_grad():
        z = [
            F.normalize(module.head(module.encoder(v)), dim=1) for v in (view_1, view_2)
        ]
    scores = [rows @ prototypes.T for rows in z]
    codes = [sinkhorn(s, 0.1, 2) for s in scores]

    loss = module(view_1, view_2)

    expected = swapped_prediction_loss(*scores, *codes, 0.2)
    torch.testing.assert_close(loss.detach(), expected)


def test_prototypes_are_unit_vectors_in_forward():
    module = build(frozen_epochs=0)
    with torch.no_grad():
        module.prototypes.mul_(3)
    loss = module(*views())
    norms = module.prototypes.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4).double(), rtol=0, atol=1e-15)
    loss.backward()
    assert module.prototypes.grad.abs().max() > 0


def test_frozen_prototypes_do_not_move_under_weight_decay():
    module = build(frozen_epochs=2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.1)
    start = F.normalize(module.prototypes.detach(), dim=1)
    weights = module.encoder[1].weight.detach().clone()

    def step(epoch):
        module.start_epoch(epoch)
        optimizer.zero_grad()
        module(*views(seed=epoch)).backward()
        optimizer.step()

    for epoch in (0, 1):
        step(epoch)
        assert module.prototypes.grad is None
        moved = module.prototypes.detach() - start
        assert moved.abs().max() < 1e-15
    assert (module.encoder[1].weight - weights).abs().max() > 1e-3

    step(2)
    assert (module.prototypes.detach() - start).abs().max() > 1e-3


def test_prototypes_are_frozen_before_the_first_epoch_is_announced():
    module = build(frozen_epochs=1)
    module(*views()).backward()
    assert module.prototypes.grad is None


def test_targets_get_no_gradient():
    module = build(frozen_epochs=0)
    view_1, view_2 = views()
    module(view_1, view_2)  # normalises the prototypes
    z = [F.normalize(module.head(module.encoder(v)), dim=1) for v in (view_1, view_2)]
    scores = [rows @ module.prototypes.T for rows in z]
    codes = [sinkhorn(s, 0.03, 3).clone().detach() for s in scores]
    constant_targets = swapped_prediction_loss(*scores, *codes, 0.1)
    parameters = [*module.head.parameters(), module.prototypes]
    expected = torch.autograd.grad(constant_targets, parameters)

    module(view_1, view_2).backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_diagnose_recognises_chance():
    module = build(n_prototypes=64)
    chance = math.log(64)
    for loss in (chance, 1.009 * chance, 0.991 * chance):
        assert "n_prototypes" in module.diagnose(loss)
    for loss in (0.98 * chance, 1.02 * chance, 0.0, math.nan):
        assert module.diagnose(loss) is None


def test_codes_are_balanced_over_the_queue_and_the_view():
    module = build(queue_size=9, temperature=0.2, epsilon=0.1, n_iterations=2)
    prototypes = F.normalize(module.prototypes.detach(), dim=1)
    queue = module.queue.rows.clone()
    pair = views()
    with torch.no_grad():
        z = [F.normalize(module.head(module.encoder(v)), dim=1) for v in pair]
    scores = [rows @ prototypes.T for rows in z]
    codes = [sinkhorn(torch.cat([queue, r]) @ prototypes.T, 0.1, 2)[9:] for r in z]

    loss = module(*pair)

    expected = swapped_prediction_loss(*scores, *codes, 0.2)
    torch.testing.assert_close(loss.detach(), expected)
    # Both views, of five volumes each, and the oldest of these ten has left again.
    torch.testing.assert_close(module.queue.rows.roll(-1, 0), torch.cat(z)[1:])


@pytest.mark.parametrize("how", ["evaluation", "no gradients"])
def test_queue_changes_in_training_only(how):
    module = build(queue_size=9)
    module.train(how != "evaluation")
    queue = module.queue.rows.clone()
    with torch.set_grad_enabled(how != "no gradients"):
        module(*views())
    assert torch.equal(module.queue.rows, queue)


def test_queue_changes_nothing_else_that_is_drawn():
    with_queue, without = build(queue_size=9).state_dict(), build().state_dict()
    assert {name for name in with_queue if name not in without} == {
        "queue.rows",
        "queue.position",
    }
    for name, tensor in without.items():
        torch.testing.assert_close(with_queue[name], tensor, rtol=0, atol=0)
