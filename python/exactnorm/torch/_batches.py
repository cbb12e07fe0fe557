"""Forward passes over a loader's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exactnorm.torch._graphs import compilers_off

Forward = Callable[[nn.Module, Any], Any]


def checked_batches(batches: int | None) -> int | None:
    if batches is not None and (not isinstance(batches, int) or batches < 1):
        raise ValueError(f"batches: is {batches!r}; expected at least 1")
    return batches


def input_of(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """What a layer is called with, whatever its parameter is named."""
    return arguments[0] if arguments else next(value for value in keywords.values() if isinstance(value, Tensor))


def call(model: nn.Module, batch: Any) -> Any:
    """A batch is a tensor; a tuple or list, whose first element is the input; or a mapping of keyword arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, list | tuple) and batch else batch)


def moved(value: Any, device: torch.device | str | None) -> Any:
    """A batch with all its tensors on a device."""
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if not isinstance(value, list | tuple):
        return value
    parts = [moved(part, device) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)  # a namedtuple, or not


def run(
    loader: Iterable[Any], step: Callable[[Any], None], most: int | None, device: torch.device | str | None, progress: str | None
) -> int:
    """Calls `step` with each batch, `most` of them at most, without gradients, and returns how many there were. `progress`: what a bar says."""
    if isinstance(loader, Tensor):
        raise TypeError("loader: is a tensor; expected an iterable of batches, [tensor] for one")
    batches = loader
    if progress is not None:
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError("progress: is True, which needs tqdm: pip install tqdm") from None
        batches = tqdm(loader, desc=progress)
    count = 0
    with torch.no_grad(), compilers_off():
        for batch in batches:
            step(moved(batch, device))
            count += 1
            if count == most:
                break
    return count


def values_of(tensor: Tensor) -> Any:
    """As NumPy has them; bfloat16, which it does not have, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
