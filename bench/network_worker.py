"""A process for each competitor of bench/networks.py: PyTorch's kernels, once replaced, stay so for the process, and the
highest point of a process's memory is that of one competitor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from network_models import NETWORKS
from torch import Tensor, nn
from torch.autograd.profiler import profile
from turns import turn

# PyTorch twice: processes of one program differ, by where their memory lies.
PLAIN = ("pytorch", "again")
WAYS = (*PLAIN, "enabled", "converted", "fused", "both")
# What a step consists of, by the profiler's names of operations, without aten::; the first part that has the name.
PARTS = {
    "normalization": ("batch_norm", "_Activated", "_Training", "_Inference", "exactnorm"),
    "activations": ("relu", "hardtanh", "clamp", "threshold", "silu", "hardswish", "leaky"),
    "convolutions": ("convolution", "conv", "mm"),
    "other": ("",),
}
PROFILED_SECONDS = 0.5
ADDITIONS = ("aten::add", "aten::add_")


class Competitor:
    """A network, prepared in one of the ways, and its step."""

    def __init__(
        self, way: str, network: str, memory_format: str, dtype: str, step: str, compiled: str | None, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        if way not in PLAIN:
            import exactnorm.torch
        self.before = _status("VmRSS")
        torch.manual_seed(2015)
        model, x = NETWORKS[network].make(), torch.randn(NETWORKS[network].shape)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0  # each competitor would draw other numbers
        if memory_format == "nhwc":
            model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        self.dtype, self.is_training, self.x = dtype, step == "training", x
        self.enabled: Callable[[], AbstractContextManager[None]] = nullcontext
        if way in ("converted", "both"):
            exactnorm.torch.convert(model, compiled="exact" if compiled == "exact" else "fast")
        if way in ("fused", "both"):
            exactnorm.torch.fuse(model)
        if way == "enabled":
            self.enabled = exactnorm.torch.enable
        self.model = model.train(self.is_training)
        self.call = torch.compile(model) if compiled else model

    def _loss(self) -> Tensor:
        context: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()
        )
        with context:
            return self.call(self.x).float().square().mean()

    def step(self) -> float:
        with self.enabled():
            if not self.is_training:
                with torch.no_grad():
                    return float(self._loss())
            self.model.zero_grad(set_to_none=True)
            loss = self._loss()
            loss.backward()
            return float(loss.detach())

    def turn(self) -> float:
        """Milliseconds a step."""
        return turn(self.step)

    def parts(self) -> dict[str, float]:
        """Milliseconds of a step in each of PARTS, in additions, and in all."""
        start = time.perf_counter()
        self.step()
        steps = max(1, round(PROFILED_SECONDS / (time.perf_counter() - start)))
        with _silent_stderr(), profile(use_kineto=False) as profiler:
            for _ in range(steps):
                self.step()
        found = {name: 0.0 for name in (*PARTS, "additions", "all")}
        for event in profiler.key_averages():
            milliseconds = event.self_cpu_time_total / 1000 / steps
            found["all"] += milliseconds
            if event.key in ADDITIONS:
                found["additions"] += milliseconds
            else:
                part = next(part for part, names in PARTS.items() if any(name in event.key for name in names))
                found[part] += milliseconds
        return found

    def kept_bytes(self) -> int:
        """Of all tensors that the forward pass keeps for the backward pass."""
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        owned = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        with self.enabled(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss()
        del loss
        return sum(size for address, size in storages.items() if address not in owned)

    def peak_bytes(self) -> int:
        """The highest resident memory of the process so far, less what it had before there was a model."""
        return _status("VmHWM") - self.before


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler reports each start and stop there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _work(connection: Connection, arguments: tuple[Any, ...]) -> None:
    competitor = Competitor(*arguments)
    while (name := connection.recv()) is not None:
        connection.send(getattr(competitor, name)())


class Worker:
    """A competitor in a process of its own; its methods are called by name."""

    def __init__(self, *arguments: Any) -> None:
        # From a server, which has PyTorch loaded, and no thread of its own yet.
        context = get_context("forkserver")
        context.set_forkserver_preload(["network_worker"])
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, arguments), daemon=True)
        self._process.start()
        other.close()

    def call(self, name: str) -> Any:
        self._connection.send(name)
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a competitor ended with status {self._process.exitcode}") from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._connection.send(None)
            self._process.join()
