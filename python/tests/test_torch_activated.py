"""BatchNormAct: beside the operations one after the other, and what other programs ask of a module."""

import copy
import pickle

import exactnorm.torch
import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

ACTIVATIONS = {
    "none": lambda y: y,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "silu": functional.silu,
    "hard_swish": functional.hardswish,
}
SHAPES = {1: (9, 4), 2: (6, 4, 5, 7), 3: (3, 4, 2, 5, 3)}


def layer(dimensions, activation="relu", **options):
    torch.manual_seed(7)
    module = getattr(exactnorm.torch, f"BatchNormAct{dimensions}d")(4, activation=activation, slope=0.2, **options)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.running_mean):
            if tensor is not None:
                tensor.normal_()
    return module


def separate(module):
    """torch.nn's module of the same state, the operations behind it."""
    theirs = getattr(torch.nn, type(module).__name__.replace("Act", ""))(
        4, module.eps, module.momentum, module.affine, module.track_running_stats, dtype=module.weight.dtype
    )
    theirs.load_state_dict(module.state_dict())
    theirs.train(module.training)

    def call(x, residual=None):
        y = theirs(x)
        return ACTIVATIONS[module.activation](y if residual is None else y + residual)

    return call, theirs


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_values_and_gradients_are_those_of_the_operations(dimensions, activation, with_residual, training):
    module = layer(dimensions, activation, dtype=torch.float64).train(training)
    call, theirs = separate(module)
    leaves = [torch.randn(SHAPES[dimensions], dtype=torch.float64) for _ in range(2 if with_residual else 1)]
    ours, right = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    y, expected = module(*ours), call(*right)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    for one, other in zip([*ours, *module.parameters()], [*right, *theirs.parameters()], strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-11)
    for one, other in zip(module.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bits_are_those_of_exactnorms_own_module(memory_format):
    module = layer(2)
    plain = exactnorm.torch.BatchNorm2d(4)
    plain.load_state_dict(module.state_dict())
    x, residual, dy = (torch.randn(16, 4, 9, 9).add(100).contiguous(memory_format=memory_format) for _ in range(3))
    leaves = [[tensor.clone().requires_grad_() for tensor in (x, residual)] for _ in range(2)]
    y = module(*leaves[0])
    right = functional.relu(plain(leaves[1][0]) + leaves[1][1])
    assert torch.equal(y, right)
    assert y.stride() == x.stride()
    y.backward(dy)
    right.backward(dy)
    for one, other in zip(*leaves, strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(module.weight.grad, plain.weight.grad)
    assert torch.equal(module.running_var, plain.running_var)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_beside_float32_parameters(dtype):
    module = layer(2)
    call, _ = separate(module)
    x, residual, dy = (torch.randn(8, 4, 6, 6).to(dtype) for _ in range(3))
    leaf, right = (x.clone().requires_grad_() for _ in range(2))
    y, expected = module(leaf, residual), call(right, residual)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=3e-2, atol=3e-2)
    y.backward(dy)
    assert leaf.grad.dtype == dtype
    assert module.weight.grad.dtype == torch.float32
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("activation, keeps", [("none", ""), ("relu", "output"), ("relu6", "residual"), ("silu", "residual")])
def test_nothing_is_kept_but_the_input_and_what_tells_the_derivative(activation, keeps):
    module = layer(2, activation)
    x = torch.randn(32, 4, 16, 16, requires_grad=True)
    residual = torch.randn_like(x)
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(x, residual)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()}
    addresses = {"": set(), "output": {output.data_ptr()}, "residual": {residual.data_ptr()}}
    assert large == {x.data_ptr(), *addresses[keeps]}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu", "silu"])
def test_the_gradient_of_a_residual_alone(activation, create_graph):
    module = layer(2, activation).requires_grad_(False)
    x = torch.randn(6, 4, 5, 5)
    residual = torch.randn(6, 4, 5, 5, requires_grad=True)
    cotangent = torch.randn(6, 4, 5, 5)
    (found,) = torch.autograd.grad(module(x, residual), residual, cotangent, create_graph=create_graph)
    y = torch.nn.functional.batch_norm(x, None, None, module.weight, module.bias, True)
    expected = torch.autograd.grad(ACTIVATIONS[activation](y + residual), residual, cotangent)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_output_that_is_overwritten_is_an_error_where_it_is_in_torch_nn(activation):
    outcomes = []
    module = layer(2, activation)
    for call in (module, separate(module)[0]):
        x, residual = (torch.randn(6, 4, 5, 5, requires_grad=True) for _ in range(2))
        y = call(x, residual)
        y.detach().mul_(2)
        try:
            y.sum().backward()
            outcomes.append("right")
        except RuntimeError as error:
            outcomes.append(str(error).partition("modified by an inplace operation")[1])
    assert outcomes[0] == outcomes[1] == ("modified by an inplace operation" if activation == "relu" else "right")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ["silu", "leaky_relu"])
def test_derivatives_of_derivatives(training, activation):
    module = layer(2, activation, dtype=torch.float64).train(training)
    module.running_var.fill_(2.0)
    x, residual = (torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(x, residual, weight, bias):
        buffers = {"running_mean": module.running_mean.clone(), "running_var": module.running_var.clone()}
        return torch.func.functional_call(module, {"weight": weight, "bias": bias, **buffers}, (x, residual))

    inputs = (x, residual, *(parameter.detach().requires_grad_() for parameter in module.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("activation", ["relu", "silu", "leaky_relu"])
def test_derivatives_of_derivatives_in_eager_mode(activation):
    torch.manual_seed(3)
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def penalty(module):
        y = module(x)
        first = torch.autograd.grad(y.pow(3).sum(), [x, *module.parameters()], create_graph=True)
        return torch.autograd.grad(sum(one.pow(2).sum() for one in first), [x, *module.parameters()])

    module = layer(2, activation, dtype=torch.float64)
    call, theirs = separate(module)
    module.twice_differentiable = True
    call.parameters = theirs.parameters
    for one, other in zip(penalty(module), penalty(call), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    module.twice_differentiable = False
    with pytest.raises(RuntimeError, match="twice_differentiable before the forward pass"):
        penalty(module)
    # An ordinary backward pass of the same kind goes on, twice as well.
    module.zero_grad()
    loss = module(x).sum()
    loss.backward(retain_graph=True)
    once = module.weight.grad.clone()
    loss.backward()
    assert torch.equal(module.weight.grad, 2 * once)


@pytest.mark.parametrize("channels", [1, 4])
def test_transforms_of_a_backward_pass_are_right_or_an_error(channels):
    """PyTorch's batching rules and forward mode have formulas of their own for the operator, which know of no activation."""
    torch.manual_seed(5)
    module = exactnorm.torch.BatchNormAct2d(channels, dtype=torch.float64)
    x = torch.randn(3, channels, 5, 2, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(3, *x.shape, dtype=torch.float64)
    output = functional.relu(functional.batch_norm(x, None, None, module.weight, module.bias, training=True))
    expected = [torch.autograd.grad(output, x, vector, retain_graph=True)[0] for vector in vectors]

    def batched(y, function):
        return function(lambda vector: torch.autograd.grad(y, x, vector, retain_graph=True)[0])

    def dual(y):
        with forward_ad.dual_level():
            gradient = torch.autograd.grad(y, x, forward_ad.make_dual(*vectors[:2]), retain_graph=True)[0]
            return tuple(forward_ad.unpack_dual(gradient))

    def at_once(y):
        return torch.autograd.grad(y, x, vectors, retain_graph=True, is_grads_batched=True)[0]

    for is_twice in (False, True):
        module.twice_differentiable = is_twice
        y = module(x)
        torch.testing.assert_close(at_once(y), torch.stack(expected))
        for way, right in (
            (lambda y: batched(y, torch.vmap)(vectors), torch.stack(expected)),
            (dual, tuple(expected[:2])),
        ):
            if is_twice:
                torch.testing.assert_close(way(y), right)
            else:
                with pytest.raises(RuntimeError):
                    way(y)


def test_transforms_and_compilers_take_the_operations():
    module = layer(2, track_running_stats=False)
    x = torch.randn(6, 4, 3, 3)
    expected = functional.relu(functional.batch_norm(x, None, None, module.weight, module.bias, training=True))
    torch.testing.assert_close(torch.vmap(module)(x[None])[0], expected, rtol=1e-5, atol=1e-5)
    gradient = torch.func.grad(lambda x: module(x).pow(2).sum())(x)
    leaf = x.clone().requires_grad_()
    module(leaf).pow(2).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    exported = torch.export.export(layer(2).eval(), (x,)).module()
    torch.testing.assert_close(exported(x), layer(2).eval()(x), rtol=1e-5, atol=1e-5)


def test_checkpointing_tracks_a_batch_once():
    module = layer(2)
    x = torch.randn(6, 4, 3, 3, requires_grad=True)
    torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum().backward()
    assert module.num_batches_tracked == 1


def test_copies_and_checkpoints():
    module = layer(2, "leaky_relu")
    assert "activation='leaky_relu', slope=0.2" in repr(module)
    assert list(module.state_dict()) == list(torch.nn.BatchNorm2d(4).state_dict())
    x = torch.randn(6, 4, 3, 3)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other.eval()(x), copy.deepcopy(module).eval()(x))
    assert isinstance(module, torch.nn.BatchNorm2d)


def test_what_is_not_for_the_kernels_goes_to_the_operations():
    module = layer(2)
    x = torch.randn(6, 4, 3, 3)
    call, _ = separate(module)
    broadcast = torch.randn(4, 1, 1)
    torch.testing.assert_close(module(x, broadcast), call(x, broadcast), rtol=1e-5, atol=1e-5)
    wide = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    assert module(x, wide).dtype == torch.float64
    assert module(torch.randn(0, 4, 3, 3)).shape == (0, 4, 3, 3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        module(torch.randn(1, 4, 1, 1))
    with pytest.raises(ValueError, match="expected 4D input"):
        module(torch.randn(6, 4))
    with pytest.raises(ValueError, match="activation: is 'gelu'; expected one of 'none', 'relu'"):
        exactnorm.torch.BatchNormAct2d(4, activation="gelu")
    with pytest.raises(ValueError, match="slope: is nan; expected a finite number"):
        exactnorm.torch.BatchNormAct2d(4, slope=float("nan"))
