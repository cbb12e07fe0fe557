"""exactnorm.torch.functional.batch_norm beside torch.nn.functional.batch_norm, with PyTorch's own samples."""

from __future__ import annotations

import itertools

import exactnorm.torch
import pytest
import torch
from exactnorm.torch.functional import batch_norm
from torch.testing._internal.common_methods_invocations import op_db

THEIRS = torch.nn.functional.batch_norm
(OP_INFO,) = [op for op in op_db if op.name == "nn.functional.batch_norm" and op.variant_test_name == ""]


def gradients(function, *inputs, dy):
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def assert_close(ours, theirs, dtype=torch.float64):
    tolerance = {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_samples_of_pytorchs_own_tests(dtype):
    compared = 0
    for sample in OP_INFO.sample_inputs("cpu", dtype, requires_grad=True):
        copies = [[None if a is None else a.detach().clone() for a in sample.args] for _ in range(2)]
        results = []
        for function, args in ((batch_norm, copies[0]), (THEIRS, copies[1])):
            x = sample.input.detach().clone().requires_grad_()
            y = function(x, *args, **sample.kwargs)
            (dx,) = torch.autograd.grad(y, x, torch.linspace(-1, 2, y.numel(), dtype=dtype).reshape(y.shape))
            results.append((y.detach(), dx))
        assert_close(results[0], results[1], dtype)
        for mine, theirs in zip(*copies, strict=True):
            if mine is not None:
                assert_close(mine, theirs, dtype)
        compared += 1
    assert compared >= 10


MODES = list(itertools.product([(7, 3), (4, 3, 5), (2, 3, 4, 3), (2, 3, 2, 2, 3)], [True, False], [True, False]))


@pytest.mark.parametrize(("shape", "training", "affine"), MODES)
def test_first_and_second_derivatives(shape, training, affine):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    parameters = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2 * affine)]
    mean, variance = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5

    def function(x, *parameters):
        return batch_norm(x, mean.clone(), variance.clone(), *parameters, training=training)

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


@pytest.mark.parametrize("training", [True, False])
def test_third_derivatives(training):
    torch.manual_seed(2)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    gamma = torch.randn(2, dtype=torch.float64, requires_grad=True)
    mean, variance = torch.randn(2, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    u, v = torch.randn(2, 4, 2, 3, dtype=torch.float64)

    def second_derivatives(x, gamma):
        y = batch_norm(x, mean.clone(), variance.clone(), gamma, None, training)
        dx, dgamma = torch.autograd.grad((y * y * u).sum(), (x, gamma), create_graph=True)
        return torch.autograd.grad((dx * dx * v).sum() + (dgamma**3).sum(), (x, gamma), create_graph=True)

    assert torch.autograd.gradcheck(second_derivatives, (x, gamma))


def test_derivatives_that_are_not_wanted_cost_nothing_and_are_none():
    x, gamma, beta = torch.randn(8, 3), torch.randn(3, requires_grad=True), torch.randn(3)
    y = batch_norm(x, None, None, gamma, beta, True)
    assert y.requires_grad
    y.sum().backward()
    assert gamma.grad is not None
    assert x.grad is None
    assert beta.grad is None


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "(h, w, c, m)": lambda x: x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "(c, w, h, m)": lambda x: x.permute(1, 3, 2, 0).contiguous().permute(3, 0, 2, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_is_kept_and_changes_no_bit(layout):
    torch.manual_seed(3)
    x, dy = torch.randn(2, 6, 5, 4, 3)
    gamma, beta = torch.randn(2, 5)

    def function(*inputs):
        return batch_norm(inputs[0], None, None, *inputs[1:], training=True)

    expected = gradients(function, x, gamma, beta, dy=dy)
    arranged = LAYOUTS[layout](x)
    ours = gradients(function, arranged, gamma, beta, dy=dy)
    assert ours[0].stride() == arranged.stride()
    assert ours[1].stride() == arranged.stride()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, expected, strict=True))
    assert torch.equal(function(arranged[::2], gamma, beta), function(arranged[::2].contiguous(), gamma, beta))


def test_gradients_of_other_layouts_than_the_inputs():
    torch.manual_seed(4)
    x = torch.randn(4, 3, 6, 4, dtype=torch.float64)
    for dy in (
        torch.ones((), dtype=torch.float64).expand(x.shape),
        torch.randn(x.shape, dtype=torch.float64).to(memory_format=torch.channels_last),
        torch.randn(4, 6, 4, 3, dtype=torch.float64).permute(0, 3, 1, 2)[:, :, :, :],
        torch.randn(4, 3, 6, 8, dtype=torch.float64)[..., ::2],
    ):
        ours = gradients(lambda x: batch_norm(x, None, None, training=True), x, dy=dy)
        theirs = gradients(lambda x: THEIRS(x, None, None, training=True), x, dy=dy.contiguous())
        assert_close(ours, theirs)


def test_threads_change_no_bit():
    torch.manual_seed(5)
    x = torch.randn(16, 8, 30, 30).to(memory_format=torch.channels_last) + 100
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(lambda x: batch_norm(x, None, None, training=True), x, dy=torch.sin(x)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_large_mean():
    torch.manual_seed(6)
    x = torch.randn(32, 4, 8, 8) + 1e6
    y = batch_norm(x, None, None, training=True)
    wide = x.double()
    expected = (wide - wide.mean((0, 2, 3), keepdim=True)) / (
        wide.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert (y - expected).abs().max() < 1e-6


def test_running_statistics():
    x = torch.randn(64, 3, dtype=torch.float64) * 3 + 2
    mean, variance = torch.full((3,), 7.0, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    batch_norm(x, mean, variance, training=True, momentum=0.25)
    assert_close(mean, 0.75 * 7 + 0.25 * x.mean(0))
    assert_close(variance, 0.75 * 5 + 0.25 * x.var(0))


def test_one_bad_batch_does_not_reach_running_statistics():
    x = torch.randn(6, 2)
    x[1, 0] = float("nan")
    mean, variance = torch.zeros(2), torch.ones(2)
    y = batch_norm(x, mean, variance, training=True)
    assert y[:, 0].isnan().all()
    assert y[:, 1].isfinite().all()
    assert mean[0] == 0
    assert variance[0] == 1
    assert mean[1] != 0


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0, 4)])
def test_empty_batches(shape):
    x = torch.randn(shape, requires_grad=True)
    weight = torch.ones(shape[1], requires_grad=True)
    mean, variance = torch.zeros(shape[1]), torch.ones(shape[1])
    y = batch_norm(x, mean, variance, weight, training=True)
    assert y.shape == x.shape
    dx, dweight = torch.autograd.grad(y.sum(), (x, weight), create_graph=True)
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros(shape[1]))
    assert torch.equal(mean, torch.zeros(shape[1]))
    assert torch.equal(variance, torch.ones(shape[1]))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel(shape):
    mean, variance = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        batch_norm(torch.ones(shape), mean, variance, training=True)
    assert torch.equal(mean, torch.zeros(3))
    assert batch_norm(torch.ones(shape), mean, variance).shape == shape


def test_statistics_that_cannot_be():
    for mean, variance, name in ((0.0, -1.0, "variance"), (float("inf"), 1.0, "mean")):
        with pytest.raises(ValueError, match=name):
            batch_norm(torch.ones(2, 3), torch.full((3,), mean), torch.full((3,), variance))


WRONG = {
    "no statistics": lambda f: f(torch.ones(2, 3), None, None),
    "sizes": lambda f: f(torch.ones(2, 3), torch.ones(4), torch.ones(4)),
    "weight": lambda f: f(torch.ones(2, 3), torch.ones(3), torch.ones(3), torch.ones(2)),
    "mixed dtypes": lambda f: f(torch.ones(2, 3), None, None, torch.ones(3).double(), training=True),
    "integers": lambda f: f(torch.ones(2, 3, dtype=torch.int64), None, None, training=True),
    "one dimension": lambda f: f(torch.ones(3), None, None, training=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_pytorchs_errors_are_ours(name):
    with pytest.raises((RuntimeError, ValueError, NotImplementedError, IndexError)) as theirs:
        WRONG[name](THEIRS)
    with pytest.raises(theirs.type) as ours:
        WRONG[name](batch_norm)
    assert str(ours.value) == str(theirs.value)


def test_other_devices_go_to_pytorch():
    on_meta = torch.empty(6, 3, device="meta")
    assert batch_norm(on_meta, None, None, training=True).device.type == "meta"


def test_functional_transforms_go_to_pytorch():
    torch.manual_seed(7)
    x, direction = torch.randn(2, 5, 3, dtype=torch.float64)

    def ours(x):
        return batch_norm(x, None, None, training=True)

    def theirs(x):
        return THEIRS(x, None, None, training=True)

    for transform in (
        lambda f: torch.func.jvp(f, (x,), (direction,))[1],
        lambda f: torch.func.jacrev(f)(x),
        lambda f: torch.func.vmap(f)(torch.stack([x, direction])),
        lambda f: torch.func.grad(lambda x: (f(x) ** 3).sum())(x),
    ):
        assert_close(transform(ours), transform(theirs))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangents = [torch.autograd.forward_ad.unpack_dual(f(dual)).tangent for f in (ours, theirs)]
    assert_close(*tangents)


def test_views_that_are_conjugated_or_negated():
    z = torch.randn(6, 3, dtype=torch.complex64)
    x = z.conj().imag
    assert x.is_neg()
    assert_close(
        batch_norm(x, None, None, training=True), THEIRS(-z.imag.clone(), None, None, training=True), torch.float32
    )


def test_inference_mode_and_no_grad():
    x = torch.randn(5, 3, requires_grad=True)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert not batch_norm(x, None, None, training=True).requires_grad


def test_buffers_changed_between_forward_and_backward_change_no_gradient():
    x = torch.randn(5, 3, requires_grad=True)
    mean, variance = torch.zeros(3), torch.full((3,), 4.0)
    y = batch_norm(x, mean, variance)
    variance.mul_(2)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5, 3), 4.00001**-0.5))
