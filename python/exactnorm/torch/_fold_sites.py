"""Where a model's batch normalizations stand: which of them can be part of a layer, and why others cannot."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from exactnorm._fold import Layer
from exactnorm.torch._graphs import ACTIVATED, Layers, has_hooks, is_class_of, trace_whatever_arguments

# Each kind's name for exactnorm.fold, and its spatial axes.
LAYERS: dict[type[nn.Module], tuple[Layer, int]] = {
    nn.Conv1d: ("conv", 1),
    nn.Conv2d: ("conv", 2),
    nn.Conv3d: ("conv", 3),
    nn.ConvTranspose1d: ("conv_transpose", 1),
    nn.ConvTranspose2d: ("conv_transpose", 2),
    nn.ConvTranspose3d: ("conv_transpose", 3),
    nn.Linear: ("linear", 0),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Spatial axes of the values that they take; of other packages' classes, two.
_axes_of: dict[type[nn.Module], tuple[int, ...]] = {nn.BatchNorm1d: (0, 1), nn.BatchNorm2d: (2,), nn.BatchNorm3d: (3,)}
# Other packages', by the names of their modules.
_timm_frozen = ("timm.layers.norm_act", "FrozenBatchNormAct2d")
FROZEN = {("torchvision.ops.misc", "FrozenBatchNorm2d"), _timm_frozen}
# With an activation of their own behind them.
WITH_ACTIVATION = ACTIVATED | {_timm_frozen}
_of_packages = FROZEN | WITH_ACTIVATION
_same_in_evaluation = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_concatenations = (torch.cat, torch.concat, torch.concatenate)
_additions = (operator.add, operator.iadd, torch.add)
_added_by_method = ("add", "add_")


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or is_class_of(module, _of_packages)


@dataclass(frozen=True)
class Part:
    """Of a normalization behind a layer: all of it, or what falls to one of the layers that are concatenated or added before it."""

    norm: str
    start: int
    stop: int  # of the normalization's channels
    shifts: bool  # whether the shift is added here: to one term of a sum


@dataclass
class Site:
    """A layer, and the normalizations before and behind it, in their order."""

    layer: str
    before: list[str] = field(default_factory=list)
    after: list[Part] = field(default_factory=list)
    flattened: bool = False  # whether the values are flattened between `before` and the layer

    @property
    def norms(self) -> list[str]:
        return self.before + [part.norm for part in self.after]


class _Unfit(Exception):
    """Why a normalization is left as it is."""


@dataclass(frozen=True)
class _Term:
    """Of a value: channels that are a layer's outputs, alone or as a term of a sum."""

    layer: str
    axes: int
    start: int
    stop: int
    shifts: bool

    def moved(self, by: int) -> _Term:
        return replace(self, start=self.start + by, stop=self.stop + by)


class Steps:
    """What a model's graphs say of its normalizations: those that are parts of a site, and the reasons why others are not."""

    def __init__(self, model: nn.Module, calls_are_seen: bool) -> None:
        """`calls_are_seen`: an example shows how often each module is called, whatever calls it."""
        self._model, self._calls_are_seen = model, calls_are_seen
        self.refused: dict[str, str] = {}
        self.sites: dict[str, Site] = {}
        self._names = {module: name for name, module in model.named_modules()}
        parameters = [p for m in model.modules() for p in m._parameters.values() if p is not None]
        self._uses_of_parameters = Counter(map(id, parameters))
        graphs = list(self._graphs())
        self._calls: Counter[nn.Module] = Counter()
        self._read: set[nn.Module] = set()
        for prefix, graph in graphs:
            for node in graph.nodes:
                if node.op == "call_module":
                    self._calls[model.get_submodule(prefix + str(node.target))] += 1
                elif node.op == "get_attr":
                    self._read.add(model.get_submodule((prefix + str(node.target)).rpartition(".")[0]))
        for prefix, graph in graphs:
            _Graph(self, prefix, graph).place_norms()
        placed = {name for site in self.sites.values() for name in site.norms}
        for name, module in model.named_modules():
            if is_norm(module) and name not in placed and name not in self.refused:
                self.refused[name] = "torch.fx cannot trace a module around it"
                if not calls_are_seen:
                    self.refused[name] += " (example_inputs may help)"

    def _graphs(self) -> Iterator[tuple[str, fx.Graph]]:
        """Of the whole model, or of each module by itself; with a prefix for its targets.

        A module within one that cannot be traced may have its parts called from there, of which only an example tells."""
        whole = trace_whatever_arguments(self._model, lambda: Layers(is_norm))
        if whole is not None:
            yield "", whole
            return
        unknown: list[str] = []
        for name, module in self._model.named_modules():
            is_layer = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
            if is_layer or is_norm(module) or type(module).forward is nn.Module.forward:
                continue
            graph = trace_whatever_arguments(module)
            if graph is None:
                unknown.append(f"{name}." if name else "")
            elif self._calls_are_seen or not any(name.startswith(prefix) for prefix in unknown):
                yield f"{name}." if name else "", graph

    def module_at(self, place: str) -> tuple[str, nn.Module]:
        """With its first name: shared modules have several."""
        module = self._model.get_submodule(place)
        return self._names[module], module

    def check_norm(self, node: fx.Node, norm: nn.Module) -> None:
        if not (type(norm) in NORMS or is_class_of(norm, _of_packages)):
            raise _Unfit(f"its class {type(norm).__name__} is not known")
        if norm.training and not is_class_of(norm, FROZEN):
            raise _Unfit("it is in training mode (call eval() first)")
        if norm.running_mean is None or norm.running_var is None:
            raise _Unfit("it has no running statistics")
        if has_hooks(norm):
            raise _Unfit("it has hooks")
        if self._calls[norm] > 1:
            raise _Unfit(f"it is called {self._calls[norm]} times")
        if norm in self._read:
            raise _Unfit("its parameters are used elsewhere, too")
        if len(node.args) != 1 or node.kwargs:
            raise _Unfit("it is called with several arguments")

    def check_layer(self, name: str, layer: nn.Module) -> None:
        if self._calls[layer] > 1:
            raise _Unfit(f"{name} is called {self._calls[layer]} times")
        if any(p is not None and self._uses_of_parameters[id(p)] > 1 for p in layer._parameters.values()):
            raise _Unfit(f"{name} shares its parameters with another module")
        if layer in self._read:
            raise _Unfit(f"the parameters of {name} are used elsewhere, too")
        if has_hooks(layer):
            raise _Unfit(f"{name} has hooks")


class _Graph:
    """One graph, whose normalizations find their places in it."""

    def __init__(self, steps: Steps, prefix: str, graph: fx.Graph) -> None:
        self._steps = steps
        called = {node: steps.module_at(prefix + str(node.target)) for node in graph.nodes if node.op == "call_module"}
        self._names = {node: name for node, (name, _) in called.items()}
        self._modules = {node: module for node, (_, module) in called.items()}
        self._behind: dict[fx.Node, list[_Term]] = {}
        self._before: dict[fx.Node, Site] = {}

    def place_norms(self) -> None:
        """Behind layers as far as they can be, and before layers those that are left."""
        left: dict[fx.Node, str] = {}
        for node, module in self._modules.items():
            if not is_norm(module):
                continue
            try:
                self._steps.check_norm(node, module)
            except _Unfit as reason:
                self._steps.refused[self._names[node]] = str(reason)
                continue
            try:
                self._place_behind(node)
            except _Unfit as reason:
                left[node] = str(reason)
        for node in reversed(left):
            try:
                self._place_before(node)
            except _Unfit as reason:
                self._steps.refused[self._names[node]] = f"{left[node]}; {reason}"

    def _place_behind(self, node: fx.Node) -> None:
        terms = self._terms(node.args[0])
        for term in terms:
            _check_axes(self._modules[node], term.axes, term.layer)
        if _width(terms) != _channels(self._modules[node]):
            raise _Unfit(f"its input has {_width(terms)} channels, or another order of axes")
        self._behind[node] = terms
        for term in terms:
            site = self._steps.sites.setdefault(term.layer, Site(term.layer))
            site.after.append(Part(self._names[node], term.start, term.stop, term.shifts))

    def _terms(self, value: object, what: str = "its input") -> list[_Term]:
        """The layers whose outputs a value is made of, each of them used for nothing else."""
        if not isinstance(value, fx.Node):
            raise _Unfit(f"{what} is not a tensor")
        if len(value.users) > 1:
            raise _Unfit(f"{what} has {len(value.users)} uses")
        if value.op == "placeholder":
            raise _Unfit(f"{what} comes from outside of what torch.fx can trace")
        module = self._modules.get(value)
        if module is not None and type(module) in LAYERS:
            self._steps.check_layer(self._names[value], module)
            axes = LAYERS[type(module)][1]
            return [_Term(self._names[value], axes, 0, _outputs(module), True)]
        if value in self._behind and module is not None:
            if is_class_of(module, WITH_ACTIVATION):
                raise _Unfit("it follows an activation")
            return self._behind[value]
        if self._passes_on(value):
            return self._terms(value.args[0], what)
        parts = _concatenated(value)
        if parts is not None:
            terms: list[_Term] = []
            for part in parts:
                terms += [term.moved(_width(terms)) for term in self._terms(part, "a part of its input")]
        else:
            added = _added(value)
            if added is None:
                raise _Unfit(f"{what} comes from {self._kind(value)}")
            terms, others = (self._terms(term, "a term of its input") for term in added)
            if _width(terms) != _width(others):
                raise _Unfit("the terms of its input have different numbers of channels")
            terms = terms + [replace(term, shifts=False) for term in others]
        if len({term.axes for term in terms}) > 1:
            raise _Unfit("the parts of its input have different numbers of axes")
        return terms

    def _place_before(self, node: fx.Node) -> None:
        norm, name = self._modules[node], self._names[node]
        if is_class_of(norm, WITH_ACTIVATION):
            raise _Unfit("its activation stands before the next layer")
        flattened, user = False, node
        while True:
            if len(user.users) != 1:
                raise _Unfit(f"its output has {len(user.users)} uses")
            (user,) = user.users
            if user.op == "output":
                raise _Unfit("its output is that of the model, or of a module that is traced by itself")
            module = self._modules.get(user)
            if user in self._before and not flattened:
                site = self._before[user]
                break
            if module is not None and type(module) in LAYERS:
                layer = self._names[user]
                self._steps.check_layer(layer, module)
                _check_before(norm, module, flattened)
                if not flattened:
                    _check_axes(norm, LAYERS[type(module)][1], layer)
                site = self._steps.sites.setdefault(layer, Site(layer))
                site.flattened = flattened
                break
            if _is_flattening(user, module):
                flattened = True
            elif not self._passes_on(user):
                raise _Unfit(f"its output goes to {self._kind(user)}")
        self._before[node] = site
        site.before.insert(0, name)

    def _passes_on(self, node: fx.Node) -> bool:
        module = self._modules.get(node)
        if module is None or module.training or has_hooks(module) or not node.args:
            return False
        return type(module) in _same_in_evaluation

    def _kind(self, node: fx.Node) -> str:
        if node in self._modules:
            return type(self._modules[node]).__name__
        return str(getattr(node.target, "__name__", node.target))


def _channels(norm: nn.Module) -> int:
    return int(norm.running_mean.numel())  # type: ignore[operator]


def _outputs(layer: nn.Module) -> int:
    return int(layer.out_features if type(layer) is nn.Linear else layer.out_channels)  # type: ignore[arg-type]


def _width(terms: list[_Term]) -> int:
    return max((term.stop for term in terms), default=0)


def _concatenated(node: fx.Node) -> list[fx.Node] | None:
    """What a step concatenates along the channels; None for other steps."""
    if node.op != "call_function" or node.target not in _concatenations or not node.args:
        return None
    parts, *rest = node.args
    axis = rest[0] if rest else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if axis != 1 or not isinstance(parts, list | tuple) or len(set(parts)) != len(parts):
        return None
    return [part for part in parts if isinstance(part, fx.Node)] if all(isinstance(p, fx.Node) for p in parts) else None


def _added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The two terms of an addition; None for other steps."""
    is_function = node.op == "call_function" and node.target in _additions
    if not (is_function or (node.op == "call_method" and node.target in _added_by_method)):
        return None
    if len(node.args) != 2 or node.kwargs:
        return None
    one, other = node.args
    return (one, other) if isinstance(one, fx.Node) and isinstance(other, fx.Node) and one is not other else None


def _is_flattening(node: fx.Node, module: nn.Module | None) -> bool:
    """Of (N, C, ...) to (N, everything else)."""
    if module is not None:
        return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    is_call = node.op == "call_function" and node.target is torch.flatten
    return (is_call or (node.op == "call_method" and node.target == "flatten")) and node.args[1:] == (1,) and not node.kwargs


def _check_axes(norm: nn.Module, axes: int, layer: str) -> None:
    """That a normalization is of values with as many axes as a layer's outputs: without a batch axis another kind would take them."""
    taken = _axes_of.get(type(norm), (2,) if not isinstance(norm, nn.SyncBatchNorm) else (0, 1, 2, 3))
    if axes not in taken:
        raise _Unfit(f"its class {type(norm).__name__} is for other numbers of axes than {layer} has")


def _check_before(norm: nn.Module, layer: nn.Module, flattened: bool) -> None:
    kind, _ = LAYERS[type(layer)]
    if kind == "conv_transpose":
        raise _Unfit("a transposed convolution's outputs meet different numbers of its taps")
    channels = _channels(norm)
    if kind == "linear":
        is_fitting = layer.in_features % channels == 0 if flattened else layer.in_features == channels  # type: ignore[operator]
        if not is_fitting:
            raise _Unfit("the linear layer is over another axis than its channels")
        return
    if flattened or layer.in_channels != channels:
        raise _Unfit("the convolution is over other axes")
    padding: Any = layer.padding
    if isinstance(padding, str):
        kernel: Any = layer.kernel_size
        pads = padding == "same" and any(size != 1 for size in kernel)
    else:
        pads = any(padding)
    if pads and layer.padding_mode == "zeros":
        raise _Unfit("the convolution pads its output with zeros (exactnorm.fold has pad values for it)")
