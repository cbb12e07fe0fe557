"""Replaced kernels lay out their results as PyTorch's do, also where sizes of 1 leave open what a layout is."""

from __future__ import annotations

import random

import exactnorm.torch
import pytest
import torch
from exactnorm import _core
from torch.nn import functional


def tensor(shape):
    """In any order of axes, perhaps with gaps, and with any strides on axes of size 1."""
    order = list(range(len(shape)))
    if random.random() < 0.4:
        order = [0, *order[2:], 1]
    elif random.random() < 0.5:
        random.shuffle(order)
    strides, stride = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = random.choice([1, 2, 3, 7]) if shape[axis] == 1 and random.random() < 0.5 else stride
        stride *= shape[axis] * random.choice([1, 1, 1, 1, 2])
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.randn(elements).as_strided(shape, strides)


def per_channel(channels, value):
    step = random.choice([1, 1, 1, 2])
    return torch.full((channels * step,), value)[::step]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_strides_are_pytorchs(training, seed):
    random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(150):
        shape = [2, *(random.choice([1, 1, 2, 3]) for _ in range(random.choice([1, 2, 3, 3, 4])))]
        if random.random() < 0.5:
            shape[0], shape[-1] = 1, shape[-1] + 1
        if torch.Size(shape).numel() == shape[1]:
            continue
        x, dy = tensor(shape).requires_grad_(), tensor(shape)
        weight, mean = per_channel(shape[1], 1.0), per_channel(shape[1], 0.0)
        variance, bias = torch.ones(shape[1]), random.choice([None, torch.zeros(shape[1])])

        def step():
            y = functional.batch_norm(x, mean, variance, weight, bias, training)
            (dx,) = torch.autograd.grad(y, x, dy)
            return y.stride(), dx.stride()

        expected = step()
        before = _core.torch_calls()[0]
        with exactnorm.torch.enable():
            assert step() == expected, (shape, x.stride(), dy.stride(), weight.stride(), mean.stride())
        assert _core.torch_calls()[0] == before + 2
