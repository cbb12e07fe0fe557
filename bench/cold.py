"""Tensors as calls find them in a network: by the same means as in exactnorm_bench (bench/cold.h)."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

from exactnorm_calls import OUTPUTS, Tensors
from problems import Case, Shape

# Of 256 KB in float32: enough for all threads to have a part in it.
SMALL_SHAPES: dict[int, Shape] = {4: (16, 64, 8, 8), 2: (256, 256)}


class _ColdMemory(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("written_from", ctypes.c_void_p)]


def layer_before(case: Case) -> Case:
    """Another layer, a small one, which runs before each cold call on the same threads. Without it, what is measured
    would be how fast sleeping threads wake up."""
    return replace(case, shape=SMALL_SHAPES[len(case.shape)])


class ColdTensors:
    """Evicts the tensors of a case from all caches, and has other processors write that anew which the layer before
    would have written; reads outputs as the layer after would."""

    def __init__(self, library: Path, tensors: Tensors) -> None:
        module = ctypes.CDLL(str(library))
        self._make_cold = module.exactnorm_bench_make_cold
        self._make_cold.argtypes = [ctypes.POINTER(_ColdMemory), ctypes.c_size_t, ctypes.c_int]
        self._make_cold.restype = None
        self._read_lines = module.exactnorm_bench_read_lines
        self._read_lines.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._read_lines.restype = ctypes.c_uint64
        self._tensors = tensors
        just_written = "dy" if tensors.case.operation == "backward" else "x"
        # The array is kept, as it is what is copied from.
        self._source = tensors.memory.as_array(tensors.inputs[just_written]).copy()
        self._memories = [
            self._memory(tensor, self._source.ctypes.data if name == just_written else None)
            for name, tensor in (tensors.outputs | tensors.inputs).items()
        ]
        # An output that a call has allocated; its memory may be the next call's.
        self._latest: Any = None

    def prepare(self) -> None:
        memories = self._memories if self._latest is None else [self._memory(self._latest), *self._memories]
        self._make_cold((_ColdMemory * len(memories))(*memories), len(memories), self._tensors.case.threads)
        self._latest = None

    def read(self, returned: Any) -> None:
        """The large output: the first of what a call returns, or that of the tensors where a call returns nothing."""
        output = returned[0] if isinstance(returned, (list, tuple)) else returned
        if output is None:
            output = self._tensors.outputs[OUTPUTS[self._tensors.case.operation][0]]
        else:
            self._latest = output
        memory = self._memory(output)
        self._read_lines(memory.data, memory.bytes)

    def _memory(self, tensor: Any, written_from: int | None = None) -> _ColdMemory:
        memory = self._tensors.memory
        return _ColdMemory(memory.address(tensor), memory.as_array(tensor).nbytes, written_from)
