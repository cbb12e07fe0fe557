"""Running statistics of a model, computed anew: exact means and variances over all samples of a loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from exactnorm import Moments
from exactnorm.torch._batches import Forward, call, checked_batches, input_of, run, values_of
from exactnorm.torch._graphs import modes_kept
from exactnorm.torch._recalibration import RecalibratedNorm, Recalibration, set_statistics


class _Reached(BaseException):
    """Ends a forward pass whose rest nobody needs; not an Exception, which a model may catch."""


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    sequential: bool = False,
    batches: int | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    process_group: ProcessGroup | None = None,
    progress: bool = False,
) -> Recalibration:
    """Sets the running statistics of a model's batch normalizations to mean and variance over all samples of a loader, in place.

    Mean and variance of a layer are those of all values that reach it, from exact sums, whatever the batches; the variance has n - 1
    in its denominator, as PyTorch's running one. A batch counts by its size. Layers that are never called keep what they have. Everything but
    the normalizations is in evaluation mode meanwhile: dropout is off. All modes are put back.

    loader
        Gives tensors; tuples or lists, whose first element is the input; or mappings, for keyword arguments. Any number of batches, of
        any sizes; in one pass, each with more than one value for each channel of each layer. With `sequential` it is gone through
        once for each layer and once before, which a generator cannot be.
    sequential
        False: one pass, in which each layer normalizes by its batch, as in training. The values that reach a layer depend on the
        batches before it, then: only the first layers' statistics are the same for each split of the data.
        True: layer after layer, as the network is called, each with the statistics that were found for the layers before it, as in
        evaluation. No split, order or number of ranks changes the result, as far as the modules between give a sample the same
        output in each batch.
    batches
        How many of the loader's are used at most.
    forward
        Calls the model with a batch; `lambda model, batch: model(batch["image"])`, for example.
    device
        To which inputs are moved.
    process_group
        Whose ranks each have a part of the data, torch.distributed.group.WORLD for all of them; every rank has the same results.
    progress
        Whether tqdm shows a bar.

    Raises ValueError where the loader gives nothing, and where values are not finite or a channel has a single one. Whatever fails, the
    model is left as it was.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    >>> parts = [torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[10.0, 4.0], [4.0, 6.0]])]
    >>> result = exactnorm.torch.recalibrate(model, parts)
    >>> model[0].running_mean, model[0].running_var
    (tensor([4., 3.]), tensor([18.6667,  6.0000]))
    >>> result.norms["0"].count
    4
    """
    norms = {name: norm for name, norm in model.named_modules() if _has_statistics(norm)}
    if not norms:
        raise ValueError("model: has no batch normalization with running statistics; expected at least one")
    passes = _Passes(model, norms, loader, batches, forward or call, device, process_group, progress)
    old = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms.items()}
    with _unchanged_after_errors(norms), modes_kept(model):
        model.eval()
        if sequential:
            moments = _sequentially(norms, passes, old)
        else:
            moments = _in_one_pass(norms, passes, old)
            for name, sums in moments.items():
                set_statistics(norms[name], name, sums)
        for name in moments:
            counter = norms[name].num_batches_tracked
            if counter is not None:
                counter.fill_(passes.batches_of_last)
    found = {
        name: RecalibratedNorm(name, sums, old[name][0], old[name][1], float(norms[name].eps))
        for name, sums in moments.items()
    }
    return Recalibration(found, [name for name in norms if name not in moments])


def update_bn(loader: Iterable[Any], model: nn.Module, device: torch.device | str | None = None) -> None:
    """`torch.optim.swa_utils.update_bn`, whose arguments it takes, by `recalibrate`: pooled over samples, and with dropout off."""
    if any(_has_statistics(module) for module in model.modules()):
        recalibrate(model, loader, device=device)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


@contextmanager
def _unchanged_after_errors(norms: dict[str, Any]) -> Iterator[None]:
    kept = {name: {key: value.clone() for key, value in norm.named_buffers(recurse=False)} for name, norm in norms.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for name, buffers in kept.items():
                for key, value in buffers.items():
                    getattr(norms[name], key).copy_(value)
        raise


class _Passes:
    """Passes over the loader's batches, and what they collect."""

    def __init__(
        self,
        model: nn.Module,
        norms: dict[str, Any],
        loader: Iterable[Any],
        batches: int | None,
        forward: Forward,
        device: torch.device | str | None,
        group: ProcessGroup | None,
        progress: bool,
    ) -> None:
        self._model, self._norms, self._loader, self._most = model, norms, loader, checked_batches(batches)
        self._forward, self._device, self._group, self._progress = forward, device, group, progress
        self.batches_of_last = 0

    def collect(self, names: Iterable[str], ends_there: bool = False) -> tuple[dict[str, Moments], Counter[str]]:
        """The moments of what reaches some layers, of all ranks, in the order of the first calls; and how often each is called in one
        forward pass at most. `ends_there`: the forward pass ends at the layer, which is the only one."""
        names = list(names)
        moments: dict[str, Moments] = {}
        calls: list[str] = []
        most_calls: Counter[str] = Counter()

        def end_forward() -> None:
            for name, count in Counter(calls).items():
                most_calls[name] = max(most_calls[name], count)
            calls.clear()

        def keep(name: str) -> Any:
            def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                calls.append(name)
                values = values_of(input_of(arguments, keywords))
                channels = int(module.running_mean.numel())  # type: ignore[operator]
                if values.ndim < 2 or values.shape[1] != channels:
                    raise ValueError(f"model: {name or 'it'} gets values of shape {values.shape}; expected {channels} channels on axis 1")
                moments.setdefault(name, Moments(channels))
                if values.size > 0:
                    moments[name].add(values, threads=torch.get_num_threads())
                if ends_there:
                    raise _Reached

            return hook

        handles = [self._norms[name].register_forward_pre_hook(keep(name), with_kwargs=True) for name in names]
        problem: Exception | None = None
        try:
            self._run(end_forward)
        except Exception as error:  # noqa: BLE001 - other ranks have to hear of any
            problem = error
        finally:
            for handle in handles:
                handle.remove()
        if self._group is not None:
            moments, most_calls = self._of_all_ranks(moments, most_calls, problem)
        if problem is not None:
            raise problem
        return moments, most_calls

    def _run(self, end_forward: Callable[[], None]) -> None:
        def step(batch: Any) -> None:
            try:
                self._forward(self._model, batch)
            except _Reached:
                pass
            end_forward()

        count = run(self._loader, step, self._most, self._device, "recalibrate" if self._progress else None)
        self.batches_of_last = count
        if count == 0 and self._group is None:
            raise ValueError("loader: gives no batch; expected at least one, in each pass where there are several")

    def _of_all_ranks(
        self, moments: dict[str, Moments], calls: Counter[str], problem: Exception | None
    ) -> tuple[dict[str, Moments], Counter[str]]:
        size = distributed.get_world_size(self._group)
        parts: list[Any] = [None] * size
        text = None if problem is None else f"{type(problem).__name__}: {problem}"
        distributed.all_gather_object(parts, (text, moments, calls, self.batches_of_last), group=self._group)
        for rank, (text, *_) in enumerate(parts):
            if text is not None and problem is None:
                raise RuntimeError(f"recalibrate: rank {rank} of {size} failed: {text}")
        merged: dict[str, Moments] = {}
        for _, of_rank, _, _ in parts:
            for name, sums in of_rank.items():
                merged[name] = merged[name] + sums if name in merged else sums
        self.batches_of_last = sum(count for *_, count in parts)
        if self.batches_of_last == 0:
            raise ValueError("loader: gives no batch on any rank; expected at least one, in each pass where there are several")
        most_calls: Counter[str] = Counter()
        for _, _, of_rank, _ in parts:
            most_calls |= of_rank  # the larger one of each
        return merged, most_calls


def _in_one_pass(norms: dict[str, Any], passes: _Passes, old: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Moments]:
    for norm in norms.values():
        norm.training = True
    moments, _ = passes.collect(norms)
    for name, norm in norms.items():
        # What the passes made of them.
        norm.running_mean.copy_(old[name][0])
        norm.running_var.copy_(old[name][1])
    return moments


def _sequentially(norms: dict[str, Any], passes: _Passes, old: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Moments]:
    called, calls = passes.collect(norms)
    moments: dict[str, Moments] = {}
    for name in called:
        if calls[name] > 1:
            raise ValueError(
                f"sequential: is True, with {name} called {calls[name]} times in a forward pass; expected once, as its "
                "statistics depend on themselves"
            )
        found, _ = passes.collect([name], ends_there=True)
        if name not in found:
            raise ValueError(f"loader: calls {name} in one pass, and in the next one not; expected the same data in each")
        moments.update(found)
        set_statistics(norms[name], name, found[name])
    return moments
