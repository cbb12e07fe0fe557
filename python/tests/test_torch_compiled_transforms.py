"""torch.compile of PyTorch's transforms of exactnorm.torch's modules, beside torch.nn's without compiling."""

from __future__ import annotations

import copy

import exactnorm.torch
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

TRANSFORMS = {
    "vmap": lambda layer, x, v: torch.func.vmap(layer)(torch.stack([x, v])),
    "grad": lambda layer, x, v: torch.func.grad(lambda x: (layer(x) ** 3).sum())(x),
    "vmap of grad": lambda layer, x, v: torch.func.vmap(torch.func.grad(lambda x: (layer(x) ** 3).sum()))(
        torch.stack([x, v])
    ),
    "vjp": lambda layer, x, v: torch.func.vjp(layer, x)[1](v)[0],
    "jacrev": lambda layer, x, v: torch.func.jacrev(layer)(x),
}
# Of its own normalization, PyTorch 2.13 cannot compile these.
FORWARD_TRANSFORMS = {
    "jvp": lambda layer, x, v: torch.func.jvp(layer, (x,), (v,))[1],
    "jacfwd": lambda layer, x, v: torch.func.jacfwd(layer)(x),
    "hessian": lambda layer, x, v: torch.func.hessian(lambda x: (layer(x) ** 3).sum())(x),
}


@pytest.fixture(autouse=True)
def without_what_others_have_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def layers(training, dtype=torch.float32):
    torch.manual_seed(1)
    theirs = nn.BatchNorm1d(3, track_running_stats=not training, dtype=dtype).train(training)
    return exactnorm.torch.convert(copy.deepcopy(theirs)), theirs


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transform", [*TRANSFORMS, *FORWARD_TRANSFORMS])
def test_compiled_transforms(transform, dtype, training):
    ours, theirs = layers(training, dtype)
    x, v = torch.randn(2, 5, 3, dtype=dtype)
    function = (TRANSFORMS | FORWARD_TRANSFORMS)[transform]
    # Modules are called through functions, as vmap would write a module's name.
    compiled = torch.compile(
        lambda x, v: function(lambda x: ours(x), x, v), backend="aot_eager", fullgraph=True
    )
    assert_close(compiled(x, v), function(theirs, x, v))


@pytest.mark.parametrize("transform", FORWARD_TRANSFORMS)
def test_compiled_forward_mode_with_running_statistics_is_pytorchs_error(transform):
    x, v = torch.randn(2, 5, 3)
    function = FORWARD_TRANSFORMS[transform]
    kinds = set()
    for layer in (nn.BatchNorm1d(3), exactnorm.torch.BatchNorm1d(3)):
        compiled = torch.compile(
            lambda x, v, layer=layer: function(lambda x: layer(x), x, v), backend="aot_eager", fullgraph=True
        )
        with pytest.raises(torch._dynamo.exc.TorchDynamoException) as raised:
            compiled(x, v)
        kinds.add(raised.type)
        # PyTorch leaves the transform open.
        while torch._C._functorch.peek_interpreter_stack() is not None:
            torch._C._functorch.pop_dynamic_layer_stack()
        while forward_ad._current_level >= 0:
            forward_ad.exit_dual_level()
    assert len(kinds) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_compiled_functions(transform, training):
    """Compiled without a transform, within one, and without again."""
    x, v = torch.randn(2, 5, 3)
    results = []
    for layer in layers(training):
        compiled = torch.compile(lambda x, layer=layer: layer(x), backend="aot_eager")
        transformed = [compiled(x), TRANSFORMS[transform](compiled, x, v), compiled(v)]
        results.append([result.detach() for result in transformed])
    assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
def test_batched_gradients_of_compiled_functions(training):
    x, v = torch.randn(2, 5, 3)
    results = []
    for layer in layers(training):
        leaf = x.clone().requires_grad_()
        y = torch.compile(lambda x, layer=layer: layer(x), backend="aot_eager", fullgraph=True)(leaf)
        results.append(torch.autograd.grad(y, leaf, torch.stack([v, v * v]), is_grads_batched=True)[0])
    assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
def test_compiled_backward_of_an_eager_graph(training):
    x, v = torch.randn(2, 5, 3)
    results = []
    for layer in layers(training):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)

        def pulled_back(v, y=y, leaf=leaf):
            return torch.autograd.grad(y, leaf, v, retain_graph=True)[0]

        compiled = torch.compile(lambda v: torch.func.vmap(pulled_back)(v), backend="aot_eager")
        results.append(compiled(torch.stack([v, v * v])))
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            (y**3).sum().backward()
        results[-1] = [results[-1], leaf.grad]
    assert_close(*results)
