"""Models in evaluation mode whose batch normalization becomes part of the layers around it."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

import exactnorm
from exactnorm import FoldedLayer, Normalization
from exactnorm._comparison import Outputs, judged
from exactnorm._fold_report import FoldedNorm, FoldReport, RefusedNorm
from exactnorm._normalization import chained
from exactnorm.torch._convert import revert
from exactnorm.torch._fold_sites import LAYERS, WITH_ACTIVATION, Part, Site, Steps, is_norm
from exactnorm.torch._fuse import unfuse
from exactnorm.torch._graphs import check_is_python, is_class_of, outputs_of

Model = TypeVar("Model", bound=nn.Module)


def fold(model: Model, example_inputs: tuple[Any, ...] | None = None) -> tuple[Model, FoldReport]:
    """A copy of a model in evaluation mode without the batch normalizations that can be part of a layer, and a report.

    Understood are convolutions, transposed convolutions (any groups) and linear layers, with the normalization behind them, or
    before them where nothing is padded with zeros; behind concatenations and sums of their outputs; several in a row; torch.nn's
    classes, this package's, torchvision's FrozenBatchNorm2d and timm's BatchNormAct2d, frozen or not. All others stay as they are, each with its reason in the report. The
    given model is not changed.

    example_inputs
        What the model may be called with. Then each folded layer is compared with the layers that it is made of on the values
        that reach it, and the outputs of both models with each other. Without, the comparison is on random values.

    Each layer's coefficients are `exactnorm.fold`'s: exact, rounded once. A layer whose outputs differ by more than the bound of
    that rounding is not folded.

    Raises ValueError where the folded model's outputs differ by more than rounding explains, and are farther from the given model's in
    float64 than its own are.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
    >>> folded, report = exactnorm.torch.fold(model)
    >>> folded
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    >>> [(norm.name, norm.layer) for norm in report.folded]
    [('1', '0')]
    """
    check_is_python(model)
    if isinstance(example_inputs, Tensor):
        raise TypeError("example_inputs: is a tensor; expected a tuple of the model's arguments, (tensor,) for one")
    folded = revert(unfuse(copy.deepcopy(model)))
    seen = None if example_inputs is None else _Seen(folded, example_inputs)
    steps = Steps(folded, calls_are_seen=seen is not None)
    report = FoldReport()
    report.refused += [RefusedNorm(name, reason) for name, reason in steps.refused.items()]
    expected = None if example_inputs is None else outputs_of(folded, _copied(example_inputs))
    for sites in _that_share_norms(list(steps.sites.values())):
        _fold_sites(folded, sites, seen, report)
    if example_inputs is not None:
        dtypes = {_dtype_of(parameter) for parameter in folded.parameters()}
        found, given = _outputs_in(outputs_of(folded, _copied(example_inputs))), _outputs_in(expected)
        if [values.shape for _, values in found] != [values.shape for _, values in given]:
            raise ValueError("example_inputs: give outputs of other shapes when the model is folded")
        report.difference, report.errors = judged(
            found, given, dtypes, lambda: _outputs_in_float64(model, example_inputs), "example_inputs: give"
        )
    report.sort([name for name, _ in folded.named_modules()])
    return folded, report


def _copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward() may change what it is given."""
    copied: tuple[Any, ...] = pytree.tree_map_only(Tensor, torch.clone, inputs)
    return copied


class _Seen:
    """What reaches each layer and normalization last, and how often they are called, with the example inputs."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.values: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        handles = [
            module.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            for name, module in model.named_modules()
            if type(module) in LAYERS or is_norm(module)
        ]
        try:
            outputs_of(model, _copied(inputs))
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self.calls[name] += 1
            value = arguments[0] if arguments else keywords.get("input")
            if isinstance(value, Tensor) and value.numel() > 0:
                self.values[name] = value.detach().clone()

        return hook


def _that_share_norms(sites: list[Site]) -> list[list[Site]]:
    """Groups of sites, all or none of which are folded: a normalization of a concatenation is part of several layers."""
    groups: list[list[Site]] = []
    for site in sites:
        near = [group for group in groups if any(set(site.norms) & set(other.norms) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([site, *(other for group in near for other in group)])
    return groups


def _normalization(norm: nn.Module) -> Normalization:
    def values(name: str) -> np.ndarray[Any, Any] | None:
        value = getattr(norm, name)
        return None if value is None else value.detach().cpu().double().numpy()

    mean, variance = values("running_mean"), values("running_var")
    assert mean is not None and variance is not None
    return Normalization(mean, variance, values("weight"), values("bias"), float(norm.eps))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Replacement:
    site: Site
    layer: nn.Module
    bound: float
    difference: float


def _fold_sites(model: nn.Module, sites: list[Site], seen: _Seen | None, report: FoldReport) -> None:
    names = list(dict.fromkeys(name for site in sites for name in site.norms))
    norms = {name: model.get_submodule(name) for name in names}
    try:
        exact = {name: _normalization(norm) for name, norm in norms.items()}
        made = [_replacement(model, site, exact, seen) for site in sites]
    except ValueError as error:
        report.refused += [RefusedNorm(name, str(error)) for name in names]
        return
    except Exception as error:  # noqa: BLE001 - of layers of unusual dtypes and devices; the others can be folded
        report.refused += [RefusedNorm(name, f"it cannot be computed: {type(error).__name__}: {error}") for name in names]
        return
    for name in names:
        of_norm = [new for new in made if name in new.site.norms]
        report.folded.append(
            FoldedNorm(
                name,
                ", ".join(new.site.layer for new in of_norm),
                "before" if name in of_norm[0].site.before else "after",
                float(np.abs(exact[name].scale).max()),
                max(new.bound for new in of_norm),
                max(new.difference for new in of_norm),
            )
        )
        site = of_norm[0].site
        is_shown = seen is not None or (site.flattened and name in site.before)
        _pass_on(norms[name], LAYERS[type(of_norm[0].layer)][1], is_shown)
    for new in made:
        # The same object as before, which may have several names.
        layer = model.get_submodule(new.site.layer)
        layer.weight, layer.bias = new.layer.weight, new.layer.bias


def _replacement(
    model: nn.Module, site: Site, exact: dict[str, Normalization], seen: _Seen | None
) -> _Replacement:
    layer = model.get_submodule(site.layer)
    kind, axes = LAYERS[type(layer)]
    if seen is not None:
        _check_calls(site, axes, seen)
    before = chained([exact[name] for name in site.before])
    after = chained([
        exact[part.norm][part.start : part.stop] if part.shifts else exact[part.norm][part.start : part.stop].without_shift()
        for part in site.after
    ])  # fmt: skip
    if before is not None and site.flattened:
        before = before.repeated(int(layer.in_features) // before.channels)  # type: ignore[arg-type]
    folded = exactnorm.fold(
        _array_of(layer.weight),  # type: ignore[arg-type]
        None if layer.bias is None else _array_of(layer.bias),  # type: ignore[arg-type]
        before=before,
        after=after,
        layer=kind,
        groups=int(getattr(layer, "groups", 1)),
    )
    new = _layer_with(layer, folded)
    x = None if seen is None else seen.values.get(site.norms[0] if site.before else site.layer)
    x = _values_for(model, site, kind, axes) if x is None else x
    return _Replacement(site, new, *_differences(model, site, layer, new, folded, x))


def _check_calls(site: Site, axes: int, seen: _Seen) -> None:
    """That what the graph says of a layer is what happens. A linear layer is over the last axis, and normalization over the second."""
    calls = seen.calls[site.layer]
    if calls == 0:
        raise ValueError(f"{site.layer} is not called with the example inputs")
    for name in site.norms:
        if seen.calls[name] != calls:
            raise ValueError(f"{site.layer} is called {calls} times, and {name} {seen.calls[name]} times")
    value = seen.values.get(site.layer)
    if value is not None and value.dim() != axes + 2:
        raise ValueError(f"{site.layer} gets values of {value.dim()} axes; expected {axes + 2}")


def _array_of(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _tensor_like(array: np.ndarray[Any, Any], tensor: Tensor) -> nn.Parameter:
    values = torch.from_numpy(array.astype(np.float64)).to(tensor.device, tensor.dtype)
    return nn.Parameter(values, requires_grad=tensor.requires_grad)


def _layer_with(layer: nn.Module, folded: FoldedLayer) -> nn.Module:
    new = copy.deepcopy(layer)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    new.weight = _tensor_like(folded.weight, weight)
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        new.weight.data = new.weight.data.contiguous(memory_format=torch.channels_last)
    new.bias = _tensor_like(folded.bias, weight)
    return new


def _values_for(model: nn.Module, site: Site, kind: str, axes: int) -> Tensor:
    """Random ones, of which a convolution makes more than one value on each axis."""
    layer = model.get_submodule(site.layer)
    generator = torch.Generator().manual_seed(1)
    if kind == "linear" and site.flattened:
        norm = model.get_submodule(site.before[0])
        channels = int(norm.running_mean.numel())  # type: ignore[operator]
        return torch.randn(16, channels, int(layer.in_features) // channels, generator=generator)  # type: ignore[arg-type]
    if kind == "linear":
        return torch.randn(16, int(layer.in_features), generator=generator)  # type: ignore[arg-type]
    # Reflections want inputs that are larger than the padding.
    padding = max(layer.padding) if kind == "conv" and isinstance(layer.padding, tuple) else 0
    sizes = [
        (kernel - 1) * dilation + 3 + padding
        for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True)  # type: ignore[arg-type]
    ]
    return torch.randn(2, int(layer.in_channels), *sizes, generator=generator)  # type: ignore[arg-type]


def _differences(
    model: nn.Module, site: Site, layer: nn.Module, new: nn.Module, folded: FoldedLayer, x: Tensor
) -> tuple[float, float]:
    """The bound of the folded layer's coefficients, and what is measured in float64: the largest of all channels.

    Raises ValueError where that is beyond the bound.
    """
    x = x.cpu().double()
    with torch.no_grad():
        expected = x
        for name in site.before:
            expected = _normalized(model.get_submodule(name), expected)
        flat = x.flatten(1) if site.flattened else x
        expected = copy.deepcopy(layer).cpu().double()(expected.flatten(1) if site.flattened else expected)
        for part in site.after:
            expected = _normalized(model.get_submodule(part.norm), expected, part)
        found = copy.deepcopy(new).cpu().double()(flat)
    return folded.checked(flat.numpy(), found.numpy(), expected.numpy())


def _normalized(norm: nn.Module, x: Tensor, part: Part | None = None) -> Tensor:
    """By PyTorch's function, or some of its channels."""
    channels = slice(None) if part is None else slice(part.start, part.stop)
    given: tuple[Any, ...] = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, variance, weight, bias = (None if value is None else value.cpu().double()[channels] for value in given)
    if part is not None and not part.shifts:
        mean, bias = torch.zeros_like(variance), None  # type: ignore[arg-type]
    return functional.batch_norm(x, mean, variance, weight, bias, eps=float(norm.eps))  # type: ignore[arg-type]


class _PassedOn(nn.Module):
    """In place of a normalization that is part of a layer, if no example has shown how many axes its values have: a linear layer
    is over the last axis, and a normalization over the second."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != self.axes:
            raise RuntimeError(f"input: has {input.dim()} axes; expected {self.axes}, as its normalization was folded")
        return input

    def extra_repr(self) -> str:
        return f"axes={self.axes}"


def _pass_on(norm: nn.Module, axes: int, is_shown: bool) -> None:
    """Makes a normalization, the same object, pass on what it gets; an activation that it has stays."""
    kept = {name: value for name, value in norm.__dict__.items() if name in nn.Module().__dict__}
    is_activated = is_class_of(norm, WITH_ACTIVATION)
    norm.__dict__.clear()
    norm.__dict__.update(kept)
    norm._parameters.clear()
    norm._buffers.clear()
    if is_activated:
        norm.__class__ = nn.Sequential
    # Of one-dimensional layers' values there are two ranks that PyTorch takes, and SyncBatchNorm takes all.
    elif is_shown or (axes > 1 and not isinstance(norm, nn.SyncBatchNorm)):
        norm.__class__ = nn.Identity
    else:
        norm.__class__ = _PassedOn
        norm.axes = axes + 2  # type: ignore[assignment]


def _dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _outputs_in(value: Any) -> Outputs:
    """All floating-point tensors of what a model returns."""
    tensors = [tensor for tensor in _tensors_in(value) if tensor.is_floating_point()]
    return [(_dtype_of(tensor), tensor.detach().cpu().double().numpy()) for tensor in tensors]


def _outputs_in_float64(model: nn.Module, inputs: tuple[Any, ...]) -> Outputs:
    def double(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value.clone()

    return _outputs_in(outputs_of(copy.deepcopy(model).double(), pytree.tree_map_only(Tensor, double, inputs)))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)
