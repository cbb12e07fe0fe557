"""exactnorm.torch where tensors are not plain ones, and where PyTorch is in another mode: beside torch.nn."""

from __future__ import annotations

import copy
import io

import exactnorm.torch
import pytest
import torch
from exactnorm.torch.functional import batch_norm
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.testing._internal.two_tensor import TwoTensor

THEIRS = torch.nn.functional.batch_norm


def both(training=True, channels=3, **options):
    """Ours and torch.nn's, with the same random state."""
    torch.manual_seed(1)
    theirs = nn.BatchNorm1d(channels, **options)
    with torch.no_grad():
        for tensor in (*theirs.parameters(), *theirs.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(channels) + 0.5)
    return exactnorm.torch.convert(copy.deepcopy(theirs)).train(training), theirs.train(training)


def step(layer, x):
    """Output, gradients and buffers."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    (y**3).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.fixture(scope="module")
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_dtensors_go_to_pytorch(mesh, training, placement, compiled):
    x = torch.randn(6, 3)
    try:
        distribute_module(torch.nn.BatchNorm1d(3), mesh)(distribute_tensor(x, mesh, [placement]))
    except NotImplementedError:
        pytest.skip("this PyTorch cannot normalize a DTensor itself")
    results = []
    for layer in both(training):
        call = layer = distribute_module(layer, mesh)
        if compiled:
            call = torch.compile(lambda x, layer=layer: layer(x), backend="aot_eager", fullgraph=True)
        leaf = distribute_tensor(x, mesh, [placement]).requires_grad_()
        y = call(leaf)
        (y**3).sum().backward()
        assert isinstance(y, DTensor)
        gradients = [leaf.grad, *(p.grad for p in layer.parameters())]
        results.append([tensor.full_tensor() for tensor in (y.detach(), *gradients, *layer.buffers())])
    torch._dynamo.reset()
    assert_close(*results)


def test_dtensors_beside_plain_tensors(mesh):
    """The input alone, or the parameters alone: what PyTorch does, and its error where it refuses."""
    x = torch.randn(6, 3)
    for distribute_layer in (True, False):
        outcomes = []
        for layer in both():
            layer = distribute_module(layer, mesh) if distribute_layer else layer
            try:
                layer(x if distribute_layer else distribute_tensor(x, mesh, [Replicate()]))
            except (RuntimeError, NotImplementedError) as error:
                outcomes.append((type(error), str(error)))
        assert len(outcomes) in (0, 2)
        assert outcomes[:1] == outcomes[1:]


def test_gradients_that_are_dtensors(mesh):
    for layer in both():
        y = layer(torch.randn(6, 3, requires_grad=True))
        with pytest.raises((RuntimeError, NotImplementedError), match="DTensor"):
            y.backward(distribute_tensor(torch.ones(6, 3), mesh, [Replicate()]))


@pytest.mark.parametrize("training", [True, False])
def test_wrappers_of_several_tensors_go_to_pytorch(training):
    first, second = torch.randn(2, 6, 3)
    results = []
    for layer in both(training, track_running_stats=not training):
        leaf = TwoTensor(first.clone(), second.clone()).requires_grad_()
        y = layer(leaf)
        (y**3).sum().backward()
        results.append([y.a, y.b, leaf.grad.a, leaf.grad.b])
    assert_close(*results)


class Named(torch.Tensor):
    """A plain tensor with another name."""


@pytest.mark.parametrize("training", [True, False])
def test_plain_subclasses_are_computed_here(training):
    x = torch.randn(6, 3) + 1000
    ours, _ = both(training)
    expected = step(copy.deepcopy(ours), x)
    leaf = x.as_subclass(Named).requires_grad_()
    y = ours(leaf)
    (y**3).sum().backward()
    assert type(y) is Named
    for mine, other in zip((y.detach(), leaf.grad, *ours.buffers()), [*expected[:2], *expected[4:]], strict=True):
        assert torch.equal(mine.as_subclass(torch.Tensor), other)


@pytest.mark.parametrize("training", [True, False])
def test_fake_tensors(training):
    with FakeTensorMode():
        layer = exactnorm.torch.BatchNorm1d(3).train(training)
        y = layer(torch.empty_strided((6, 3), (1, 6)))
        y.sum().backward()
    assert y.shape == (6, 3)
    assert y.stride() == (1, 6)
    assert layer.weight.grad.shape == (3,)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_without_gradients(mode, training):
    x = torch.randn(6, 3)
    ours, theirs = both(training)
    expected = copy.deepcopy(ours)
    normalized = expected(x)
    with mode():
        results = [layer(x) for layer in (ours, theirs)]
    assert torch.equal(results[0], normalized)
    assert results[0].is_inference() == results[1].is_inference()
    assert_close(*results)
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), expected.buffers(), strict=True))
    assert_close(list(ours.buffers()), list(theirs.buffers()))


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        x = torch.randn(6, 3)
        made_there = both(False)[0]
    for layer in both():
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            layer(x)
    leaf = torch.randn(6, 3, requires_grad=True)
    mean, variance = made_there.running_mean, made_there.running_var
    batch_norm(leaf, mean, variance).sum().backward()  # torch.nn refuses, as it saves the buffers
    torch.testing.assert_close(leaf.grad, (variance + 1e-5).rsqrt().expand(6, 3))
    batch_norm(torch.randn(6, 3), mean, variance, training=True)
    assert not torch.equal(mean, both()[0].running_mean)


@pytest.mark.parametrize("training", [True, False])
def test_autocast(training):
    x = torch.randn(6, 3)
    ours, theirs = both(training)
    expected = step(copy.deepcopy(ours), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(step(ours, x), expected, strict=True))
        torch.manual_seed(2)
        linear = nn.Linear(3, 3)
        results = [layer(linear(x)) for layer in (copy.deepcopy(theirs), exactnorm.torch.convert(theirs))]
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_functional_call(training, affine):
    x = torch.randn(6, 3)
    results = []
    for layer in both(training, affine=affine):
        state = {key: tensor.detach().clone() * 2 for key, tensor in layer.state_dict().items()}
        before = copy.deepcopy(layer.state_dict())
        parameters = [state[key].requires_grad_() for key, _ in layer.named_parameters()]
        leaf = x.clone().requires_grad_()
        y = torch.func.functional_call(layer, state, (leaf,))
        (y**3).sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad for p in parameters), *(t.detach() for t in state.values())])
        assert all(torch.equal(before[key], tensor) for key, tensor in layer.state_dict().items())
    assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
def test_deepcopy_between_forward_and_backward(training):
    x = torch.randn(6, 3)
    ours, _ = both(training)
    expected = step(copy.deepcopy(ours), x)
    leaf = x.clone().requires_grad_()
    y = ours(leaf)
    other = copy.deepcopy(ours)
    other(x * 7)
    (y**3).sum().backward()
    assert torch.equal(leaf.grad, expected[1])
    assert other.num_batches_tracked == ours.num_batches_tracked + training


@pytest.mark.parametrize("training", [True, False])
def test_hooks_of_saved_tensors(training):
    x = torch.randn(6, 3)
    ours, _ = both(training)
    expected = step(copy.deepcopy(ours), x)
    for hooks in (save_on_cpu(), saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t)):
        with hooks:
            results = step(copy.deepcopy(ours), x)
        assert all(torch.equal(mine, other) for mine, other in zip(results, expected, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_hooks_of_modules_and_tensors(training):
    x = torch.randn(6, 3)
    seen = []
    for layer in both(training):
        layer.register_full_backward_hook(lambda _, of_inputs, of_outputs: seen.append((*of_inputs, *of_outputs)))
        layer.register_full_backward_pre_hook(lambda _, of_outputs: (of_outputs[0] * 2,))
        layer.register_forward_hook(lambda _, inputs, output: output * 3)
        layer.weight.register_hook(lambda g: g * 5)
        seen.append(tuple(step(layer, x)))
    assert_close(seen[:2], seen[2:])


def test_gradients_that_are_undefined_stay_so():
    class Ends(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return None

    for training in (True, False):
        for layer in both(training):
            leaf = torch.randn(6, 3, requires_grad=True)
            Ends.apply(layer(leaf)).sum().backward()
            assert leaf.grad is None
            assert layer.weight.grad is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given", ["weight", "bias"])
def test_one_parameter_of_two(given, training):
    x = torch.randn(6, 3)
    results = []
    for all_parameters in (False, True):
        torch.manual_seed(6)
        leaf, parameter = x.clone().requires_grad_(), torch.randn(3, requires_grad=True)
        parameters = {"weight": torch.ones(3), "bias": torch.zeros(3)} if all_parameters else {}
        parameters[given] = parameter
        # PyTorch's second derivative fails without a weight: its function is given both.
        function = THEIRS if all_parameters else batch_norm
        y = function(leaf, torch.zeros(3), torch.ones(3), training=training, **parameters)
        (dx, dp) = torch.autograd.grad((y**3).sum(), (leaf, parameter), create_graph=True)
        results.append([y, dx, dp, *torch.autograd.grad(dx.square().sum() + dp.sum(), (leaf, parameter))])
    assert_close(*results)


VIEWS = {
    "expanded": lambda x: x[:1, :, :1].expand(6, 3, 4),
    "one sample for all": lambda x: x[:1].expand(6, 3, 4),
    "reversed": lambda x: x.flip(0),
    "every other": lambda x: x.repeat(2, 1, 2)[::2, :, ::2],
    "negated": lambda x: torch._neg_view(x),
    "imaginary part of a conjugate": lambda x: torch.complex(x, x).conj().imag,
    "all zero": lambda x: torch._efficientzerotensor(x.shape),
}


@pytest.mark.parametrize("of_gradient", VIEWS)
@pytest.mark.parametrize("of_input", VIEWS)
def test_views_of_inputs_and_gradients(of_input, of_gradient):
    x, dy = torch.randn(2, 6, 3, 4)
    for training in (True, False):
        results = []
        for layer in both(training, eps=0.1):
            leaf = x.clone().requires_grad_()
            y = layer(VIEWS[of_input](leaf))
            inputs = (leaf, *layer.parameters())
            results.append([y.detach(), *torch.autograd.grad(y, inputs, VIEWS[of_gradient](dy), allow_unused=True)])
        if of_input == "all zero":  # which is no view of the leaf
            assert results[0][1] is None
            del results[0][1], results[1][1]
        assert_close(*results)


def test_tensors_changed_between_forward_and_backward_are_noticed():
    for change in ("input", "weight"):
        for layer in both():
            x = torch.randn(6, 3, requires_grad=True) * 1
            y = layer(x)
            with torch.no_grad():
                (x if change == "input" else layer.weight).mul_(2)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()


@pytest.mark.parametrize("track", [exactnorm.torch.BatchNorm1d, exactnorm.torch.SyncBatchNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluation_before_training(track, dtype):
    """The gradient of an evaluation is of the statistics that it has used."""
    layer = track(2, dtype=dtype)
    layer.running_var.copy_(torch.tensor([4.0, 9.0]))
    x = torch.randn(5, 2, dtype=dtype, requires_grad=True)
    y = layer.eval()(x)
    layer.train()(torch.randn(5, 2, dtype=dtype) * 20)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    expected = torch.tensor([(4 + 1e-5) ** -0.5, (9 + 1e-5) ** -0.5], dtype=dtype).expand(5, 2)
    torch.testing.assert_close(dx, expected)
    layer.eval()
    u = torch.randn(5, 2, dtype=dtype, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, u, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(dx.sum(), u)[0], expected)


class _Functional(torch.nn.Module):
    """The function on a module's buffers."""

    def __init__(self, channels):
        super().__init__()
        self.running_mean, self.running_var = torch.zeros(channels), torch.ones(channels)

    def forward(self, x):
        return exactnorm.torch.functional.batch_norm(x, self.running_mean, self.running_var, training=True)


@pytest.mark.parametrize("track", [exactnorm.torch.BatchNorm1d, exactnorm.torch.SyncBatchNorm])
@pytest.mark.parametrize("buffer", ["running_mean", "running_var", "num_batches_tracked"])
@pytest.mark.parametrize("compiled", [False, True])
def test_graphs_that_have_saved_buffers_notice_training(track, buffer, compiled):
    if track is exactnorm.torch.BatchNorm1d and not compiled and buffer != "num_batches_tracked":
        # PyTorch's operator, by which a module trains, says nothing; the function does.
        track = lambda channels: _Functional(channels)  # noqa: E731
    layer = track(3)
    w = torch.ones(3, requires_grad=True)
    loss = (w * getattr(layer, buffer)).sum()
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    call(torch.randn(6, 3))
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_that_require_gradients(training):
    for name in (0, 1):
        buffers = [torch.zeros(3), torch.ones(3)]
        buffers[name].requires_grad_()
        x = torch.randn(6, 3, requires_grad=True)
        with pytest.raises(RuntimeError) as theirs:
            THEIRS(x, *buffers, training=training)
        with pytest.raises(RuntimeError) as ours:
            batch_norm(x, *buffers, training=training)
        assert str(ours.value) == str(theirs.value)
        assert "not differentiable with respect to argument" in str(ours.value)


@pytest.mark.parametrize("training", [True, False])
def test_no_momentum_without_a_counter_is_an_error(training):
    mean, variance = torch.zeros(3), torch.ones(3)
    for function in (THEIRS, batch_norm):
        with pytest.raises(TypeError, match="argument 'momentum' .* must be float, not NoneType"):
            function(torch.randn(6, 3), mean, variance, training=training, momentum=None)
    assert torch.equal(mean, torch.zeros(3))


def saved(layer, x, training):
    """A program of torch.export, written and read again."""
    program = torch.export.export(layer.train(training), (x,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("training", [True, False])
def test_saved_programs(training):
    x = torch.randn(6, 3)
    ours, _ = both()
    again = saved(copy.deepcopy(ours), x, training)
    for _ in range(2):
        expected = step(ours.train(training), x)
        results = step(again, x)
        assert all(torch.equal(mine, other) for mine, other in zip(results[:2], expected[:2], strict=True))
        assert int(again.num_batches_tracked) == int(ours.num_batches_tracked)
        assert torch.equal(again.running_var, ours.running_var)


PROGRAM_TRANSFORMS = {
    "grad": lambda f, x, v: torch.func.grad(lambda x: (f(x) ** 3).sum())(x),
    "vmap": lambda f, x, v: torch.func.vmap(f)(torch.stack([x, v])),
    "vmap of grad": lambda f, x, v: torch.func.vmap(torch.func.grad(lambda x: (f(x) ** 3).sum()))(torch.stack([x, v])),
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,)),
    "jacrev": lambda f, x, v: torch.func.jacrev(f)(x),
    "hessian": lambda f, x, v: torch.func.hessian(lambda x: (f(x) ** 3).sum())(x),
}


@pytest.mark.parametrize("transform", PROGRAM_TRANSFORMS)
@pytest.mark.parametrize("training", [True, False])
def test_transforms_of_saved_programs(transform, training):
    x, v = torch.randn(2, 6, 3)
    ours, theirs = both(training, track_running_stats=not training)
    program = saved(ours, x, training)
    assert_close(PROGRAM_TRANSFORMS[transform](program, x, v), PROGRAM_TRANSFORMS[transform](theirs, x, v))


def test_what_the_documentation_says_of_torch_nn():
    """Its buffers change without a trace, and the gradient of an evaluation is of the buffers that are there later."""
    layer = nn.BatchNorm1d(2).eval()
    x, w = torch.randn(5, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    y, loss = layer(x), (w * layer.running_var).sum()
    layer.train()(torch.randn(5, 2) * 20)
    (y.sum() + loss).backward()
    torch.testing.assert_close(x.grad, (layer.running_var + 1e-5).rsqrt().expand(5, 2))
    assert torch.equal(w.grad, layer.running_var)
    assert not torch.equal(w.grad, torch.ones(2))


def test_a_training_step_within_a_backward_pass_is_taken_for_a_recomputation():
    layer, other = both()[0], both()[0]
    x = torch.randn(6, 3, requires_grad=True)
    y = layer(x)

    def train(_):
        other(torch.randn(6, 3))

    y.register_hook(train)
    y.sum().backward()
    assert (int(layer.num_batches_tracked), int(other.num_batches_tracked)) == (1, 0)
