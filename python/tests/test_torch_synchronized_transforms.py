"""SyncBatchNorm under PyTorch's transforms: it works, or all ranks raise the same error, and go on."""

from __future__ import annotations

import exactnorm.torch
import pytest
import torch
from ranks import results_of
from torch import nn
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

SyncBatchNorm = exactnorm.torch.SyncBatchNorm


def batch(seed):
    return torch.randn((4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def forward_with_tangent(layer, x):
    with forward_ad.dual_level():
        layer(forward_ad.make_dual(x, x))


def of_another_dtype(layer, x):
    layer.running_var = layer.running_var.double()
    try:
        layer(x)
    finally:
        layer.running_var = layer.running_var.float()


FORWARD = {
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).sum())(x),
    "vmap": lambda layer, x: torch.func.vmap(layer)(torch.stack([x, x])),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "forward mode": forward_with_tangent,
    "wrapper": lambda layer, x: layer(TwoTensor(x, x)),
    "dtype": of_another_dtype,
}
OF_FUNC = "input on rank 1: is within a transform of torch.func, which SyncBatchNorm cannot follow in training"
FORWARD_ERRORS = {
    "grad": OF_FUNC,
    "vmap": OF_FUNC,
    "jvp": OF_FUNC,
    "forward mode": "input on rank 1: has a tangent of forward mode, which SyncBatchNorm cannot follow in training",
    "wrapper": "input on rank 1: is a TwoTensor; expected a plain tensor",
    "dtype": "running_var on rank 1: is float64; expected float32, as the module's others",
}


def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def transform_on(rank, size, kind, is_first_call):
    layer = SyncBatchNorm(3)
    if not is_first_call:
        layer(batch(rank))
    tracked = int(layer.num_batches_tracked)
    call = FORWARD[kind] if rank == 1 else (lambda layer, x: layer(x))
    text = error_of(lambda: call(layer, batch(rank)))
    unchanged = tracked == int(layer.num_batches_tracked)
    return text, unchanged, layer(batch(rank)).detach()


@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("is_first_call", [True, False])
def test_a_transform_on_one_rank_is_the_error_of_all(kind, is_first_call):
    outcomes = results_of(transform_on, 3, kind, is_first_call)
    assert [outcome[0] for outcome in outcomes] == [FORWARD_ERRORS[kind]] * 3
    assert all(outcome[1] for outcome in outcomes)
    expected = exactnorm.torch.BatchNorm1d(3)(torch.cat([batch(rank) for rank in range(3)]))
    assert torch.equal(torch.cat([outcome[2] for outcome in outcomes]), expected)


def transform_in_evaluation(rank, size):
    layer = SyncBatchNorm(3).eval()
    x = batch(rank)
    return torch.func.grad(lambda x: layer(x).sum())(x), torch.func.vmap(layer)(x[None]).detach()


def test_evaluation_follows_transforms():
    for dx, y in results_of(transform_in_evaluation, 2):
        torch.testing.assert_close(dx, torch.full((4, 3), 1.00001**-0.5))
        assert y.shape == (1, 4, 3)


def batched_gradients(rank, size, of_input):
    layer = SyncBatchNorm(3)
    x = batch(rank).requires_grad_(of_input)
    y = layer(x)
    directions = torch.stack([batch(5), batch(6)])
    inputs = [x] if of_input else list(layer.parameters())
    results = []

    def pull_back():
        results.extend(torch.autograd.grad(y, inputs, directions, is_grads_batched=True, retain_graph=True))

    def pull_back_one():
        results.extend(torch.autograd.grad(y, inputs, batch(5), retain_graph=True))

    # Where something is exchanged, one rank alone is enough.
    text = error_of(pull_back if rank == 1 or not of_input else pull_back_one)
    (after,) = torch.autograd.grad(y, inputs[:1], batch(5))
    return text, results, after


def test_batched_gradients():
    for text, _, after in results_of(batched_gradients, 2, True):
        assert text == "grad_output on rank 1: is within a transform, which SyncBatchNorm cannot follow"
        assert after.isfinite().all()
    whole = torch.cat([batch(rank) for rank in (0, 1)]).double()
    normalized = (whole - whole.mean(0)) / (whole.var(0, correction=0) + 1e-5).sqrt()
    for rank, (text, results, _) in enumerate(results_of(batched_gradients, 2, False)):
        assert text == "no error"
        directions = torch.stack([batch(5), batch(6)]).double()
        expected = [(directions * normalized[4 * rank : 4 * rank + 4]).sum(1), directions.sum(1)]
        torch.testing.assert_close(results, [tensor.float() for tensor in expected])


def checkpointed(rank, size, use_reentrant, momentum):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 3), SyncBatchNorm(3, momentum=momentum))
    for step in range(2):
        x = batch(step * size + rank).requires_grad_()
        y = model(x) if use_reentrant is None else checkpoint(model, x, use_reentrant=use_reentrant)
        model.zero_grad()
        y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_checkpointing_tracks_each_batch_once(use_reentrant, momentum):
    expected = results_of(checkpointed, 2, None, momentum)
    outcomes = results_of(checkpointed, 2, use_reentrant, momentum)
    for outcome, other in zip(outcomes, expected, strict=True):
        assert int(outcome[-1]) == 2
        assert all(torch.equal(a, b) for a, b in zip(outcome, other, strict=True))


def changed_buffers(rank, size):
    layer = SyncBatchNorm(3)
    w = torch.ones(3, requires_grad=True)
    losses = [(w * buffer).sum() for buffer in layer.buffers()]
    layer(batch(rank))
    texts = []
    for loss in losses:
        try:
            loss.backward()
        except RuntimeError as error:
            texts.append(str(error))
    return texts


def test_graphs_that_have_saved_buffers_notice_training():
    for texts in results_of(changed_buffers, 2):
        assert len(texts) == 3
        assert all("modified by an inplace operation" in text for text in texts)


def marked_tensors(rank, size):
    layer = SyncBatchNorm(3)
    x, dy = batch(rank), batch(rank + 7)
    leaf = torch._neg_view(x).requires_grad_()
    results = []
    for gradient in (torch._neg_view(dy), torch._efficientzerotensor(dy.shape), torch.complex(dy, dy).conj().imag):
        y = layer(leaf)
        results.append(torch.autograd.grad(y, leaf, gradient)[0])
    return y.detach(), results


def test_tensors_that_are_only_marked_as_negated_or_zero():
    outcomes = results_of(marked_tensors, 2)
    alone = exactnorm.torch.BatchNorm1d(3)
    whole = -torch.cat([batch(rank) for rank in (0, 1)]).requires_grad_()
    dy = torch.cat([batch(rank + 7) for rank in (0, 1)])
    y = alone(whole)
    assert torch.equal(torch.cat([outcome[0] for outcome in outcomes]), y)
    for i, gradient in enumerate((-dy, dy * 0, -dy)):
        (expected,) = torch.autograd.grad(y, whole, gradient, retain_graph=True)
        assert torch.equal(torch.cat([outcome[1][i] for outcome in outcomes]), expected)
