"""PyTorch's own batch normalization, computed by exactnorm in the whole process: no module changes its class."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any

import torch

from exactnorm import _core


class _Enabled:
    """What `enable` returns: leaving its `with` block puts back what was before."""

    def __init__(self, before: bool) -> None:
        self._before = before

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _core.torch_enable(self._before)


def _replace_nothing() -> None:
    """PyTorch warns once in a process that a kernel is replaced: here, where nobody has to read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library: Any = torch.library.Library("aten", "IMPL", "CPU")  # type: ignore[no-untyped-call]
        library.impl("native_batch_norm", lambda *arguments: None, "CPU")
        library._destroy()


_is_installed = False


def install() -> None:
    """Replaces PyTorch's kernels by those that pass all calls on unless they are asked to compute."""
    global _is_installed
    if not _is_installed:
        _replace_nothing()
        _core.torch_install()
        _is_installed = True


def is_installed() -> bool:
    return _is_installed


def uninstall() -> None:
    """Puts PyTorch's own kernels back: for measurements of both in one process.

    No other thread computes meanwhile, and no graph that was made before has its backward pass still to come. A later
    `enable`, or step of a converted module, replaces them again.
    """
    global _is_installed
    _core.torch_uninstall()
    _is_installed = False


def enable() -> _Enabled:
    """From now on, computes what `torch.nn.functional.batch_norm` does on the CPU, whoever calls it, in eager mode.

    torch.nn's modules and InstanceNorm, other packages' modules, `torch.jit.script`'s programs, `torch.func`'s transforms and
    autocast are among the callers. Also a context manager: `with exactnorm.torch.enable(): ...`, for the whole process, all
    its threads.

    The first call of a process replaces PyTorch's kernels, for good: it is made before other threads run networks. All later
    ones, and `disable`, are safe at any time.

    Raises RuntimeError where PyTorch is older than 2.10.
    """
    install()
    return _Enabled(_core.torch_enable(True))


def disable() -> None:
    """PyTorch computes again: its kernels' results, bit for bit, some microseconds later in each call."""
    _core.torch_enable(False)


def is_enabled() -> bool:
    """Whether `enable` is in force."""
    return _core.torch_is_enabled()
