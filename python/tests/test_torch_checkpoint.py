"""Activation checkpointing: gradients as without it, and running statistics that see each batch once."""

from __future__ import annotations

import copy

import exactnorm.torch
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def block(place, momentum=0.1, dtype=torch.float32):
    """A block whose batch normalization stands first, in the middle or last."""
    torch.manual_seed(3)
    norm = nn.BatchNorm1d(4, momentum=momentum)
    layers = {
        "first": [norm, nn.Linear(4, 4), nn.Tanh()],
        "middle": [nn.Linear(4, 4), norm, nn.Tanh()],
        "last": [nn.Linear(4, 4), norm],
    }[place]
    return nn.Sequential(*layers).to(dtype)


def train(model, call):
    """Two steps; outputs, gradients and buffers."""
    torch.manual_seed(4)
    results = []
    for _ in range(2):
        x = torch.randn(7, 4, dtype=next(model.parameters()).dtype).requires_grad_()
        y = call(model, x)
        model.zero_grad()
        y.square().sum().backward()
        results += [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]
    return results, [buffer.clone() for buffer in model.buffers()]


CHECKPOINTS = {
    "reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
    "not reentrant": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "nested": lambda model, x: checkpoint(
        lambda x: checkpoint(model, x, use_reentrant=False), x, use_reentrant=False
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("early_stop", [True, False])
def test_running_statistics_see_each_batch_once(kind, place, momentum, early_stop):
    model = exactnorm.torch.convert(block(place, momentum))
    expected = train(copy.deepcopy(model), lambda model, x: model(x))
    with set_checkpoint_early_stop(early_stop):
        results = train(model, CHECKPOINTS[kind])
    for mine, other in zip((*results[0], *results[1]), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(mine, other)
    assert int(results[1][-1]) == 2


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_torch_nn_counts_twice(kind):
    """What the table of docs/pytorch.md says of the other side."""
    _, buffers = train(block("middle"), CHECKPOINTS[kind])
    _, expected = train(block("middle"), lambda model, x: model(x))
    assert (int(buffers[-1]), int(expected[-1])) == (4, 2)
    assert not torch.allclose(buffers[0], expected[0])


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_16_bits_are_tracked_once_too(kind):
    model = exactnorm.torch.convert(block("middle", dtype=torch.bfloat16))
    expected = train(copy.deepcopy(model), lambda model, x: model(x))
    results = train(model, CHECKPOINTS[kind])
    for mine, other in zip((*results[0], *results[1]), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(mine, other)


def test_in_evaluation():
    model = exactnorm.torch.convert(block("middle")).eval()
    expected = train(copy.deepcopy(model), lambda model, x: model(x))
    for call in CHECKPOINTS.values():
        results = train(copy.deepcopy(model), call)
        assert all(torch.equal(mine, other) for mine, other in zip(results[0], expected[0], strict=True))


@pytest.mark.parametrize("order", ["compiled within", "compiled around"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiled(order, momentum):
    model = exactnorm.torch.convert(block("middle", momentum))
    expected = train(copy.deepcopy(model), lambda model, x: model(x))
    compile = {"backend": "aot_eager", "fullgraph": True}
    if order == "compiled within":
        compiled = torch.compile(lambda x: model(x), **compile)
        results = train(model, lambda _, x: checkpoint(compiled, x, use_reentrant=False))
    else:
        compiled = torch.compile(lambda x: checkpoint(model, x, use_reentrant=False), **compile)
        results = train(model, lambda _, x: compiled(x))
    torch.testing.assert_close(results, expected)
    torch._dynamo.reset()


def test_selective_checkpointing():
    """What is saved by a policy instead of being recomputed."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    model = exactnorm.torch.convert(block("middle"))
    expected = train(copy.deepcopy(model), lambda model, x: model(x))

    def policy(context, operator, *args, **kwargs):
        ours = operator == torch.ops.exactnorm.batch_norm.default
        return CheckpointPolicy.MUST_SAVE if ours else CheckpointPolicy.PREFER_RECOMPUTE

    def call(model, x):
        return checkpoint(
            model, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy)
        )

    torch.testing.assert_close(train(model, call), expected)
