"""A model's batch normalizations beside the data that reaches them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from exactnorm._fold_report import FoldReport, RefusedNorm
from exactnorm._inspection import InspectedNorm, Inspection
from exactnorm._surds import Float64
from exactnorm.torch._batches import Forward, call, checked_batches, input_of, run, values_of
from exactnorm.torch._fold import fold
from exactnorm.torch._fold_sites import is_norm
from exactnorm.torch._graphs import check_is_python, modes_kept


def inspect(
    model: nn.Module,
    loader: Iterable[Any] | None = None,
    *,
    batches: int | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    folds: bool = True,
    progress: bool = False,
) -> Inspection:
    """Looks at a model's batch normalizations in evaluation, over the batches of a loader; `write` makes a page or JSON of it.

    Of each layer: the distribution of all values before it and after it; mean and variance of each channel, exact and pooled over all
    samples, beside the running ones; channels that are dead, exploding, or whose statistics have drifted; the scale by which a fold would multiply
    weights; whether it can be folded. The model is not changed.

    loader
        As for `recalibrate`. Without one, only parameters are looked at.
    batches
        How many of the loader's are used at most.
    forward
        Calls the model with a batch, as for `recalibrate`.
    device
        To which inputs are moved.
    folds
        Whether `fold` is tried, on a copy of the model, with samples of the first batch as the example where that is a tensor, or a list or tuple that
        starts with one.
    progress
        Whether tqdm shows a bar.

    Raises ValueError where the model has no batch normalization, and where the loader gives nothing.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2, eps=0))
    >>> found = exactnorm.torch.inspect(model, [torch.tensor([[0.0, 1.0], [4.0, 1.0]])])
    >>> found.norms["0"].drift.tolist(), [finding.kind for finding in found.norms["0"].findings]
    ([2.0, 1.0], ['dead', 'drift', 'deviation'])
    """
    check_is_python(model)
    modules = {name: module for name, module in model.named_modules() if is_norm(module)}
    if not modules:
        raise ValueError("model: has no batch normalization; expected at least one")
    for name, module in modules.items():
        if any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
            raise ValueError(f"model: {name or 'it'} is not initialized yet; expected a model that was called before")
    norms = {name: _inspected(name, module) for name, module in modules.items()}
    result = Inspection(type(model).__name__, norms)
    example = None
    if loader is not None:
        called, example = _run(model, modules, result, loader, checked_batches(batches), forward or call, device, progress)
        result.untouched |= {name: "no batch calls it" for name in norms if name not in called}
        result.norms = {name: norms[name] for name in (*called, *(name for name in norms if name not in called))}
    if folds:
        result.set_folds(_folds(model, example if forward is None else None))
    return result


def _values(tensor: Any) -> Float64 | None:
    return None if tensor is None else np.asarray(tensor.detach().cpu().double().numpy())


def _inspected(name: str, module: nn.Module) -> InspectedNorm:
    mean, variance = _values(module.running_mean), _values(module.running_var)
    gamma, beta = _values(module.weight), _values(module.bias)
    channels = int(module.num_features) if mean is None else len(mean)  # type: ignore[arg-type]
    gamma = np.ones(channels) if gamma is None else gamma
    beta = np.zeros(channels) if beta is None else beta
    return InspectedNorm(name, type(module).__name__, float(module.eps), gamma, beta, mean, variance)  # type: ignore[arg-type]


def _run(
    model: nn.Module,
    modules: dict[str, nn.Module],
    result: Inspection,
    loader: Iterable[Any],
    batches: int | None,
    forward: Forward,
    device: torch.device | str | None,
    progress: bool,
) -> tuple[list[str], Tensor | None]:
    """Adds what reaches the normalizations; returns their names in the order of the first calls, and the first batch's input where that is a
    tensor."""
    called: dict[str, None] = {}
    inputs: list[Any] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> None:
            called[name] = None
            if name in result.untouched:
                return
            try:
                result.norms[name].add(values_of(input_of(arguments, keywords)), values_of(output))
            except Exception as error:  # noqa: BLE001 - of a class with other values, beside which all others are known
                result.norms[name].forget()
                result.untouched[name] = f"its values cannot be added up: {error}"

        return hook

    def step(batch: Any) -> None:
        if not inputs:
            first = batch[0] if isinstance(batch, list | tuple) and batch else batch
            inputs.append(first.detach().clone() if isinstance(first, Tensor) else None)
        forward(model, batch)

    handles = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in modules.items()]
    try:
        with modes_kept(model):
            model.eval()
            result.batches = run(loader, step, batches, device, "inspect" if progress else None)
    finally:
        for handle in handles:
            handle.remove()
    if result.batches == 0:
        raise ValueError("loader: gives no batch; expected at least one")
    return list(called), inputs[0]


def _folds(model: nn.Module, example: Tensor | None) -> FoldReport:
    # Two samples, where the model takes so few: an example's values are kept at every layer.
    examples = [None] if example is None else [(example[:2],), (example,)]
    for given in examples:
        try:
            copied = copy.deepcopy(model)
            copied.eval()
            return fold(copied, given)[1]
        except Exception as error:  # noqa: BLE001 - a model that fold cannot look at is one that does not fold
            reason = f"the model cannot be folded: {error}"
    return FoldReport(refused=[RefusedNorm(name, reason) for name, module in model.named_modules() if is_norm(module)])
