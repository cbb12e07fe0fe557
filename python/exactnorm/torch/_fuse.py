"""Models whose activations, and the additions before them, become part of batch normalization, and back."""

from __future__ import annotations

import importlib
import inspect
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from exactnorm.torch import _activated, _modules
from exactnorm.torch._graphs import ACTIVATED, has_hooks, is_class_of, is_identity, is_own_step, only_user, outputs_of, trace

Model = TypeVar("Model", bound=nn.Module)

_fused_classes: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _activated.BatchNormAct1d,
    nn.BatchNorm2d: _activated.BatchNormAct2d,
    nn.BatchNorm3d: _activated.BatchNormAct3d,
    _modules.BatchNorm1d: _activated.BatchNormAct1d,
    _modules.BatchNorm2d: _activated.BatchNormAct2d,
    _modules.BatchNorm3d: _activated.BatchNormAct3d,
}
_additions = {operator.add, operator.iadd, torch.add}
_functions: dict[Any, str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    functional.relu6: "relu6",
    functional.leaky_relu: "leaky_relu",
    functional.silu: "silu",
    functional.hardswish: "hard_swish",
}
_activation_modules: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.Hardswish: "hard_swish",
}
_default_slope = 0.01


def fuse(
    model: Model, example_inputs: tuple[Any, ...] | None = None, *, twice_differentiable: bool = False
) -> Model:
    """Makes the activation behind a batch normalization, and the addition of a residual between them, part of it, in place;
    returns the model.

    Understood are ReLU, ReLU6, LeakyReLU, SiLU and Hardswish, as modules, functions or methods, in whatever modules of the model
    `torch.fx` can trace, each by itself, with nn.Identity before them or not, and within timm's BatchNormAct2d. The normalizations
    become `BatchNormAct1d`, `2d` or `3d`, the same objects as before; the modules around them keep their class, and get a forward()
    that goes the same way without the activation. Parameters, buffers, names, hooks, optimizers and the state_dict are those of
    before; `unfuse` undoes it.

    Left as it is: a normalization or an activation that has hooks, a normalization that is called more than once or is part
    of several modules, one whose output has other uses as well, and modules that torch.fx cannot trace.

    example_inputs
        What the model may be called with. Then its outputs in evaluation mode are compared before and after; where they differ by
        more than rounding, the model is left as it was.
    twice_differentiable
        Whether gradients of gradients will be asked for: `BatchNormAct1d`'s attribute.

    What forward() reads of Python objects while it is traced (flags of the module other than `training`, types of inputs) is
    taken to stay as it is.

    Raises ValueError where the outputs differ.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    >>> exactnorm.torch.fuse(model)[1]
    BatchNormAct2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, activation='relu')
    """
    before = None if example_inputs is None else outputs_of(model, example_inputs)
    changed = [module for module in model.modules() if _fuse_timms(module)]
    owners = Counter(id(child) for module in model.modules() for child in module.children())
    changed += [part for module in list(model.modules()) for part in _fuse_module(module, owners)]
    if example_inputs is not None:
        try:
            torch.testing.assert_close(outputs_of(model, example_inputs), before, rtol=1e-3, atol=1e-4, equal_nan=True)
        except Exception as error:
            for part in changed:
                _unfuse_module(part)
            raise ValueError(f"example_inputs: give other outputs when the model is fused: {error}") from error
    for part in changed:
        if isinstance(part, _activated._BatchNormAct):
            part.twice_differentiable = twice_differentiable
    return model


def unfuse(model: Model) -> Model:
    """Undoes `fuse`, in place; returns the model."""
    for module in model.modules():
        _unfuse_module(module)
    return model


@dataclass(frozen=True, eq=False)
class _Site:
    """A place where a normalization, perhaps an addition, and an activation follow each other."""

    norm: fx.Node
    addition: fx.Node | None
    activation: fx.Node
    name: str
    slope: float

    @property
    def key(self) -> tuple[Any, ...]:
        """The same in graphs of both modes."""
        return self.norm.target, self.addition is None, self.name, self.slope


def _activation_module(step: nn.Module) -> tuple[str, float] | None:
    name = _activation_modules.get(type(step))
    if type(step) is nn.Hardtanh and (step.min_val, step.max_val) == (0, 6):
        name = "relu6"
    if name is None or has_hooks(step):
        return None
    return name, step.negative_slope if isinstance(step, nn.LeakyReLU) else _default_slope


def _activation_of(node: fx.Node, module: nn.Module) -> tuple[str, float] | None:
    """The name and the slope of the activation that a step is; None for all other steps."""
    if node.op == "call_module":
        return _activation_module(module.get_submodule(str(node.target)))
    if node.op == "call_method" and node.target in ("relu", "relu_") and not node.kwargs:
        return "relu", _default_slope
    name = _functions.get(node.target) if node.op == "call_function" else None
    if name is None:
        return None
    slope = node.args[1] if len(node.args) > 1 and name == "leaky_relu" else node.kwargs.get("negative_slope")
    if slope is not None and not isinstance(slope, float | int):
        return None
    return name, _default_slope if slope is None else float(slope)


def _fuse_timms(module: nn.Module) -> bool:
    """timm's BatchNormAct2d holds its activation itself, behind a layer that may drop blocks; whether it is ours now."""
    if not is_class_of(module, ACTIVATED) or has_hooks(module):
        return False
    found = ("none", _default_slope) if is_identity(module.act) else _activation_module(module.act)  # type: ignore[arg-type]
    if found is None or not is_identity(module.drop):  # type: ignore[arg-type]
        return False
    _become(module, _activated.BatchNormAct2d, *found)
    return True


def _become(norm: nn.Module, fused: type[nn.Module], name: str, slope: float) -> None:
    norm.__dict__["_unfused_class"] = type(norm)
    norm.__class__ = fused
    norm.activation, norm.slope = name, slope  # type: ignore[assignment]


def _drop_identities(norm: fx.Node, module: nn.Module) -> None:
    """Leaves out what stands between a normalization and an activation where nothing is to be dropped or done."""
    following = only_user(norm)
    while following is not None and following.op == "call_module" and following.args == (norm,):
        if not is_identity(module.get_submodule(str(following.target))):
            return
        following.replace_all_uses_with(norm)
        norm.graph.erase_node(following)
        following = only_user(norm)


def _sites(graph: fx.Graph, module: nn.Module, owners: Counter[int]) -> list[_Site]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    sites = []
    for node in graph.nodes:
        if node.op != "call_module" or calls[node.target] > 1 or len(node.args) != 1 or node.kwargs:
            continue
        norm = module.get_submodule(str(node.target))
        if type(norm) not in _fused_classes or has_hooks(norm) or owners[id(norm)] > 1:
            continue
        if not is_own_step(module, str(node.target)):
            continue
        _drop_identities(node, module)
        last, addition = node, None
        following = only_user(last)
        if (
            following is not None
            and following.op == "call_function"
            and following.target in _additions
            and len(following.args) == 2
            and not following.kwargs
        ):
            others = [argument for argument in following.args if argument is not last]
            if len(others) == 1 and isinstance(others[0], fx.Node):
                last = addition = following
                following = only_user(last)
        if following is None or not following.args or following.args[0] is not last:
            continue
        found = _activation_of(following, module)
        if found is not None:
            sites.append(_Site(node, addition, following, *found))
    # Where two normalizations are added up, the first one is the other's residual.
    return list({site.activation: site for site in sites}.values())


def _rewrite(graph: fx.Graph, sites: list[_Site]) -> None:
    for site in sites:
        with graph.inserting_before(site.activation):
            terms = [] if site.addition is None else list(site.addition.args)
            residual = [term for term in terms if term is not site.norm]
            fused = graph.call_module(str(site.norm.target), (site.norm.args[0], *residual))
        site.activation.replace_all_uses_with(fused)
        for node in (site.activation, site.addition, site.norm):
            if node is not None:
                graph.erase_node(node)


def _fuse_module(module: nn.Module, owners: Counter[int]) -> list[nn.Module]:
    """The modules that are others now: this one, and the normalizations that it calls. None where nothing is found."""
    if "forward" in module.__dict__ or type(module) in _fused_classes:
        return []
    if not any(type(child) in _fused_classes for child in module.modules()):
        return []
    graphs = [graph for training in (True, False) if (graph := trace(module, training)) is not None]
    if len(graphs) < 2:
        return []
    found = [_sites(graph, module, owners) for graph in graphs]
    both = {site.key for site in found[0]} & {site.key for site in found[1]}
    if not both:
        return []
    for graph, sites in zip(graphs, found, strict=True):
        _rewrite(graph, [site for site in sites if site.key in both])
    forward = FusedForward(module, [_code_of(graph) for graph in graphs])
    changed = [module]
    for target, _, name, slope in both:
        norm = module.get_submodule(str(target))
        changed.append(norm)
        _become(norm, _fused_classes[type(norm)], name, slope)
    module.__dict__["forward"] = forward
    return changed


def _unfuse_module(module: nn.Module) -> None:
    if isinstance(module.__dict__.get("forward"), FusedForward):
        del module.__dict__["forward"]
    original = module.__dict__.pop("_unfused_class", None)
    if original is not None:
        module.__class__ = original
        del module.activation, module.slope
        module.__dict__.pop("twice_differentiable", None)
        if not issubclass(original, _modules._ExactBatchNorm):
            module.__dict__.pop("compiled", None)  # of a conversion in between


_Code = tuple[str, dict[str, tuple[str, str]]]


def _code_of(graph: fx.Graph) -> _Code:
    """A graph as Python's source of a function forward(self, ...), and where the objects are that it names."""
    graph.lint()
    code = graph.python_code("self")
    used = _names_in(compile(code.src, "<exactnorm.torch.fuse>", "exec"))
    return code.src, {name: _place_of(value) for name, value in code.globals.items() if name in used}


def _names_in(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _place_of(value: Any) -> tuple[str, str]:
    if isinstance(value, ModuleType):
        return value.__name__, ""
    module = getattr(value, "__module__", None) or "builtins"
    return ("torch" if module == "torch._VariableFunctionsClass" else module), getattr(value, "__qualname__", repr(value))


def _object_at(place: tuple[str, str]) -> Any:
    found = importlib.import_module(place[0])
    return operator.attrgetter(place[1])(found) if place[1] else found


def _function_of(code: _Code) -> Callable[..., Any]:
    source, places = code
    names: dict[str, Any] = {name: _object_at(place) for name, place in places.items()}
    exec(compile(source, "<exactnorm.torch.fuse>", "exec"), names)  # noqa: S102 - what torch.fx has written
    function: Callable[..., Any] = names["forward"]
    return function


class FusedForward:
    """forward() of a module without the activations that are part of its normalizations. Steps are looked up in the module
    at each call: those that are exchanged later take part."""

    def __init__(self, module: nn.Module, codes: list[_Code]) -> None:
        self._module, self._codes = module, codes
        self._in_training, self._in_evaluation = map(_function_of, codes)
        # Exporters ask a forward() for these.
        self.__name__ = "forward"
        self.__code__ = self._in_training.__code__
        self.__signature__ = inspect.signature(MethodType(self._in_training, module))

    def __call__(self, *arguments: Any, **keywords: Any) -> Tensor:
        function = self._in_training if self._module.training else self._in_evaluation
        output: Tensor = function(self._module, *arguments, **keywords)
        return output

    def __getstate__(self) -> tuple[nn.Module, list[_Code]]:
        return self._module, self._codes

    def __setstate__(self, state: tuple[nn.Module, list[_Code]]) -> None:
        self.__init__(*state)  # type: ignore[misc]
