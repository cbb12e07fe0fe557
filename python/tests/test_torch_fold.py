"""exactnorm.torch.fold: each kind of place, against the model in float64; what cannot be folded, with its reason; the reports of
folds that go wrong elsewhere."""

from __future__ import annotations

import copy
import dataclasses

import exactnorm.torch
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations


def trained(model, seed=0):
    """Statistics and parameters as training leaves them: means away from 0, gammas of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 2, generator=generator)
            module.running_var.uniform_(0.1, 4, generator=generator)
            if module.weight is not None:
                module.weight.data.normal_(0, 1, generator=generator)
                module.bias.data.normal_(0, 1, generator=generator)
    return model.eval()


def outputs(model, x):
    """In float64, whatever the model's dtype."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(x.double())


def assert_folds(model, x, expected=(), refused=(), before=()):
    """With the example, and without one."""
    state = copy.deepcopy(model.state_dict())
    for inputs in ((x,), None):
        folded, report = exactnorm.torch.fold(model, inputs)
        assert [norm.name for norm in report.folded] == list(expected), str(report)
        assert [norm.name for norm in report.folded if norm.position == "before"] == list(before)
        reasons = {norm.name: norm.reason.removesuffix(" (example_inputs may help)") for norm in report.refused}
        assert reasons == dict(refused)
        y = outputs(model, x)
        unit = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}[x.dtype]
        assert (outputs(folded, x) - y).abs().max() <= unit * y.abs().max()
        assert (report.difference is None) == (inputs is None)
        for norm in report.folded:
            assert norm.difference <= norm.bound or x.dtype == torch.float64
            assert not isinstance(folded.get_submodule(norm.name), nn.modules.batchnorm._BatchNorm)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    return folded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions(axes, transposed, groups, bias, dtype):
    torch.manual_seed(1)
    name = f"Conv{'Transpose' if transposed else ''}{axes}d"
    layer = getattr(nn, name)(8, 16, 3, stride=2, padding=1, groups=groups, bias=bias)
    model = trained(nn.Sequential(layer, getattr(nn, f"BatchNorm{axes}d")(16), nn.ReLU())).to(dtype)
    assert_folds(model, torch.randn(3, 8, *(5,) * axes).to(dtype), ["1"])


def test_linear_layers():
    torch.manual_seed(2)
    model = trained(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.ReLU(), nn.Linear(7, 3, bias=False), nn.BatchNorm1d(3)))
    assert_folds(model, torch.randn(4, 5), ["1", "4"])


def test_a_linear_layer_over_another_axis():
    """(N, L, C): the linear layer is over C, and the normalization over L."""
    model = trained(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)))
    x = torch.randn(4, 6, 5)
    _, report = exactnorm.torch.fold(model, (x,))
    assert [(norm.name, norm.reason) for norm in report.refused] == [("1", "0 gets values of 3 axes; expected 2")]
    folded, report = exactnorm.torch.fold(model)
    assert len(report.folded) == 1
    assert folded(torch.randn(4, 5)).shape == (4, 6)
    with pytest.raises(RuntimeError, match="input: has 3 axes; expected 2, as its normalization was folded"):
        folded(x)


def test_before_layers():
    torch.manual_seed(3)
    model = trained(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.BatchNorm2d(6),
                                  nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect")))  # fmt: skip
    assert_folds(model, torch.randn(2, 4, 9, 9), ["0", "3"], before=["0", "3"])
    model = trained(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    assert_folds(model, torch.randn(6, 4), ["0"], before=["0"])
    model = trained(nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(24, 3)))
    assert_folds(model, torch.randn(6, 4, 3, 2), ["0"], before=["0"])


def test_before_and_after_and_in_a_row():
    torch.manual_seed(4)
    model = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Identity(), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 2),
                                  nn.Dropout2d(0.5), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))  # fmt: skip
    assert_folds(model, torch.randn(2, 3, 5, 5), ["0", "2", "6", "7"], before=["0", "2"])


class Joined(nn.Module):
    """Two or three branches, joined in some way before a normalization."""

    def __init__(self, join, channels, axes=2):
        super().__init__()
        self.join, self.axes = join, axes
        conv, self.norm = (nn.Conv2d, nn.BatchNorm2d(channels)) if axes == 2 else (nn.Conv1d, nn.BatchNorm1d(channels))
        self.one, self.two, self.three = conv(3, 4, 1), conv(3, 4, 1), conv(3, 2, 1)

    def forward(self, x):
        return self.norm(self.join(self, x))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(
    ("join", "channels"),
    [
        (lambda m, x: torch.cat([m.one(x), m.three(x)], 1), 6),
        (lambda m, x: torch.cat((m.one(x), m.three(x), m.two(x)), dim=1), 10),
        (lambda m, x: m.one(x) + m.two(x), 4),
        (lambda m, x: torch.concat([m.one(x).add(m.two(x)), m.three(x)], 1), 6),
        (lambda m, x: m.one(x), 4),
    ],
)
def test_sums_and_concatenations(join, channels, axes):
    torch.manual_seed(12)
    model = trained(Joined(join, channels, axes))
    assert_folds(model, torch.randn(2, 3, *(5,) * axes), ["norm"])


@pytest.mark.parametrize(
    ("join", "channels", "reason"),
    [
        (lambda m, x: torch.cat([m.one(x), x], 1), 7, "a part of its input has 2 uses"),
        (lambda m, x: torch.cat([m.one(x), m.two(x)], 2), 4, "its input comes from cat"),
        (lambda m, x: torch.cat([m.one(x), torch.relu(m.three(x))], 1), 6, "a part of its input comes from relu"),
        (lambda m, x: (lambda y: torch.cat([y, y], 1))(m.one(x)), 8, "its input comes from cat"),
        (lambda m, x: (lambda y: y + y)(m.one(x)), 4, "its input comes from add"),
        (lambda m, x: m.one(x) + m.three(x)[:, :1], 4, "a term of its input comes from getitem"),
        (lambda m, x: m.one(x) + 2, 4, "its input comes from add"),
        (lambda m, x: torch.add(m.one(x), m.two(x), alpha=2), 4, "its input comes from add"),
    ],
)
def test_other_sums_and_concatenations(join, channels, reason):
    torch.manual_seed(13)
    model = trained(Joined(join, channels))
    last = "its output is that of the model, or of a module that is traced by itself"
    assert_folds(model, torch.randn(2, 3, 5, 5), refused={"norm": f"{reason}; {last}"}.items())


def test_a_concatenation_is_folded_into_all_of_its_layers_or_none():
    torch.manual_seed(14)
    model = trained(Joined(lambda m, x: torch.cat([m.one(x), m.three(x)], 1), 6))
    model.three.weight.data.fill_(3e38)
    model.norm.running_var.fill_(1e-3)
    folded, report = exactnorm.torch.fold(model)
    assert [norm.name for norm in report.refused] == ["norm"] and not report.folded
    for name in ("one", "three"):
        assert torch.equal(folded.get_submodule(name).weight, model.get_submodule(name).weight)


def test_coefficients_are_those_of_the_function():
    torch.manual_seed(5)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    folded, _ = exactnorm.torch.fold(trained(nn.Sequential(conv, norm)))
    statistics = [value.detach().numpy() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
    expected = exactnorm.fold(
        conv.weight.detach().numpy(), conv.bias.detach().numpy(), after=exactnorm.Normalization(*statistics)
    )
    np.testing.assert_array_equal(folded[0].weight.detach().numpy(), expected.weight)
    np.testing.assert_array_equal(folded[0].bias.detach().numpy(), expected.bias)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 3, 3, padding=1), "the convolution pads its output with zeros (exactnorm.fold has pad values for it)"),
        (nn.Conv2d(3, 3, 3, padding="same"), "the convolution pads its output with zeros (exactnorm.fold has pad values for it)"),
        (nn.ConvTranspose2d(3, 3, 2), "a transposed convolution's outputs meet different numbers of its taps"),
        (nn.Linear(9, 3), "the linear layer is over another axis than its channels"),
        (nn.ReLU(), "its output goes to ReLU"),
        (nn.Identity(), "its output is that of the model, or of a module that is traced by itself"),
    ],
)
def test_not_before(layer, reason):
    model = trained(nn.Sequential(nn.AvgPool2d(1), nn.BatchNorm2d(3), layer))
    assert_folds(model, torch.randn(2, 3, 9, 9), refused={"1": f"its input comes from AvgPool2d; {reason}"}.items())


class Calls(nn.Module):
    """Three layers, and what a test does with them."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


@pytest.mark.parametrize(
    ("way", "reasons"),
    [
        (
            lambda m, x: (lambda y: m.norm(y) + m.other(y))(m.conv(x)),
            ["its input has 2 uses; its output goes to add"] * 2,
        ),
        (
            lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))) + m.other(x),
            ["it is called 2 times", "its input has 2 uses; its output goes to add"],
        ),
        (
            lambda m, x: m.other(m.conv(m.norm(m.conv(x)))),
            ["conv is called 2 times; conv is called 2 times", "conv is called 2 times; its output is that of the model, or of a module that is traced by itself"],
        ),
        (
            lambda m, x: m.other(m.norm(m.conv(x)) * m.conv.weight.sum()),
            [
                "the parameters of conv are used elsewhere, too; its output goes to mul",
                "its input comes from mul; its output is that of the model, or of a module that is traced by itself",
            ],
        ),
        (
            lambda m, x: m.other(m.norm(m.conv(x))) if x.sum() > 1e9 else m.norm(m.conv(x)),
            ["torch.fx cannot trace a module around it"] * 2,
        ),
        (
            lambda m, x: torch.cat([m.norm(x), m.other(x)], 1),
            ["its input has 2 uses; its output goes to cat"] * 2,
        ),
    ],
)
def test_reasons(way, reasons):
    model = trained(Calls(way))
    assert_folds(model, torch.randn(2, 3, 4, 4), refused=dict(zip(["norm", "other"], reasons, strict=True)).items())


def test_modules_that_are_not_plain():
    def reason_of(change):
        model = trained(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)))
        change(model)
        folded, report = exactnorm.torch.fold(model)
        assert not report.folded
        return report.refused[0].reason.partition("; the convolution")[0]

    class Derived(nn.BatchNorm2d):
        pass

    def replaced(model, norm):
        model[1] = norm.eval()

    assert reason_of(lambda m: m.train()) == "it is in training mode (call eval() first)"
    assert reason_of(lambda m: replaced(m, nn.BatchNorm2d(3, track_running_stats=False))) == "it has no running statistics"
    assert reason_of(lambda m: replaced(m, Derived(3))) == "its class Derived is not known"
    assert reason_of(lambda m: m[1].register_forward_hook(print)) == "it has hooks"
    assert reason_of(lambda m: m[0].register_forward_hook(print)) == "0 has hooks"
    assert reason_of(lambda m: parametrizations.weight_norm(m[0])) == "its input comes from ParametrizedConv2d"
    assert reason_of(lambda m: setattr(m[2], "weight", m[0].weight)) == (
        "0 shares its parameters with another module; 2 shares its parameters with another module"
    )
    assert reason_of(lambda m: m[1].running_var.fill_(-1)) == (
        "variance: is -1.0 in channel 0, with epsilon 1e-05; expected a positive sum"
    )
    assert reason_of(lambda m: (m[1].weight.data.fill_(3e38), m[1].running_var.fill_(1e-3))) == (
        "weight: would be beyond float32's range at (0, 0, 0, 0); expected parameters that keep it within"
    )


class Branching(nn.Module):
    """Untraceable itself; its block is not."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
        self.last = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.last(self.block(x) if x.sum() < 1e9 else x)


def test_parts_of_a_model_that_cannot_be_traced():
    torch.manual_seed(6)
    model, x = trained(Branching()), torch.randn(2, 3, 7)
    reason = "torch.fx cannot trace a module around it"
    folded, report = exactnorm.torch.fold(model, (x,))
    assert [norm.name for norm in report.folded] == ["block.1"]
    assert [(norm.name, norm.reason) for norm in report.refused] == [("last", reason)]
    torch.testing.assert_close(outputs(folded, x), outputs(model, x), rtol=1e-6, atol=1e-6)
    # What else may call the block's parts is not known without an example.
    _, report = exactnorm.torch.fold(model)
    assert {norm.name: norm.reason for norm in report.refused} == dict.fromkeys(["block.1", "last"], f"{reason} (example_inputs may help)")


def assert_right(model, *arguments, folded):
    """With an example and without one the model's function stays, whatever is folded; with one, this many are."""
    for inputs in (arguments, None):
        new, report = exactnorm.torch.fold(model, inputs)
        if inputs is not None:
            assert len(report.folded) == folded, str(report)
        with torch.no_grad():
            torch.testing.assert_close(new(*arguments), model(*arguments), rtol=1e-4, atol=1e-4)
    return report


class Odd(nn.Module):
    """Modules of several names, and a forward() of the test's."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.layers = nn.ModuleList([self.conv, self.norm])
        self.block = nn.Sequential(self.conv, self.norm)
        self.plain = [self.conv, self.norm]
        self.way = forward

    def forward(self, x, extra=None):
        return self.way(self, x, extra)


@pytest.mark.parametrize(
    ("way", "folded"),
    [
        (lambda m, x, _: m.norm(m.layers[0](x)), 1),
        (lambda m, x, _: m.layers[1](m.conv(x)), 1),
        (lambda m, x, _: m.plain[1](m.plain[0](x)), 1),
        (lambda m, x, _: m.block(x), 1),
        (lambda m, x, _: m.block(x) + m.block[0](x) if x.mean() > -1e9 else x, 0),
        (lambda m, x, _: m.block(x) if x.mean() > -1e9 else x, 1),
        (lambda m, x, extra: m.conv(x) if extra is None else m.norm(m.conv(x)), 0),
        (lambda m, x, _: m.norm(m.conv(x)) * m.norm.weight.sum(), 0),
        (lambda m, x, _: m.norm(m.conv(input=x)), 1),
        (lambda m, x, _: m.norm(m.drop(input=m.conv(x))), 0),
        (lambda m, x, _: m.norm(m.conv(x.clone().mul_(2))), 1),
    ],
)
def test_odd_ways_through_a_model(way, folded):
    torch.manual_seed(15)
    assert_right(trained(Odd(way)), torch.randn(2, 3, 6, 6), folded=folded)


def test_inputs_that_forward_changes_stay():
    torch.manual_seed(16)
    model, x = trained(Odd(lambda m, x, _: m.norm(m.conv(x.mul_(2))))), torch.randn(2, 3, 6, 6)
    before = x.clone()
    _, report = exactnorm.torch.fold(model, (x,))
    assert torch.equal(x, before) and len(report.folded) == 1


def test_values_of_no_elements_and_large_paddings():
    torch.manual_seed(17)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1, padding=3, padding_mode="reflect"), nn.BatchNorm2d(4)))
    assert_folds(model, torch.randn(2, 3, 6, 6), ["1"])
    _, report = exactnorm.torch.fold(model, (torch.randn(0, 3, 6, 6),))
    assert len(report.folded) == 1 and report.difference is None


def test_outputs_of_other_kinds():
    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor
        index: torch.Tensor

    torch.manual_seed(18)
    model, x = trained(Odd(lambda m, x, _: (lambda y: Output(y.float(), y.argmax()))(m.norm(m.conv(x))))), torch.randn(2, 3, 6, 6)
    _, report = exactnorm.torch.fold(model, (x,))
    assert len(report.folded) == 1 and 0 < report.difference < 1e-5
    # The tolerance is that of the layers' dtype.
    _, report = exactnorm.torch.fold(model.bfloat16(), (x.bfloat16(),))
    assert report.difference > 1e-3
    _, report = exactnorm.torch.fold(trained(Odd(lambda m, x, _: m.norm(m.conv(x)).argmax())), (x,))
    assert report.difference is None and "outputs differ" not in str(report)


def test_converted_and_fused_models():
    torch.manual_seed(7)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    expected = outputs(model, x := torch.randn(2, 3, 5, 5))
    for change in (exactnorm.torch.convert, exactnorm.torch.fuse, exactnorm.torch.convert_sync_batchnorm):
        changed = change(copy.deepcopy(model)).eval()
        folded, report = exactnorm.torch.fold(changed, (x,))
        assert [norm.name for norm in report.folded] == ["1"]
        torch.testing.assert_close(outputs(folded, x), expected, rtol=1e-6, atol=1e-6)
        assert {type(module) for module in folded} == {nn.Conv2d, nn.Identity, nn.ReLU}


def test_what_stays_of_a_layer():
    model = trained(nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last))
    model[0].weight.requires_grad_(False)
    folded, _ = exactnorm.torch.fold(model)
    assert folded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not folded[0].weight.requires_grad and not folded[0].bias.requires_grad
    assert isinstance(folded[0].bias, nn.Parameter) and model[0].bias is None
    assert not folded.training and not folded[1].training
    pickled = torch.jit.script(exactnorm.torch.fold(trained(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3))))[0])
    assert pickled(torch.randn(2, 3, 4)).shape == (2, 3, 4)


def test_folding_removes_a_cancellation():
    """Mean 1000 and variance 1e-4: PyTorch's float32 layers lose what the folded one keeps."""
    torch.manual_seed(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    model[0].bias.data.add_(1000)
    x = torch.randn(4, 3, 8, 8) * 0.01
    with torch.no_grad():
        y = model[0].double()(x.double())
        model[1].running_mean.copy_(y.mean((0, 2, 3)))
        model[1].running_var.copy_(y.var((0, 2, 3)))
        model[0].float()
        exact = outputs(model, x)
        folded, _ = exactnorm.torch.fold(model)
        error = (folded(x) - exact).abs().max()
        assert error < 1e-4 < 1e-3 < (model(x) - exact).abs().max()


def test_wrong_folds_of_pytorch():
    """torch.nn.utils.fusion and torch.fx's optimization, in this same process: silently wrong, where this is right."""
    from torch.fx.experimental.optimization import fuse
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    torch.manual_seed(9)

    def error_of(layers, x, expected):
        with torch.no_grad():
            return float((layers(x) - expected).abs().max() / expected.abs().max())

    model, x = trained(nn.Sequential(nn.ConvTranspose2d(8, 8, 3), nn.BatchNorm2d(8))), torch.randn(2, 8, 5, 5)
    assert error_of(fuse_conv_bn_eval(*model), x, outputs(model, x)) > 0.1
    assert error_of(exactnorm.torch.fold(model)[0], x, outputs(model, x)) < 1e-6
    model, x = trained(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))), torch.randn(2, 6, 6)
    assert error_of(fuse_linear_bn_eval(*model), x, outputs(model, x)) > 0.1
    assert error_of(exactnorm.torch.fold(model, (x,))[0], x, outputs(model, x)) < 1e-6
    for way in (
        lambda m, x: m.norm(m.conv(x)) + m.other(m.conv(x)),
        lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))),
    ):
        model, x = trained(Calls(way)), torch.randn(2, 3, 4, 4)
        assert error_of(fuse(model), x, outputs(model, x)) > 0.1
        assert error_of(exactnorm.torch.fold(model)[0], x, outputs(model, x)) < 1e-6


class Wrong(nn.Module):
    """Does more in a layer than its class says, in a way that no graph shows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x)) + factor_of(self.norm)


@torch.fx.wrap
def factor_of(module):
    return 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0


def test_outputs_that_differ_are_an_error():
    model = trained(Wrong())
    with pytest.raises(ValueError, match="example_inputs: give outputs that differ by"):
        exactnorm.torch.fold(model, (torch.randn(2, 3, 4, 4),))
    assert isinstance(model.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("seed", range(30))
def test_random_networks(seed):
    """Sequences of layers, normalizations and what is between them; each normalization is folded or has a reason."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    channels, layers = 4, []
    for _ in range(random.integers(3, 12)):
        kind = random.integers(0, 8)
        outputs_of_layer = int(random.choice([2, 4, 6]))
        groups = 2 if random.random() < 0.5 else 1
        if kind == 0:
            layers.append(nn.Conv2d(channels, outputs_of_layer, 3, padding=int(random.integers(0, 3)), groups=groups))
        elif kind == 1:
            layers.append(nn.ConvTranspose2d(channels, outputs_of_layer, 2, stride=int(random.integers(1, 3)), groups=groups))
        elif kind == 2:
            layers.append(nn.Conv2d(channels, outputs_of_layer, 1, bias=False))
        elif kind == 3:
            layers.append(nn.ReLU())
        elif kind == 4:
            layers.append(nn.Dropout())
        else:
            layers.append(nn.BatchNorm2d(channels, affine=random.random() < 0.8))
            continue
        channels = layers[-1].out_channels if kind < 3 else channels
    model, x = trained(nn.Sequential(*layers), seed), torch.randn(2, 4, 12, 12)
    folded, report = exactnorm.torch.fold(model, (x,))
    y = outputs(model, x)
    assert (outputs(folded, x) - y).abs().max() <= 2e-6 * y.abs().max()
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(norms) == sorted(norm.name for norm in report.folded + report.refused)
