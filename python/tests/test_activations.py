"""Activations and residuals: gradients against PyTorch in float64, bits against the separate operations."""

import numpy as np
import pytest
import torch

import exactnorm

FUNCTIONS = {
    None: lambda v: v,
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "leaky_relu": lambda v: torch.nn.functional.leaky_relu(v, 0.2),
    "silu": torch.nn.functional.silu,
    "hard_swish": torch.nn.functional.hardswish,
}
activations = pytest.mark.parametrize("activation", FUNCTIONS)
residuals = pytest.mark.parametrize("has_residual", [False, True])
OPTIONS = {"slope": 0.2}


def numbers(seed, dtype=np.float64, shape=(4, 5, 6, 7)):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(dtype)


def problem(dtype):
    x, dy, residual = numbers(1, dtype) + dtype(3), numbers(2, dtype), numbers(3, dtype)
    generator = np.random.default_rng(4)
    return x, dy, residual, generator.normal(size=5).astype(dtype), generator.normal(size=5).astype(dtype)


@activations
@residuals
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_pytorchs(activation, has_residual, frozen):
    x, dy, residual, gamma, beta = problem(np.float64)
    given = {"residual": residual} if has_residual else {}
    y, found = exactnorm.batch_norm(
        x, gamma, beta, activation=activation, return_statistics=True, **given, **OPTIONS
    )
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, gamma, beta, residual)]
    running = [torch.tensor(found.mean), torch.tensor(found.variance)] if frozen else [None, None]
    v = torch.nn.functional.batch_norm(leaves[0], *running, leaves[1], leaves[2], training=not frozen)
    theirs = FUNCTIONS[activation](v + leaves[3] if has_residual else v)
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-12, atol=1e-13)
    theirs.backward(torch.from_numpy(dy))
    ours = exactnorm.batch_norm_backward(
        dy, x, found, gamma, beta, activation=activation, frozen=frozen, **given, **OPTIONS
    )
    for mine, leaf in zip(ours, leaves, strict=False):
        np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-11, atol=1e-12)


@activations
@residuals
def test_float32_is_the_separate_operations(activation, has_residual):
    x, dy, residual, gamma, beta = problem(np.float32)
    given = {"residual": residual} if has_residual else {}
    y, found = exactnorm.batch_norm(
        x, gamma, beta, activation=activation, return_statistics=True, **given, **OPTIONS
    )
    v = torch.from_numpy(exactnorm.batch_norm(x, gamma, beta))
    if has_residual:
        v = v + torch.from_numpy(residual)
    v.requires_grad_()
    separate = FUNCTIONS[activation](v)
    separate.backward(torch.from_numpy(dy))
    ours = exactnorm.batch_norm_backward(dy, x, found, gamma, beta, activation=activation, **given, **OPTIONS)
    if activation == "silu":  # PyTorch's exponential depends on the processor
        np.testing.assert_allclose(y, separate.detach().numpy(), rtol=1e-6)
        return
    np.testing.assert_array_equal(y, separate.detach().numpy())
    right = exactnorm.batch_norm_backward(v.grad.numpy(), x, found, gamma)
    for mine, expected in zip(ours, (*right, v.grad.numpy()), strict=False):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("activation", [name for name in FUNCTIONS if name])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_are_pytorchs(activation, dtype):
    # Through a normalization that changes nothing, the sign of 0 included.
    special = [-0.0, 0.0, np.nan, np.inf, -np.inf, 6, -3, 3, 7, -7, 1e-40, -1e-40, 2.9999998, -2.9999998]
    v = np.tile(np.array(special, dtype), 5).reshape(-1, 1)
    one = exactnorm.given_statistics([0.0], [1.0], epsilon=0)
    y = exactnorm.batch_norm_inference(v, one, beta=[-0.0], activation=activation, **OPTIONS)
    leaf = torch.from_numpy(v.copy()).requires_grad_()
    theirs = FUNCTIONS[activation](leaf)
    theirs.backward(torch.full_like(leaf, 2))
    given = {"activation": activation, "frozen": True, "residual": np.full_like(v, -0.0), **OPTIONS}
    ours = exactnorm.batch_norm_backward(np.full_like(v, 2), v, one, beta=[-0.0], **given)
    rtol = 1e-6 if activation == "silu" else 0
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=rtol)
    np.testing.assert_array_equal(np.signbit(y[~np.isnan(y)]), np.signbit(theirs.detach().numpy()[~np.isnan(y)]))
    np.testing.assert_allclose(ours.dx, leaf.grad.numpy(), rtol=rtol)
    np.testing.assert_allclose(ours.d_residual, leaf.grad.numpy(), rtol=rtol)


@activations
def test_a_layer_has_them(activation):
    x, dy, residual, gamma, beta = problem(np.float32)
    layer = exactnorm.BatchNorm(5, activation=activation, slope=0.2)
    layer.gamma, layer.beta = gamma, beta
    given = {"activation": activation, "residual": residual, **OPTIONS}
    y, found = exactnorm.batch_norm(x, gamma, beta, return_statistics=True, **given)
    np.testing.assert_array_equal(layer(x, residual), y)
    dx, d_residual = layer.backward(dy, x, residual)
    right = exactnorm.batch_norm_backward(dy, x, found, gamma, beta, **given)
    np.testing.assert_array_equal(dx, right.dx)
    np.testing.assert_array_equal(d_residual, right.d_residual)
    over_dx, over_dy = np.empty_like(x), dy.copy()
    results = layer.backward(over_dy, x, residual, out=over_dx, out_residual=over_dy)
    assert results[0] is over_dx and results[1] is over_dy
    np.testing.assert_array_equal(over_dx, right.dx)
    np.testing.assert_array_equal(over_dy, right.d_residual)
    layer.training = False
    evaluated = layer(x, residual)
    running = layer.running.statistics()
    np.testing.assert_array_equal(evaluated, exactnorm.batch_norm_inference(x, running, gamma, beta, **given))


def test_errors():
    x = numbers(1, np.float32)
    with pytest.raises(ValueError, match="activation: is 'gelu'; expected 'relu', 'relu6'"):
        exactnorm.batch_norm(x, activation="gelu")
    with pytest.raises(TypeError, match="activation: is of type function; expected str"):
        exactnorm.batch_norm(x, activation=lambda v: v)
    with pytest.raises(ValueError, match=r"residual: has shape \(5, 4, 6, 7\); expected \(4, 5, 6, 7\)"):
        exactnorm.batch_norm(x, residual=x.swapaxes(0, 1))
    found = exactnorm.statistics(x)
    with pytest.raises(ValueError, match="out_residual: was given; expected none, as there is no residual"):
        exactnorm.batch_norm_backward(x, x, found, out_residual=x)
    with pytest.raises(ValueError, match="out_residual: has dtype float64; expected float32, as dy has"):
        exactnorm.batch_norm_backward(x, x, found, residual=x, out_residual=x.astype(np.float64))
    with pytest.raises(ValueError, match="slope: is nan; expected a finite number"):
        exactnorm.batch_norm(x, activation="leaky_relu", slope=float("nan"))
