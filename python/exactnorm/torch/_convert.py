"""Models of `torch.nn` that become exactnorm's, and back."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

from exactnorm.torch import _marked, _modules
from exactnorm.torch._synchronized import SyncBatchNorm

Model = TypeVar("Model", bound=nn.Module)

_ours: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _modules.BatchNorm1d,
    nn.BatchNorm2d: _modules.BatchNorm2d,
    nn.BatchNorm3d: _modules.BatchNorm3d,
    nn.LazyBatchNorm1d: _modules.LazyBatchNorm1d,
    nn.LazyBatchNorm2d: _modules.LazyBatchNorm2d,
    nn.LazyBatchNorm3d: _modules.LazyBatchNorm3d,
}
_theirs = {ours: theirs for theirs, ours in _ours.items()} | {SyncBatchNorm: nn.SyncBatchNorm}


def convert(model: Model, *, compiled: Literal["fast", "exact"] = "fast") -> Model:
    """Makes every batch normalization of `torch.nn` in a model exactnorm's, in place; returns the model.

    compiled
        What they do under `torch.compile` and `torch.export`: "fast" is what `torch.nn`'s modules do, which compilers fuse with
        what is around them, with PyTorch's results; "exact" is an operator, with exactnorm's results.

    The modules stay the same objects, with their parameters, buffers, mode and hooks: optimizers, state_dicts and references
    to them go on as before, and `revert` undoes it. Classes derived from `torch.nn`'s are left as they are, since their
    forward() may be another; SyncBatchNorm, too.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    >>> before = model.state_dict()
    >>> model = exactnorm.torch.convert(model)
    >>> model.load_state_dict(before)
    <All keys matched successfully>
    """
    if compiled not in ("fast", "exact"):
        raise ValueError(f"compiled: is {compiled!r}; expected 'fast' or 'exact'")
    _marked.is_available()  # now rather than in the first training step, which may be one of several threads
    _exchange(model, _ours)
    for module in model.modules():
        if isinstance(module, _modules._ExactBatchNorm):
            module.compiled = compiled
    return model


def revert(model: Model) -> Model:
    """Makes every batch normalization of exactnorm in a model `torch.nn`'s again, in place; returns the model.

    A `SyncBatchNorm` becomes `torch.nn.SyncBatchNorm`, which trains on other devices than the CPU, and evaluates on all.
    """
    return _exchange(model, _theirs)


def _exchange(model: Model, classes: dict[type[nn.Module], type[nn.Module]]) -> Model:
    for module in model.modules():
        other = classes.get(type(module))
        if other is not None:
            module.__class__ = other
            module.__dict__.pop("compiled", None)
            module.__dict__.pop("_exchange", None)  # what a SyncBatchNorm agreed on with other ranks
    return model
