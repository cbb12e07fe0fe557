"""PyTorch's own samples of arguments of its normalizations, with exactnorm.torch.enable and without."""

import exactnorm.torch
import pytest
import torch
from exactnorm import _core
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

OPERATORS = [
    info
    for info in op_db
    if info.name in ("nn.functional.batch_norm", "nn.functional.instance_norm", "native_batch_norm", "_native_batch_norm_legit")
]
MODULES = [info for info in module_db if info.name.startswith(("nn.BatchNorm", "nn.InstanceNorm"))]


@pytest.fixture(autouse=True)
def put_back():
    before = exactnorm.torch.is_enabled()
    yield
    exactnorm.torch.enable() if before else exactnorm.torch.disable()


def name_of(info):
    return f"{info.name}{'-' + info.variant_test_name if getattr(info, 'variant_test_name', '') else ''}"


def fresh(value, leaves):
    """Copies of tensors, to be changed; those that require gradients are added to `leaves`."""
    if not isinstance(value, torch.Tensor):
        return value
    copied = value.detach().clone(memory_format=torch.preserve_format)
    if value.requires_grad:
        leaves.append(copied.requires_grad_())
    return copied


def results_of(function, arguments, keywords):
    leaves = []
    arguments = [fresh(value, leaves) for value in arguments]
    keywords = {name: fresh(value, leaves) for name, value in keywords.items()}
    outputs = function(*arguments, **keywords)
    outputs = [output for output in (outputs if isinstance(outputs, tuple) else (outputs,)) if output is not None]
    gradients = []
    if leaves and outputs[0].requires_grad:
        y = outputs[0]
        dy = torch.cos(torch.arange(y.numel())).bfloat16().to(y.dtype).reshape(y.shape)
        gradients = torch.autograd.grad(y, leaves, dy, allow_unused=True)
    # Running statistics, too, which a training step changes.
    others = [value for value in [*arguments, *keywords.values()] if isinstance(value, torch.Tensor)]
    return [value if value is None else value.detach() for value in [outputs[0], *gradients, *others]]


def in_float32(value):
    """PyTorch's statistics of bfloat16 are bfloat16 between the passes: what is right is float32's answer."""
    if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16:
        return value.detach().float().requires_grad_(value.requires_grad)
    return value


def compare(function, samples, tolerance):
    """Returns how many samples were compared, and how many calls the library computed."""
    compared, before = 0, _core.torch_calls()[0]
    for arguments, keywords in samples:
        exactnorm.torch.disable()
        theirs = results_of(function, arguments, keywords)
        in_single = {name: in_float32(value) for name, value in keywords.items()}
        right = results_of(function, [in_float32(value) for value in arguments], in_single)
        exactnorm.torch.enable()
        ours = results_of(function, arguments, keywords)
        for one, other, value in zip(ours, theirs, right, strict=True):
            if other is None:
                assert one is None
                continue
            assert (one.stride(), one.dtype) == (other.stride(), other.dtype)
            torch.testing.assert_close(one.to(value.dtype), value, rtol=tolerance, atol=tolerance)
        compared += 1
    return compared, _core.torch_calls()[0] - before


@pytest.mark.parametrize("info", OPERATORS, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_samples_of_operators(info, dtype):
    if dtype not in info.supported_dtypes("cpu"):
        return
    samples = [
        ([sample.input, *sample.args], sample.kwargs)
        for sample in info.sample_inputs("cpu", dtype, requires_grad=True)
    ]
    compared, computed = compare(info.op, samples, 5e-2 if dtype == torch.bfloat16 else 1e-4)
    assert compared > 0
    assert computed > 0 or info.name == "_native_batch_norm_legit"  # which is what calls are passed on to


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.name)
@pytest.mark.parametrize("training", [True, False])
def test_samples_of_modules(info, training):
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
    compared = 0
    for sample in samples:
        if sample.forward_input is None:
            continue
        constructor = sample.constructor_input
        module = info.module_cls(*constructor.args, **constructor.kwargs, dtype=torch.float32)
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
            continue
        module.train(training)
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}

        def call(x, module=module, state=state):
            module.load_state_dict(state)
            return module(x)

        (x,) = sample.forward_input.args
        compared += compare(call, [([x], {})], 1e-4)[0]
    assert compared > 0 or "Lazy" in info.name
