"""exactnorm.torch.enable: torch.nn's own calls, computed by the library, beside PyTorch and beside exactnorm.torch."""

import copy
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional

import exactnorm
import exactnorm.torch
from exactnorm import _core

LAYOUTS = {
    "nc": lambda: torch.randn(13, 5),
    "transposed": lambda: torch.randn(5, 13).T,
    "ncl": lambda: torch.randn(4, 5, 9),
    "nchw": lambda: torch.randn(4, 5, 6, 7),
    "channels last": lambda: torch.randn(4, 5, 6, 7).contiguous(memory_format=torch.channels_last),
    "(h, w, c, m)": lambda: torch.randn(6, 7, 5, 4).permute(3, 2, 0, 1),
    "every second": lambda: torch.randn(8, 5, 6, 14)[::2, :, :, ::2],
    "expanded": lambda: torch.randn(4, 5, 1, 7).expand(4, 5, 6, 7),
    "one pixel": lambda: torch.randn(4, 5, 1, 1).contiguous(memory_format=torch.channels_last),
    "one channel": lambda: torch.randn(4, 1, 6, 7).contiguous(memory_format=torch.channels_last),
    "one row": lambda: torch.randn(1, 5, 1, 7).contiguous(memory_format=torch.channels_last),
    "ncdhw": lambda: torch.randn(2, 5, 3, 4, 6),
    "channels last 3d": lambda: torch.randn(2, 5, 3, 4, 6).contiguous(memory_format=torch.channels_last_3d),
    "6 axes": lambda: torch.randn(2, 3, 2, 3, 2, 2),
}


@pytest.fixture(autouse=True)
def put_back():
    before = exactnorm.torch.is_enabled()
    yield
    exactnorm.torch.enable() if before else exactnorm.torch.disable()


def calls():
    """What was computed here, and what was passed on, since the last call."""
    computed, passed = _core.torch_calls()
    before = calls.before
    calls.before = (computed, passed)
    return computed - before[0], passed - before[1]


calls.before = (0, 0)


def step(function, x, training, *, affine=True, track=True, dtype=None):
    """y, gradients and running statistics of a batch normalization of x."""
    torch.manual_seed(1)
    channels = x.shape[1]
    x = x.detach().requires_grad_()
    weight, bias = (torch.randn(channels, dtype=dtype or x.dtype, requires_grad=True) for _ in range(2))
    mean = torch.randn(channels, dtype=dtype or x.dtype) if track else None
    variance = torch.rand(channels, dtype=dtype or x.dtype) + 0.5 if track else None
    y = function(x, mean, variance, weight if affine else None, bias if affine else None, training, 0.3, 1e-3)
    y.backward(torch.randn(x.shape).to(x.dtype))
    results = [y.detach(), x.grad]
    if affine:
        results += [weight.grad, bias.grad]
    if track:
        results += [mean, variance]
    return results


def enabled(function):
    def call(*arguments, **keywords):
        with exactnorm.torch.enable():
            return function(*arguments, **keywords)

    return call


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("affine", "track"), [(True, True), (False, True), (True, False), (False, False)])
def test_bits_are_those_of_exactnorm_and_strides_those_of_pytorch(layout, dtype, training, affine, track):
    torch.manual_seed(0)
    x = LAYOUTS[layout]().to(dtype)
    if not training and not track:
        return
    exactnorm.torch.enable()
    calls()
    ours = step(functional.batch_norm, x, training, affine=affine, track=track)
    assert calls() == (2, 0)
    exactnorm.torch.disable()
    right = step(exactnorm.torch.functional.batch_norm, x, training, affine=affine, track=track)
    theirs = step(functional.batch_norm, x, training, affine=affine, track=track)
    for one, other, peer in zip(ours, right, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == peer.stride()
        torch.testing.assert_close(one, peer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["nc", "nchw", "channels last", "every second"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_parameters", [torch.float32, None])
@pytest.mark.parametrize("training", [True, False])
def test_16_bits_are_those_of_the_library(layout, dtype, of_parameters, training):
    torch.manual_seed(0)
    x = LAYOUTS[layout]().to(dtype)
    exactnorm.torch.enable()
    calls()
    y, dx, dweight, dbias, mean, variance = step(functional.batch_norm, x, training, dtype=of_parameters)
    assert calls() == (2, 0)
    exactnorm.torch.disable()
    theirs = step(functional.batch_norm, x, training, dtype=of_parameters)
    for one, peer in zip((y, dx, dweight, dbias, mean, variance), theirs, strict=True):
        assert one.dtype == peer.dtype
        torch.testing.assert_close(one, peer, rtol=5e-2, atol=5e-2)
    # By the NumPy functions, of the same parameters.
    torch.manual_seed(1)
    weight, bias = (torch.randn(x.shape[1], dtype=of_parameters or dtype) for _ in range(2))
    old_mean = torch.randn(x.shape[1], dtype=of_parameters or dtype)
    old_variance = torch.rand(x.shape[1], dtype=of_parameters or dtype) + 0.5
    dy = torch.randn(x.shape).to(dtype)
    out = torch.empty_like(y)
    if training:
        _, found = exactnorm.batch_norm(x, weight, bias, epsilon=1e-3, out=out, return_statistics=True)
    else:
        found = exactnorm.given_statistics(old_mean, old_variance, epsilon=1e-3)
        exactnorm.batch_norm_inference(x, found, weight, bias, out=out)
    gradient = torch.empty_like(dx)
    _, dgamma, dbeta = exactnorm.batch_norm_backward(dy, x, found, weight, bias, frozen=not training, out=gradient)
    assert torch.equal(y, out)
    assert torch.equal(dx, gradient)
    assert torch.equal(dweight, torch.from_numpy(dgamma).to(dweight.dtype))
    assert torch.equal(dbias, torch.from_numpy(dbeta).to(dbias.dtype))


def test_pytorch_computes_again_where_it_is_not_enabled():
    """In a process of its own, which has PyTorch's results from before; and nothing is said on import or later."""
    program = """
import torch, sys
from torch.nn import functional
def results():
    torch.manual_seed(0)
    module = torch.nn.BatchNorm2d(7)
    x = torch.randn(8, 7, 9, 5).add(100).requires_grad_()
    y = module(x)
    y.backward(torch.randn(8, 7, 9, 5))
    module.eval()
    return [y, x.grad, module.weight.grad, module.running_var.clone(), module(x)]
before = results()
import exactnorm.torch
exactnorm.torch.enable()
ours = results()
exactnorm.torch.disable()
after = results()
assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
assert not torch.equal(before[0], ours[0])
with exactnorm.torch.enable():
    assert exactnorm.torch.is_enabled()
    with exactnorm.torch.enable():
        pass
    assert exactnorm.torch.is_enabled()
    assert all(torch.equal(a, b) for a, b in zip(results(), ours, strict=True))
assert not exactnorm.torch.is_enabled()
print("done")
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_call_that_was_begun_here_ends_here():
    x = torch.randn(6, 3, 5, requires_grad=True)
    dy = torch.randn(6, 3, 5)
    exactnorm.torch.enable()
    torch.nn.BatchNorm1d(3)(x).backward(dy)
    expected, x.grad = x.grad, None
    y = torch.nn.BatchNorm1d(3)(x)
    exactnorm.torch.disable()
    y.backward(dy)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", ["save_on_cpu", "reentrant", "not reentrant"])
def test_saved_tensors_that_are_copies_or_made_again(name):
    x = torch.randn(6, 3, 5, requires_grad=True)
    dy = torch.randn(6, 3, 5)
    exactnorm.torch.enable()
    module = torch.nn.BatchNorm1d(3)
    module(x).backward(dy)
    expected, x.grad = x.grad, None
    if name == "save_on_cpu":
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
            y = module(x)
    else:
        y = torch.utils.checkpoint.checkpoint(module, x, use_reentrant=name == "reentrant")
    calls()
    y.backward(dy)
    assert calls()[1] == 0
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("training", [True, False])
def test_derivatives(training):
    exactnorm.torch.enable()
    torch.manual_seed(2)
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    running = (torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))

    def function(x, weight, bias):
        return functional.batch_norm(x, *(None, None) if training else running, weight, bias, training)

    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradgradcheck(function, (x, weight, bias))


def test_transforms_and_programs():
    """Each beside torch.nn's, near to it, and with the library's bits where a plain call has them."""
    torch.manual_seed(3)
    x = torch.randn(4, 6, 5, 5)
    module = torch.nn.BatchNorm2d(5)
    x = torch.randn(6, 5, 4, 4)
    loss = lambda x: functional.batch_norm(x, None, None, training=True).pow(3).sum()  # noqa: E731
    programs = {
        "vmap": lambda: torch.vmap(lambda x: functional.batch_norm(x, None, None, training=True))(torch.stack([x, 2 * x])),
        "grad": lambda: torch.func.grad(loss)(x),
        "jvp": lambda: torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1],
        "instance_norm": lambda: functional.instance_norm(x),
        "scripted": lambda: torch.jit.script(copy.deepcopy(module))(x),
        "traced": lambda: torch.jit.trace(copy.deepcopy(module), x)(x),
        "exported": lambda: torch.export.export(copy.deepcopy(module).eval(), (x,)).module()(x),
        "functional_call": lambda: torch.func.functional_call(copy.deepcopy(module), {}, (x,)),
        "inference_mode": lambda: torch.inference_mode()(copy.deepcopy(module))(x),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        for name, program in programs.items():
            exactnorm.torch.disable()
            theirs = program()
            exactnorm.torch.enable()
            calls()
            ours = program()
            assert calls()[0] > 0, name
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_autocast():
    torch.manual_seed(4)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    x = torch.randn(4, 3, 12, 12)
    with exactnorm.torch.enable(), torch.autocast("cpu", torch.bfloat16):
        calls()
        network(x).float().square().mean().backward()
        assert calls() == (2, 0)
    assert network[1].weight.grad.dtype == torch.float32
    assert torch.isfinite(network[0].weight.grad).all()


def test_threads_and_formats_change_no_bit():
    torch.manual_seed(5)
    x = torch.randn(16, 24, 30, 30).add(1000)
    dy = torch.randn(16, 24, 30, 30)
    exactnorm.torch.enable()
    results = []
    for threads in (1, 2):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            torch.set_num_threads(threads)
            leaf = x.clone(memory_format=memory_format).requires_grad_()
            module = torch.nn.BatchNorm2d(24)
            y = module(leaf)
            y.backward(dy)
            results.append([y.detach(), leaf.grad, module.weight.grad, module.running_var])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


def test_networks_in_several_threads():
    exactnorm.torch.enable()
    torch.manual_seed(6)
    x, dy = torch.randn(2, 32, 10, 6)
    problems = []

    def train():
        module = torch.nn.BatchNorm1d(10)
        for _ in range(100):
            leaf = x.clone().requires_grad_()
            module(leaf).backward(dy)
            results.append(leaf.grad)
        problems.append(module.running_mean.clone())

    results = []
    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        exactnorm.torch.disable()
        exactnorm.torch.enable()
    for thread in threads:
        thread.join()
    exactnorm.torch.enable()
    expected = x.clone().requires_grad_()
    torch.nn.BatchNorm1d(10)(expected).backward(dy)
    assert len(results) == 400
    for result in results:
        torch.testing.assert_close(result, expected.grad, rtol=1e-4, atol=1e-5)


def test_a_forked_child_computes():
    exactnorm.torch.enable()
    x = torch.randn(64, 32, 20, 20)
    expected = functional.batch_norm(x, None, None, training=True).numpy()
    child = os.fork()
    if child == 0:  # where PyTorch's own loops over large tensors would wait for threads that are not there
        os._exit(0 if np.array_equal(functional.batch_norm(x, None, None, training=True).numpy(), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_refused_is_pytorchs():
    """Its words for what it refuses, and its answers to what the library has none for."""
    x = torch.randn(4, 3)
    cases = {
        "one value": lambda: functional.batch_norm(torch.randn(1, 3), None, None, training=True),
        "no statistics": lambda: functional.batch_norm(x, None, None),
        "weight of another size": lambda: functional.batch_norm(x, None, None, torch.ones(2), training=True),
        "weight of another dtype": lambda: functional.batch_norm(x, None, None, torch.ones(3).double(), training=True),
        "integers": lambda: functional.batch_norm(torch.ones(4, 3, dtype=torch.int32), None, None, training=True),
        "one axis": lambda: torch.native_batch_norm(torch.ones(4), None, None, None, None, True, 0.1, 1e-5),
    }
    for name, case in cases.items():
        found = []
        for switch in (exactnorm.torch.disable, exactnorm.torch.enable):
            switch()
            with pytest.raises(Exception) as raised:
                case()
            found.append((type(raised.value), str(raised.value)))
        assert found[0] == found[1], name
    answers = {
        "a negative variance": lambda: functional.batch_norm(x, torch.zeros(3), torch.tensor([1.0, -1.0, 2.0])),
        "no element": lambda: functional.batch_norm(torch.randn(0, 3), torch.zeros(3), torch.ones(3)),
        "a momentum above 1": lambda: functional.batch_norm(x, torch.zeros(3), torch.ones(3), training=True, momentum=1.5),
    }
    for name, answer in answers.items():
        exactnorm.torch.disable()
        theirs = answer()
        exactnorm.torch.enable()
        assert torch.equal(answer(), theirs) or torch.isnan(theirs).any(), name
        np.testing.assert_array_equal(answer().numpy(), theirs.numpy())


def test_channels_with_nan_keep_their_running_statistics():
    exactnorm.torch.enable()
    module = torch.nn.BatchNorm1d(2)
    x = torch.randn(8, 2)
    x[3, 1] = float("nan")
    y = module(x)
    assert torch.isnan(y[:, 1]).all()
    assert torch.isfinite(y[:, 0]).all()
    assert module.running_mean[1] == 0
    assert module.running_var[1] == 1
    assert module.running_mean[0] != 0


@pytest.mark.parametrize("layout", ["nchw", "channels last", "(h, w, c, m)", "every second", "expanded"])
def test_a_converted_module_makes_one_marked_call(layout):
    """Which has the function's bits and layout, whatever else is enabled, and leaves torch.nn's modules alone."""
    torch.manual_seed(8)
    x = LAYOUTS[layout]()
    results = []
    for switch in (exactnorm.torch.disable, exactnorm.torch.enable):
        switch()
        module = exactnorm.torch.BatchNorm2d(5)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        calls()
        y = module(leaf)
        y.backward(torch.cos(x))
        assert calls() == (2, 0)
        results.append([y.detach(), leaf.grad, module.weight.grad, module.running_var, module.num_batches_tracked])
    exactnorm.torch.disable()
    mean, variance = torch.zeros(5), torch.ones(5)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = exactnorm.torch.functional.batch_norm(leaf, mean, variance, torch.ones(5), torch.zeros(5), training=True)
    y.backward(torch.cos(x))
    for result in results:
        assert torch.equal(result[0], y)
        assert result[0].stride() == y.stride()
        assert torch.equal(result[1], leaf.grad)
        assert result[1].stride() == leaf.grad.stride()
        assert torch.equal(result[3], variance)
        assert result[4] == 1
    calls()
    torch.nn.BatchNorm2d(5)(x)
    assert calls() == (0, 1)


def test_a_mark_does_not_outlive_its_call():
    x = torch.randn(6, 3)
    exactnorm.torch.convert(torch.nn.BatchNorm1d(3))(x)
    marked_call = _core.torch_marked_call()
    rest = (None, None, None, None, True, 0.1, 1e-5)
    assert marked_call(0, 0, 0.0, torch.native_batch_norm, x.int(), *rest) is None  # declined
    with pytest.raises(TypeError):
        marked_call(0, 0, 0.0, torch.native_batch_norm, "x")
    with pytest.raises(TypeError, match="expected a counter's address, an activation, its slope and a function"):
        marked_call(0)
    with pytest.raises(TypeError, match="expected a tuple of tensors"):
        marked_call(0, 0, 0.0, len, [1, 2])
    # Whatever computes a call with an activation but the kernel leaves the activation out.
    assert marked_call(0, 1, 0.0, lambda: (x,)) is None
    calls()
    functional.batch_norm(x, None, None, training=True)
    assert calls() == (0, 1)


def test_without_replaced_kernels_modules_do_the_same(monkeypatch):
    """As before PyTorch 2.10."""
    from exactnorm.torch import _enable, _marked

    torch.manual_seed(9)
    x = torch.randn(6, 3)
    results = []
    for refused in (False, True):
        _enable.uninstall()
        monkeypatch.setattr(_marked, "_is_refused", refused)
        module = exactnorm.torch.BatchNorm1d(3)
        leaf = x.clone().requires_grad_()
        module(leaf).backward(x)
        results.append([leaf.grad, module.weight.grad, *module.buffers()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_kernels_that_are_put_back_are_pytorchs():
    from exactnorm.torch import _enable

    torch.manual_seed(11)
    x = 1e4 + torch.randn(64, 3)  # where the results differ
    exactnorm.torch.enable()
    computed = functional.batch_norm(x, None, None, training=True)
    exactnorm.torch.disable()
    passed_on = functional.batch_norm(x, None, None, training=True)
    calls()
    for _ in range(2):
        _enable.uninstall()
        y = functional.batch_norm(x.requires_grad_(), None, None, training=True)
        y.sum().backward()
        assert torch.equal(y, passed_on) and not torch.equal(y, computed)
        assert calls() == (0, 0)
        module = exactnorm.torch.BatchNorm1d(3)  # installs them again
        assert torch.equal(module(x), computed)
        assert calls() == (1, 0)
        with exactnorm.torch.enable():
            assert torch.equal(functional.batch_norm(x, None, None, training=True), computed)
        assert calls() == (1, 0)


def test_evaluation_without_gradients_is_a_marked_call():
    torch.manual_seed(10)
    module = exactnorm.torch.BatchNorm2d(5).eval()
    module.running_mean.normal_()
    x = torch.randn(4, 5, 3, 3)
    expected = module(x)  # parameters require gradients: not this one
    calls()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(module(x), expected)
    assert calls() == (2, 0)
    module.running_var[3] = -1
    with torch.no_grad(), pytest.raises(ValueError, match="variance: is -1 in channel 3"):
        module(x)
    with torch.no_grad():
        module.running_var[3] = 1
        assert torch.isfinite(module(x)).all()
