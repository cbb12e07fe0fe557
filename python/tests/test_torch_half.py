"""Modules and the function on bfloat16 and float16, beside float64's results rounded once, whatever way a call takes."""

from __future__ import annotations

import copy

import exactnorm.torch
import pytest
import torch
from exactnorm import _core
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

HALVES = [torch.bfloat16, torch.float16]
SHAPES = {1: (9, 5, 7), 2: (6, 5, 4, 3), 3: (3, 5, 2, 4, 3)}


def layer(dimensions, of_parameters, momentum=0.1):
    torch.manual_seed(dimensions)
    module = getattr(exactnorm.torch, f"BatchNorm{dimensions}d")(5, momentum=momentum, dtype=of_parameters)
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
        module.running_mean.normal_()
    return module


def step(module, x, dy, call=None):
    leaf = x.clone().requires_grad_()
    y = (call or (lambda x: module(x)))(leaf)
    y.backward(dy)
    return [y.detach(), leaf.grad, module.weight.grad, module.bias.grad, module.running_mean, module.running_var]


def batch(dimensions, dtype):
    torch.manual_seed(20 + dimensions)
    x = (torch.randn(SHAPES[dimensions]) * 3 + 10).to(dtype)
    return x, torch.randn(SHAPES[dimensions]).to(dtype)


def wide(module):
    """torch.nn's module of the same numbers in float64."""
    theirs = getattr(torch.nn, type(module).__name__)(5, module.eps, module.momentum, dtype=torch.float64)
    theirs.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    return theirs.train(module.training)


def is_rounded_once(one, exact):
    """Whether all are within half a unit in the last place of float64's numbers, and float32's rounding of terms of
    their magnitude before that."""
    limits = torch.finfo(one.dtype)
    spacing = limits.eps * 2.0 ** torch.floor(torch.log2(exact.abs().clamp_min(limits.tiny)))
    arithmetic = 8 * torch.finfo(torch.float32).eps * exact.abs().max()
    return bool(((one.double() - exact).abs() <= spacing / 2 + arithmetic).all())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("of_parameters", [None, torch.float32])
@pytest.mark.parametrize("training", [True, False])
def test_results_are_float64s_rounded_once(dimensions, dtype, of_parameters, training):
    module = layer(dimensions, of_parameters or dtype).train(training)
    theirs = wide(module)
    x, dy = batch(dimensions, dtype)
    before = sum(_core.torch_calls())
    found = step(module, x, dy)
    assert sum(_core.torch_calls()) - before == (2 if training else 0)  # an evaluation with gradients is an operator
    exact = step(theirs, x.double(), dy.double())
    for name, one, reference in zip(("y", "dx", "dweight", "dbias", "mean", "variance"), found, exact, strict=True):
        assert one.dtype == (dtype if name in ("y", "dx") else of_parameters or dtype)
        assert is_rounded_once(one, reference), name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("of_parameters", [None, torch.float32])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_all_ways_give_the_same_bits(dtype, of_parameters, momentum):
    x, dy = batch(2, dtype)
    module = layer(2, of_parameters or dtype, momentum)
    expected = step(copy.deepcopy(module), x, dy)

    def watched(module):
        with FlopCounterMode(display=False):
            return step(module, x, dy)

    def recomputed(module):
        return step(module, x, dy, lambda x: checkpoint(module, x, use_reentrant=False))

    def compiled(module):
        return step(module, x, dy, torch.compile(lambda x: module(x), backend="aot_eager", fullgraph=True))

    def function(module):
        def call(x):
            tensors = (module.running_mean, module.running_var, module.weight, module.bias)
            return exactnorm.torch.functional.batch_norm(x, *tensors, training=True, momentum=momentum or 1.0)

        return step(module, x, dy, call)

    for way in (watched, recomputed, compiled, function):
        for one, other in zip(way(copy.deepcopy(module)), expected, strict=True):
            assert torch.equal(one, other), way.__name__


@pytest.mark.parametrize("dtype", HALVES)
def test_a_network_under_autocast_is_computed_here(dtype):
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4)
    )
    theirs = copy.deepcopy(network)
    ours = exactnorm.torch.convert(network)
    x = torch.randn(6, 3, 12, 12)
    before = _core.torch_calls()
    with torch.autocast("cpu", dtype):
        y, expected = ours(x), theirs(x)
        assert y.dtype == expected.dtype == dtype
        for output in (y, expected):
            output.float().square().mean().backward()
    computed, passed = (now - then for now, then in zip(_core.torch_calls(), before, strict=True))
    assert (computed, passed) == (4, 4)
    torch.testing.assert_close(y, expected, rtol=3e-2, atol=3e-2)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, rtol=0.1, atol=1e-2)
    with torch.autocast("cpu", dtype), torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("of_parameters", [None, torch.float32])
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(of_parameters, training):
    """In bfloat16, with the operators and with a module, beside float64."""
    dtype = torch.bfloat16
    module = layer(2, of_parameters or dtype).train(training)
    x, dy = batch(2, dtype)

    def penalty(module, x, dy, scale):
        leaf = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(module(leaf), leaf, dy, create_graph=True)
        (dx.to(scale) ** 2).sum().backward()
        return (module.weight.grad, leaf.grad) if training else (module.weight.grad,)

    exact = penalty(wide(module), x.double(), dy.double(), torch.float64)
    found = penalty(module, x, dy, torch.float32)
    for one, reference in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), reference, rtol=0.1, atol=0.05 * float(reference.abs().max()))


def test_what_fits_neither_dtype_goes_to_pytorch():
    x = torch.randn(6, 5)
    module = layer(1, torch.bfloat16)
    with pytest.raises(RuntimeError) as ours:
        module(x)
    with pytest.raises(RuntimeError) as theirs:
        torch.nn.BatchNorm1d(5, dtype=torch.bfloat16)(x)
    assert str(ours.value) == str(theirs.value)
