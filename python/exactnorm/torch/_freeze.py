"""Normalizations that stay in evaluation while the rest of a model trains."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

Model = TypeVar("Model", bound=nn.Module)


class _StaysInEvaluation:
    """A module's train(), which it shadows as an attribute of the instance: whatever the class, in copies and pickles."""

    def __init__(self, module: nn.Module, parameters: list[str]) -> None:
        self._module = module
        self.parameters = parameters  # which were trained before

    def __call__(self, mode: bool = True) -> Any:
        return type(self._module).train(self._module, False)


def freeze(model: Model, *, parameters: bool = True) -> Model:
    """Keeps a model's batch normalizations in evaluation from now on, in place, whatever train() says; returns the model.

    What is trained then normalizes by the running statistics, which no batch changes: usual where batches are small, or a
    pretrained network is adapted. All classes of batch normalization with running statistics are meant: torch.nn's, this package's, fused and
    synchronized ones, and classes derived from them. `unfreeze` undoes it.

    parameters
        Whether gamma and beta are constants as well, without gradients.

    Raises ValueError where a normalization has no running statistics.

    >>> import torch, exactnorm.torch
    >>> model = exactnorm.torch.freeze(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))).train()
    >>> model.training, model[1].training, model[1].weight.requires_grad
    (True, False, False)
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    for name, module in norms.items():
        if module.running_mean is None or module.running_var is None or not module.track_running_stats:
            raise ValueError(f"model: has no running statistics in {name or 'itself'}; expected some that it can be frozen with")
        if is_lazy(module.running_mean):
            raise ValueError(f"model: {name or 'it'} is not initialized yet; expected a model that was called before")
    for module in norms.values():
        frozen = module.__dict__.get("train")
        trained = list(frozen.parameters) if isinstance(frozen, _StaysInEvaluation) else []
        if parameters:
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    parameter.grad = None
                    trained.append(name)
        module.train(False)
        module.__dict__["train"] = _StaysInEvaluation(module, trained)
    return model


def unfreeze(model: Model) -> Model:
    """Undoes `freeze`, in place, for all of a model's modules; returns the model. They have the model's mode, and train what they trained."""
    for module in model.modules():
        frozen = module.__dict__.get("train")
        if not isinstance(frozen, _StaysInEvaluation):
            continue
        del module.__dict__["train"]
        for name in frozen.parameters:
            parameter = getattr(module, name)
            if parameter is not None:
                parameter.requires_grad_(True)
        module.train(model.training)
    return model
