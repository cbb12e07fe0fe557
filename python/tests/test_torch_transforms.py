"""PyTorch's transforms of exactnorm.torch's modules, beside the same transforms of torch.nn's: the rows of docs/pytorch.md."""

from __future__ import annotations

import copy

import exactnorm.torch
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

SHAPES = {"BatchNorm1d": (5, 3), "BatchNorm2d": (3, 2, 2, 3)}
CASES = [
    (name, training, affine, dtype)
    for name in SHAPES
    for training in (True, False)
    for affine in (True, False)
    for dtype in (torch.float64, torch.float32)
]
each_case = pytest.mark.parametrize(
    ("name", "training", "affine", "dtype"),
    [
        pytest.param(*case, id=f"{case[0]}-{'train' if case[1] else 'eval'}-{'affine' if case[2] else 'plain'}-{case[3]}")
        for case in CASES
    ],
)


def layers(name, training, affine, dtype):
    """Ours and torch.nn's, with the same random state; without running statistics in training, which vmap would refuse."""
    generator = torch.Generator().manual_seed(1)
    channels = SHAPES[name][1]
    theirs = getattr(nn, name)(channels, affine=affine, track_running_stats=not training, dtype=dtype)
    with torch.no_grad():
        for tensor in (*theirs.parameters(), *theirs.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=dtype) + 0.5)
    ours = exactnorm.torch.convert(copy.deepcopy(theirs))
    return ours.train(training), theirs.train(training)


def values(name, dtype, *more, seed=2):
    shape = (*more, *SHAPES[name])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(ours, theirs, dtype):
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    torch.testing.assert_close(ours, theirs, **tolerance)


def of_parameters(layer, x, function):
    """A transform of the layer as a function of its parameters."""
    parameters = {key: p.detach() for key, p in layer.named_parameters()}

    def loss(parameters):
        return (torch.func.functional_call(layer, parameters, (x,)) ** 3).sum()

    return function(loss)(parameters)


def loss_of(layer):
    return lambda x: (layer(x) ** 3).sum()


TRANSFORMS = {
    "vmap": lambda layer, x, v: torch.func.vmap(layer)(torch.stack([x, v])),
    "vmap, channels of another axis": lambda layer, x, v: torch.func.vmap(layer, 1, 1)(torch.stack([x, v], 1)),
    "grad": lambda layer, x, v: torch.func.grad(loss_of(layer))(x),
    "grad of grad": lambda layer, x, v: torch.func.grad(lambda x: (torch.func.grad(loss_of(layer))(x) * v).sum())(x),
    "grad of parameters": lambda layer, x, v: of_parameters(layer, x, torch.func.grad),
    "vmap of grad": lambda layer, x, v: torch.func.vmap(torch.func.grad(loss_of(layer)))(torch.stack([x, v])),
    "vjp": lambda layer, x, v: torch.func.vjp(layer, x)[1](v),
    "jvp": lambda layer, x, v: torch.func.jvp(layer, (x,), (v,)),
    "linearize": lambda layer, x, v: torch.func.linearize(layer, x)[1](v),
    "jacfwd": lambda layer, x, v: torch.func.jacfwd(layer)(x),
    "jacrev": lambda layer, x, v: torch.func.jacrev(layer)(x),
    "hessian": lambda layer, x, v: torch.func.hessian(loss_of(layer))(x),
    "functionalize": lambda layer, x, v: torch.func.functionalize(layer)(x),
}


@each_case
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_functional_transforms(transform, name, training, affine, dtype):
    x, v = values(name, dtype), values(name, dtype, seed=3)
    ours, theirs = (TRANSFORMS[transform](layer, x, v) for layer in layers(name, training, affine, dtype))
    assert_close(ours, theirs, dtype)


def of_eager_graph(transform):
    """A transform of the backward pass of a graph that was made outside of it."""

    def function(layer, x, v):
        x = x.requires_grad_()
        inputs = [x, *layer.parameters()]
        return transform(layer(x), inputs, v)

    return function


def batched(outputs, inputs, v, **options):
    directions = torch.stack([v, v * v, torch.cos(v)])
    return torch.autograd.grad(outputs, inputs, directions, is_grads_batched=True, retain_graph=True, **options)


def batched_second(outputs, inputs, v):
    first = torch.autograd.grad((outputs**3).sum(), inputs, create_graph=True)
    return torch.autograd.grad(first[0], inputs[0], torch.stack([v, v * v]), is_grads_batched=True)


def second_of_batched(outputs, inputs, v):
    first = batched(outputs**2, inputs, v, create_graph=True)
    return torch.autograd.grad(sum((g**2).sum() for g in first), inputs)


def forward_over_backward(outputs, inputs, v, **options):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.sin(v), v)
        return [tuple(forward_ad.unpack_dual(g)) for g in torch.autograd.grad(outputs, inputs, dual, **options)]


def mapped(outputs, inputs, v):
    def pulled_back(v):
        return torch.autograd.grad(outputs, inputs, v, retain_graph=True)

    return torch.func.vmap(pulled_back)(torch.stack([v, v * v]))


def forward_of_mapped(outputs, inputs, v):
    def pulled_back(v):
        return torch.autograd.grad(outputs, inputs, v, retain_graph=True)

    return torch.func.jvp(torch.func.vmap(pulled_back), (torch.stack([v, v * v]),), (torch.stack([v, torch.cos(v)]),))


EAGER = {
    "is_grads_batched": batched,
    "is_grads_batched, then a second derivative": second_of_batched,
    "is_grads_batched second derivative": batched_second,
    "forward mode": forward_over_backward,
    "forward mode with create_graph": lambda *inputs: forward_over_backward(*inputs, create_graph=True),
    "vmap of autograd.grad": mapped,
    "jvp of vmap of autograd.grad": forward_of_mapped,
}


@each_case
@pytest.mark.parametrize("transform", EAGER)
def test_transforms_of_the_backward_pass_of_an_eager_graph(transform, name, training, affine, dtype):
    v = values(name, dtype, seed=3)
    function = of_eager_graph(EAGER[transform])
    ours, theirs = (function(layer, values(name, dtype), v) for layer in layers(name, training, affine, dtype))
    assert_close(ours, theirs, dtype)


@each_case
@pytest.mark.parametrize(
    ("strategy", "vectorize"), [("reverse-mode", False), ("reverse-mode", True), ("forward-mode", True)]
)
def test_jacobian_and_hessian(strategy, vectorize, name, training, affine, dtype):
    results = []
    for layer in layers(name, training, affine, dtype):
        x = values(name, dtype)
        jacobian = torch.autograd.functional.jacobian(layer, x, vectorize=vectorize, strategy=strategy)
        hessian = torch.autograd.functional.hessian(
            loss_of(layer), x, vectorize=vectorize, outer_jacobian_strategy=strategy
        )
        results.append((jacobian, hessian))
    assert_close(*results, dtype)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_every_check_of_gradcheck(name, training, affine):
    ours, _ = layers(name, training, affine, torch.float64)
    x = values(name, torch.float64).requires_grad_()
    inputs = (x, *ours.parameters())
    keys = [key for key, _ in ours.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(ours, dict(zip(keys, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(
        function, inputs, check_batched_grad=True, check_forward_ad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_that_are_arguments_are_updated(momentum):
    results = []
    for make in (exactnorm.torch.BatchNorm1d, nn.BatchNorm1d):
        layer = make(3, momentum=momentum, dtype=torch.float64)

        def loss(x, buffers, layer=layer):
            buffers = {key: buffer.clone() for key, buffer in buffers.items()}
            return (torch.func.functional_call(layer, buffers, (x,)) ** 3).sum(), buffers

        buffers = dict(layer.named_buffers())
        for seed in (1, 2):
            gradient, buffers = torch.func.grad(loss, has_aux=True)(values("BatchNorm1d", torch.float64, seed=seed), buffers)
        results.append([gradient, *buffers.values()])
    assert_close(*results, torch.float64)


def test_running_statistics_that_are_captured_are_refused_by_pytorch():
    x = values("BatchNorm1d", torch.float32)
    for make in (exactnorm.torch.BatchNorm1d, nn.BatchNorm1d):
        layer = make(3)
        with pytest.raises(RuntimeError, match="attempted to call in-place operation"):
            torch.func.grad(loss_of(layer))(x)
        with pytest.raises(RuntimeError, match="Batch norm got a batched tensor as input"):
            torch.func.vmap(layer)(torch.stack([x, x]))
