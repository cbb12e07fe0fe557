"""exactnorm.fold: coefficients against 120 digits of decimal arithmetic, folded layers against the layers they are made of."""

from __future__ import annotations

import decimal
from decimal import Decimal

import exactnorm
import ml_dtypes
import numpy as np
import pytest
import torch
from exactnorm import Normalization, fold
from torch.nn import functional

decimal.getcontext().prec = 120
decimal.getcontext().Emin, decimal.getcontext().Emax = -9999, 9999
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def exactly(value):
    return Decimal(float(value))


def draw(random, channels, spread=1.0):
    """Statistics and parameters of a layer; a gamma is negative here and there, and some are 0."""
    mean = random.normal(0, 3, channels) * 10.0 ** random.uniform(-spread, spread, channels)
    variance = random.gamma(1, 2, channels) * 10.0 ** random.uniform(-spread, spread, channels)
    gamma = random.normal(0, 1, channels)
    gamma[random.random(channels) < 0.1] = 0
    return mean, variance, gamma, random.normal(0, 1, channels)


def coefficients(drawn, epsilon):
    """Scales and shifts in decimal arithmetic."""
    scales, shifts = [], []
    for mean, variance, gamma, beta in zip(*drawn, strict=True):
        scale = exactly(gamma) / (exactly(variance) + exactly(epsilon)).sqrt()
        scales.append(scale)
        shifts.append(exactly(beta) - exactly(mean) * scale)
    return scales, shifts


def assert_nearest(found, expected):
    """No neighbour in the dtype is nearer; Decimals and bits alone."""
    bits = np.asarray(found).reshape(1).view(f"i{found.dtype.itemsize}")
    error = abs(exactly(found) - expected)
    for step in (-1, 1):
        neighbour = (bits + np.array(step, bits.dtype)).view(found.dtype)[0]
        if np.isfinite(neighbour) and (neighbour >= 0) == (found >= 0):
            assert error <= abs(exactly(neighbour) - expected), (found, neighbour, expected)
    assert found == 0 or expected == 0 or (found > 0) == (expected > 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", ["conv", "conv_transpose", "linear"])
@pytest.mark.parametrize("where", ["before", "after", "both"])
def test_each_coefficient_is_rounded_once(dtype, layer, where):
    random = np.random.default_rng([len(dtype), len(layer), len(where)])
    inputs, outputs, groups = (7, 5, 1) if layer == "linear" else (6, 9, 3)
    shape = {
        "linear": (outputs, inputs),
        "conv": (outputs, inputs // groups, 3, 1),
        "conv_transpose": (inputs, outputs // groups, 2),
    }[layer]
    weight = random.normal(0, 1, shape).astype(DTYPES[dtype])
    bias = random.normal(0, 1, outputs).astype(DTYPES[dtype])
    of_input, of_output = draw(random, inputs), draw(random, outputs)
    a, b = coefficients(of_input, 1e-5) if where != "after" else ([Decimal(1)] * inputs, [Decimal(0)] * inputs)
    A, B = coefficients(of_output, 1e-3) if where != "before" else ([Decimal(1)] * outputs, [Decimal(0)] * outputs)
    folded = fold(
        weight, bias, layer=layer, groups=groups,
        before=Normalization(*of_input) if where != "after" else None,
        after=Normalization(*of_output, epsilon=1e-3) if where != "before" else None,
    )  # fmt: skip
    assert folded.weight.dtype == weight.dtype and folded.bias.dtype == weight.dtype and folded.pad_values is None
    shifts = [exactly(value) for value in bias]
    # The layer's own indices, one by one.
    for index in np.ndindex(shape):
        if layer == "conv_transpose":
            input, output = index[0], index[0] // (inputs // groups) * (outputs // groups) + index[1]
        else:
            output, input = index[0], index[0] // (outputs // groups) * (inputs // groups) + index[1]
        assert_nearest(folded.weight[index], exactly(weight[index]) * a[input] * A[output])
        shifts[output] += exactly(weight[index]) * b[input]
    for output, shift in enumerate(shifts):
        assert_nearest(folded.bias[output], shift * A[output] + B[output])


def test_ties_go_to_even():
    """1 + 2^-24 and 1 + 3*2^-24 lie between two float32s each, and float64 sums of other terms would hide it."""
    weight = np.array([[1.0]], np.float32)
    for above, expected in ((2.0**-24, 1.0), (3 * 2.0**-24, 1 + 2.0**-22)):
        after = Normalization([0.0], [1.0], [1 + above], [1 + above], epsilon=0)
        folded = fold(weight, after=after, layer="linear")
        assert folded.weight[0, 0] == folded.bias[0] == np.float32(expected)


def test_float64_of_any_size():
    """Where products of two float64s do not hold what rounding has lost, and where gammas make up for tiny weights."""
    random = np.random.default_rng(8)
    weight = random.normal(0, 1, (6, 5)) * 10.0 ** np.array([-300, -150, 0, 100, 290, -310.0])[:, np.newaxis]
    gammas = 10.0 ** np.array([300, -300, -310, -100, -295, 305.0])
    of_output = (np.zeros(6), random.uniform(1, 4, 6), gammas, np.zeros(6))
    of_input = (np.zeros(5), random.uniform(1, 4, 5), np.array([1e-5, 3, -1e-15, 1e5, -7]), np.zeros(5))
    (a, _), (A, _) = coefficients(of_input, 0.1), coefficients(of_output, 0.1)
    before, after = Normalization(*of_input, epsilon=0.1), Normalization(*of_output, epsilon=0.1)
    folded = fold(weight, layer="linear", before=before, after=after)
    for output, input in np.ndindex(6, 5):
        assert_nearest(folded.weight[output, input], exactly(weight[output, input]) * a[input] * A[output])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_near_ties_are_rounded_once(dtype):
    """Scales whose float64 is the middle between two numbers of the dtype, or next to it: float64 arithmetic alone is wrong."""
    random = np.random.default_rng(3)
    number = random.uniform(1, 2, 200).astype(DTYPES[dtype])
    above = (number.view(f"i{number.dtype.itemsize}") + 1).astype(f"i{number.dtype.itemsize}").view(number.dtype)
    middle = (number.astype(float) + above.astype(float)) / 2
    variance = random.uniform(1, 9, 200)
    gamma = middle * np.sqrt(variance)
    drawn = (np.zeros(200), variance, gamma, np.zeros(200))
    scales, _ = coefficients(drawn, 0.0)
    folded = fold(np.ones((200, 1), number.dtype), layer="linear", after=Normalization(*drawn, epsilon=0))
    for output, scale in enumerate(scales):
        assert_nearest(folded.weight[output, 0], scale)
    # The same scale as that of an input is a sum's only term.
    folded = fold(
        np.eye(200, dtype=number.dtype), layer="linear", before=Normalization(np.full(200, -1.0), *drawn[1:], epsilon=0)
    )
    for output, scale in enumerate(scales):
        assert_nearest(folded.weight[output, output], scale)
        assert_nearest(folded.bias[output], scale)


def test_sums_that_cancel_are_exact():
    """Terms of 1e30 whose sum is next to nothing: square roots that are equal cancel, those that are not leave their difference."""
    mean, variance = [1e30, 1e30], [2.0, np.nextafter(2.0, 3)]
    folded = fold(
        np.array([[1, -1]], np.float64), layer="linear", before=Normalization(mean, variance, epsilon=0)
    )
    expected = exactly(1e30) * (1 / exactly(variance[1]).sqrt() - 1 / Decimal(2).sqrt())
    assert_nearest(folded.bias[0], expected)
    same = fold(np.array([[1, -1]], np.float32), layer="linear", before=Normalization(mean, [2.0, 2.0], epsilon=0))
    assert same.bias[0] == 0


def test_subnormal_coefficients_are_rounded_once():
    random = np.random.default_rng(4)
    for dtype, size in (("float16", 1e-7), ("float32", 1e-44), ("float64", 1e-322), ("bfloat16", 1e-39)):
        weight = random.normal(0, 1, (4, 4)).astype(DTYPES[dtype])
        drawn = (np.zeros(4), np.ones(4), random.normal(0, size, 4), np.zeros(4))
        scales, _ = coefficients(drawn, 0.3)
        folded = fold(weight, layer="linear", after=Normalization(*drawn, epsilon=0.3))
        for output, input in np.ndindex(4, 4):
            assert_nearest(folded.weight[output, input], exactly(weight[output, input]) * scales[output])


def norm_of(drawn, x, epsilon=1e-5):
    mean, variance, gamma, beta = map(torch.from_numpy, drawn)
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_pytorch(groups, dimensions):
    """In float64, where what is left is rounding."""
    random = np.random.default_rng([groups, dimensions])
    conv = [functional.conv1d, functional.conv2d, functional.conv3d][dimensions - 1]
    transposed = [functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d][dimensions - 1]
    x = torch.from_numpy(random.normal(1, 2, (3, 8, *(5,) * dimensions)))
    of_input, of_output = draw(random, 8, spread=0.3), draw(random, 16, spread=0.3)
    of_input[2][of_input[2] == 0] = 1
    before, after = Normalization(*of_input), Normalization(*of_output)
    weight, bias = random.normal(0, 1, (16, 8 // groups, *(3,) * dimensions)), random.normal(0, 1, 16)
    folded = fold(weight, bias, before=before, after=after, groups=groups, pads=True)
    expected = norm_of(of_output, conv(norm_of(of_input, x), *map(torch.from_numpy, (weight, bias)), padding=1, groups=groups))
    padded = torch.from_numpy(folded.pad_values).reshape(1, 8, *(1,) * dimensions).expand(3, 8, *(7,) * dimensions).clone()
    padded[(slice(None), slice(None), *(slice(1, -1),) * dimensions)] = x
    found = conv(padded, *map(torch.from_numpy, (folded.weight, folded.bias)), groups=groups)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    weight = random.normal(0, 1, (8, 16 // groups, *(3,) * dimensions))
    folded = fold(weight, bias, before=before, after=after, groups=groups, layer="conv_transpose")
    expected = norm_of(of_output, transposed(norm_of(of_input, x), *map(torch.from_numpy, (weight, bias)), groups=groups))
    found = transposed(x, *map(torch.from_numpy, (folded.weight, folded.bias)), groups=groups)
    # At the border, where fewer taps meet the input, the shift of what is before is another.
    inside = (slice(None), slice(None), *(slice(2, -2),) * dimensions)
    assert (found - expected)[inside].abs().max() < 1e-12 * expected.abs().max()


def test_flattened_joined_and_following_normalizations():
    random = np.random.default_rng(5)
    first, second = draw(random, 4), draw(random, 4)
    x = random.normal(0, 1, (6, 4, 3, 2))
    weight = random.normal(0, 1, (5, 24))
    norm = Normalization(*first).then(Normalization(*second))
    folded = fold(weight, layer="linear", before=norm.repeated(6))
    normalized = norm_of(second, norm_of(first, torch.from_numpy(x))).numpy()
    expected = normalized.reshape(6, 24) @ weight.T
    np.testing.assert_allclose(x.reshape(6, 24) @ folded.weight.T + folded.bias, expected, rtol=1e-11, atol=1e-11)
    parts = Normalization.joined([norm[:1], norm[1:]])
    assert parts.scale.tolist() == norm.scale.tolist() and parts.shift.tolist() == norm.shift.tolist()
    np.testing.assert_allclose(normalized, x * norm.scale.reshape(4, 1, 1) + norm.shift.reshape(4, 1, 1), rtol=1e-10)
    zero = Normalization(first[0], first[1], np.array([1.0, -2.0, 3.0, 4.0]), first[3])
    for channel, x_of_zero in enumerate(zero.preimage_of_zero):
        deviation = (exactly(first[1][channel]) + exactly(1e-5)).sqrt()
        assert_nearest(x_of_zero, exactly(first[0][channel]) - exactly(first[3][channel]) * deviation / [1, -2, 3, 4][channel])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_hold_and_are_near(dtype):
    """Over many random layers: differences in exact arithmetic, which float64 stands for, and in the dtype's own."""
    random = np.random.default_rng(6)
    largest = 0.0
    for _ in range(50):
        inputs, outputs = random.integers(1, 40, 2)
        weight = random.normal(0, 1, (outputs, inputs)).astype(DTYPES[dtype])
        bias = random.normal(0, 1, outputs).astype(DTYPES[dtype])
        of_input, of_output = draw(random, inputs, 0.3), draw(random, outputs, 0.3)
        x = random.uniform(-3, 3, (64, inputs)).astype(DTYPES[dtype]).astype(np.float64)
        folded = fold(weight, bias, layer="linear", before=Normalization(*of_input), after=Normalization(*of_output))
        normalized = norm_of(of_input, torch.from_numpy(x)).numpy()
        exact = norm_of(of_output, torch.from_numpy(normalized @ weight.astype(float).T + bias.astype(float))).numpy()
        difference = np.abs(x @ folded.weight.astype(float).T + folded.bias.astype(float) - exact).max(0)
        limits = np.abs(x).max(0)
        # float64's own rounding stands beside the bound.
        bound = folded.coefficient_bound(limits) + (0 if dtype != "float64" else folded.bound(limits))
        assert (difference <= bound + 1e-13 * np.abs(exact).max(0)).all()
        largest = max(largest, float((difference / bound).max()))
        own = getattr(torch, dtype)
        tensors = [torch.from_numpy(array.astype(float)).to(own) for array in (x, weight, bias, folded.weight, folded.bias)]
        new = functional.linear(tensors[0], *tensors[3:])
        old = functional.linear(norm_of_dtype(of_input, tensors[0]), *tensors[1:3])
        old = norm_of_dtype(of_output, old)
        assert ((new.double() - old.double()).abs().numpy().max(0) <= folded.bound(limits)).all()
    assert largest > (0.1 if dtype != "float64" else 0)


def test_the_bound_holds_near_zero():
    """float16's smallest numbers, which a layer stores and a normalization makes large."""
    folded = fold(np.array([[1e-3]], np.float16), layer="linear", after=Normalization([0.0], [1.0], [1000.0], epsilon=0))
    x = np.linspace(1e-4, 1e-3, 50).astype(np.float16)
    stored = (x.astype(np.float32) * np.float32(np.float16(1e-3))).astype(np.float16)
    old = (stored.astype(np.float32) * 1000).astype(np.float16).astype(float)
    new = (x.astype(np.float32) * folded.weight[0, 0].astype(np.float32)).astype(np.float16).astype(float)
    assert 2e-5 < np.abs(new - old).max() <= folded.bound(1e-3)[0]


def test_scales_that_undo_each_other():
    """One is a subnormal float64 of few digits, and another makes it large again."""
    before, after = Normalization([1], [1], [2.0**1000], epsilon=0), Normalization([0], [2], [5e-324], epsilon=0)
    folded = fold(np.ones((1, 1), np.float32), layer="linear", before=before, after=after)
    expected = Decimal(2) ** 1000 * exactly(5e-324) / Decimal(2).sqrt()
    assert_nearest(folded.weight[0, 0], expected)
    assert_nearest(folded.bias[0], -expected)


def norm_of_dtype(drawn, x):
    """PyTorch's, with parameters in float64 or float32."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return functional.batch_norm(x, *(torch.from_numpy(value).to(kind) for value in drawn))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": np.ones((2, 2), int)}, "weight: has dtype int64; expected float32"),
        ({"weight": np.ones(3)}, r"weight: has shape \(3,\); expected at least two axes"),
        ({"weight": np.ones((2, 2, 1)), "layer": "linear"}, r"weight: has shape \(2, 2, 1\); expected \(outputs, inputs\)"),
        ({"weight": np.ones((0, 2))}, r"weight: has shape \(0, 2\); expected at least one element"),
        ({"weight": np.array([[1.0, np.nan]])}, r"weight: is not finite at \(0, 1\)"),
        ({"weight": np.ones((4, 2)), "groups": 3}, "groups: is 3; expected 1, or for convolutions a divisor of 4"),
        ({"weight": np.ones((4, 2)), "layer": "dense"}, "layer: is 'dense'; expected one of 'conv'"),
        ({"weight": np.ones((4, 2)), "bias": np.ones(3)}, r"bias: has shape \(3,\); expected \(4,\)"),
        ({"weight": np.ones((4, 2)), "after": [0.0, 1.0]}, "after: has 2 channels; expected 4, as the layer has outputs"),
        ({"weight": np.ones((4, 3)), "before": [0.0, 1.0]}, "before: has 2 channels; expected 3, as the layer has inputs"),
        (
            {"weight": np.full((2, 2), 6e4, np.float16), "after": [0.0, 0.0], "variance": 0.1},
            r"weight: would be beyond float16's range at \(0, 0\)",
        ),
        (
            {"weight": np.ones((2, 2)), "before": [0.0, 0.0], "pads": True, "layer": "linear"},
            "pads: is True, with a layer 'linear'; expected a convolution",
        ),
    ],
)
def test_errors_name_the_argument(arguments, words):
    variance = arguments.pop("variance", 1.0)
    for name in ("before", "after"):
        if name in arguments:
            arguments[name] = Normalization(arguments[name], variance)
    with pytest.raises((TypeError, ValueError), match=words):
        fold(**arguments)


def test_errors_of_normalizations():
    with pytest.raises(ValueError, match=r"variance: is -1.0 in channel 1, with epsilon 1e-05; expected a positive sum"):
        Normalization([0, 0], [1, -1])
    with pytest.raises(ValueError, match=r"mean: is not finite at \(1\)"):
        Normalization([0, np.inf], 1)
    with pytest.raises(ValueError, match="gamma: has shape"):
        Normalization([0, 0], 1, np.ones(3))
    with pytest.raises(ValueError, match="following: has 2 channels; expected 1"):
        Normalization([0], 1).then(Normalization([0, 0], 1))
    with pytest.raises(ValueError, match="gamma: is 0 in channel 0; expected another number, as no x is normalized to 0"):
        _ = Normalization([0], 1, 0, 1).preimage_of_zero
    with pytest.raises(ValueError, match="times: is 0"):
        Normalization([0], 1).repeated(0)
    assert Normalization([0], 1, 0, 0).preimage_of_zero == [0]
    assert isinstance(exactnorm.fold(np.ones((1, 1)), layer="linear"), exactnorm.FoldedLayer)
