"""What torch.fx tells of a model's steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx, nn


# Normalizations of other packages that hold their activation themselves, by the names of their modules.
ACTIVATED = {("timm.layers.norm_act", "BatchNormAct2d")}


def is_class_of(module: nn.Module, classes: set[tuple[str, str]]) -> bool:
    """By name, so that its package need not be there."""
    return (type(module).__module__, type(module).__name__) in classes


def compilers_off() -> AbstractContextManager[Any]:
    """Compiled parts of a model run as Python has them: compiled code does not call hooks that are new."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        # By train(), as modules may do more in it; it changes what is below them, too.
        for module, training in modes.items():
            if module.training != training:
                module.train(training)
        for module, training in modes.items():
            module.training = training


def check_is_python(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model: is a torch.jit.ScriptModule; expected a module with its forward() in Python")


def outputs_of(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with modes_kept(model), torch.no_grad(), compilers_off():
        model.eval()
        return model(*inputs)


class _Children(fx.Tracer):
    """Traces one module's own forward(), of which all other modules are steps."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


class Layers(fx.Tracer):
    """Traces a whole model, of which torch.nn's modules are steps, and others by choice."""

    def __init__(self, is_step: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_step = is_step

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return self._is_step(module) or super().is_leaf_module(module, name)


def trace_whatever_arguments(module: nn.Module, make: Callable[[], fx.Tracer] | None = None) -> fx.Graph | None:
    """As `trace`, in the module's mode; None, too, where the steps depend on arguments that a caller may leave out."""
    graph = trace(module, module.training, make() if make else None)
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.default is not inspect.Parameter.empty}
    if graph is None or not defaults:
        return graph
    without = trace(module, module.training, make() if make else None, defaults)
    if without is None or _steps_in(graph) != _steps_in(without):
        return None
    return graph


def _steps_in(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in graph.nodes if node.op in ("call_module", "call_method", "get_attr")]


def trace(
    module: nn.Module, training: bool, tracer: fx.Tracer | None = None, arguments: dict[str, Any] | None = None
) -> fx.Graph | None:
    """The steps of a module's forward() in a mode, all other modules being steps or by a tracer; with some arguments fixed. None where
    they cannot be told."""
    attributes, mode = set(module.__dict__), module.training
    module.training = training
    try:
        graph = (tracer or _Children()).trace(module, arguments)
        has_constants = set(module.__dict__) != attributes
        return None if has_constants else graph
    except Exception:  # noqa: BLE001 - forward() is anybody's code, and may fail in any way on what stands in for tensors
        return None
    finally:
        module.training = mode
        # Constants of which the tracer has made attributes.
        for name in set(module.__dict__) - attributes:
            del module.__dict__[name]


def has_hooks(module: nn.Module) -> bool:
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def is_identity(module: nn.Module) -> bool:
    return type(module) is nn.Identity and not has_hooks(module)


def only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_own_step(module: nn.Module, target: str) -> bool:
    """Whether no module in between has a forward() of its own, which might call the step as well; lists have none."""
    *between, _ = target.split(".")
    for name in between:
        module = module.get_submodule(name)
        if type(module).forward is not nn.Module.forward:
            return False
    return True
