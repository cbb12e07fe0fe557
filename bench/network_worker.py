"""A process for each row of bench/networks.py, with all its competitors, and one for each whose memory is measured."""

from __future__ import annotations

import copy
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

# PyTorch twice: the second one's ratio to the first is the noise.
PLAIN = ("pytorch", "again")
WAYS = (*PLAIN, "enabled", "converted", "fused", "both")
# enable() reaches nothing that is compiled, and compilers fuse by themselves.
COMPILED_WAYS = (*PLAIN, "converted", "both")
# What a step consists of, by the profiler's names of operations, without aten::; the first part that has the name.
PARTS = {
    "normalization": ("batch_norm", "_Activated", "_Training", "_Inference", "exactnorm"),
    "activations": ("relu", "hardtanh", "clamp", "threshold", "silu", "hardswish", "leaky"),
    "convolutions": ("convolution", "conv", "mm"),
    "other": ("",),
}
PROFILED_SECONDS = 0.05
# Python's code of a model that has just become another is slow for the first hundred calls.
SETTLING_SECONDS = 0.05
TIMED_SECONDS = 0.03
ADDITIONS = ("aten::add", "aten::add_")


class Network:
    """A model and its step, one way after the other.

    The model stays the same object, with the same memory: where that lies makes equal models differ by several per cent in
    the time of convolutions. Only compiled ones are copies. PyTorch's own kernels are put back before it has its turn.
    """

    def __init__(self, network: str, memory_format: str, dtype: str, step: str, compiled: str | None, threads: int) -> None:
        torch.set_num_threads(threads)
        import exactnorm.torch

        self.memory_before = _status("VmRSS")
        torch.manual_seed(2015)
        model, x = NETWORKS[network].make(), torch.randn(NETWORKS[network].shape)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0  # each competitor would draw other numbers
        if memory_format == "nhwc":
            model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        self.dtype, self.is_training, self.compiled, self.x = dtype, step == "training", compiled, x
        self.model = model.train(self.is_training)
        self.original = copy.deepcopy(self.model) if compiled else None
        self.copies: dict[str, tuple[nn.Module, Any]] = {}
        self.call: Any = self.model
        self.enabled: Callable[[], AbstractContextManager[None]] = nullcontext
        self.ours = exactnorm.torch

    def become(self, way: str) -> None:
        """From now on, steps are those of this way."""
        if self.original is not None:
            name = PLAIN[0] if way in PLAIN else way
            if name not in self.copies:
                model = copy.deepcopy(self.original)
                self._prepare(model, name)
                self.copies[name] = model, torch.compile(model)
            self.model, self.call = self.copies[name]
        else:
            self.ours.revert(self.ours.unfuse(self.model))
            self._prepare(self.model, way)
        self.enabled = self.ours.enable if way == "enabled" else nullcontext
        if way in PLAIN:
            self.ours._enable.uninstall()

    def _prepare(self, model: nn.Module, way: str) -> None:
        if way in ("converted", "both"):
            self.ours.convert(model, compiled="exact" if self.compiled == "exact" else "fast")
        if way in ("fused", "both"):
            self.ours.fuse(model)

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

    def first_loss(self, way: str) -> float:
        self.become(way)
        return self.step()

    def turn(self, way: str) -> float:
        """Milliseconds a step."""
        self.become(way)
        self._steps(SETTLING_SECONDS)
        return self._steps(TIMED_SECONDS)

    def _steps(self, seconds: float) -> float:
        """At least one, for so long; milliseconds of one of them."""
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < seconds:
            self.step()
            count += 1
        return (time.perf_counter() - start) * 1e3 / count

    def parts(self, way: str) -> dict[str, float]:
        """Milliseconds of a step in each of PARTS, in additions, and in all."""
        self.become(way)
        steps = max(1, round(PROFILED_SECONDS * 1e3 / self._steps(SETTLING_SECONDS)))
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

    def kept_bytes(self, way: str) -> int:
        """Of all tensors that the forward pass keeps for the backward pass."""
        self.become(way)
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

    def peak_bytes(self, way: str) -> int:
        """The highest resident memory of the process after two steps, less what it had before there was a model: of a process
        that has taken steps of no other way."""
        self.become(way)
        for _ in range(2):
            self.step()
        return _status("VmHWM") - self.memory_before


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
    network = Network(*arguments)
    while (call := connection.recv()) is not None:
        name, way = call
        connection.send(getattr(network, name)(way))


class Worker:
    """A network in a process of its own; its methods are called by name."""

    def __init__(self, *arguments: Any) -> None:
        # From a server, which has PyTorch loaded, and no thread of its own yet.
        context = get_context("forkserver")
        context.set_forkserver_preload(["network_worker"])
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, arguments), daemon=True)
        self._process.start()
        other.close()

    def call(self, name: str, way: str) -> Any:
        self._connection.send((name, way))
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the network's process ended with status {self._process.exitcode}") from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._connection.send(None)
            self._process.join()
