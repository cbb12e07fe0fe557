"""Batch normalization over all ranks of a process group, on CPU tensors: `torch.nn.SyncBatchNorm`'s counterpart."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from exactnorm import _core
from exactnorm.torch import _kernels
from exactnorm.torch._kernels import _new_statistics, _optional_view, _view, track
from exactnorm.torch._modules import arguments_of
from exactnorm.torch._operators import are_opaque, dispatches_itself, only_wanted, pull_back
from exactnorm.torch.functional import normalize

ProcessGroup = Any


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.SyncBatchNorm` for tensors of the CPU, (N, C) and (N, C, ...): same arguments, same state_dict.

    Normalizes by the statistics of the batches of all ranks in `process_group` (default: all there are). The sums behind
    them are exact, so that outputs, input gradients and running statistics are the bits that one process gives for the
    whole batch, whatever rank holds what; ranks may hold different numbers of samples, or none.

    All ranks call the module in the same order. A wrong input on one of them raises the same ValueError on all, which names
    the rank. Where a rank died, or does not call within the process group's timeout
    (`torch.distributed.init_process_group(timeout=...)`), the others raise RuntimeError.

    Gradients of weight and bias are this rank's shares, which DistributedDataParallel averages, as PyTorch's are. In
    evaluation mode, without a process group and in one of a single rank it is a `BatchNorm` of this rank.

    >>> import torch, exactnorm.torch
    >>> exactnorm.torch.SyncBatchNorm(3)(torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 7.0]])).detach().round()
    tensor([[ 0., -1., -1.],
            [ 0.,  1.,  1.]])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        # PyTorch 2.10 has affine alone.
        without = {} if bias else {"bias": False}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, **without
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalizes by the batch of all ranks, updating running statistics, or in evaluation mode by these."""
        group = self._group_to_ask() if self.training else None
        if group is not None:
            output: Tensor = self._normalize_with(group, input)
            return output
        self._check_input_dim(input)
        return normalize(input, *arguments_of(self))

    def _group_to_ask(self) -> ProcessGroup | None:
        if not (distributed.is_available() and distributed.is_initialized()):
            return None
        group = self.process_group or distributed.group.WORLD
        return group if distributed.get_world_size(group) > 1 else None

    # Compilers cannot trace messages.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _normalize_with(self, group: ProcessGroup, input: Tensor) -> Tensor:
        problem = self._problem_with(input)
        # Messages are sent outside of all transforms, or the others would wait.
        with temporarily_clear_interpreter_stack():
            exchange = self._exchange_over(group)
            if problem is not None:
                exchange.fail(*problem)
        outputs = _Synchronized.apply(  # type: ignore[no-untyped-call]
            _real(input), self.weight, self.bias, exchange, self.eps
        )
        output: Tensor
        output, statistics = outputs
        if statistics.numel() > 0 and float(statistics[4, 0]) == 1:
            raise ValueError("Expected more than 1 value per channel when training, got 1 on all ranks together")
        if self.track_running_stats and self.num_batches_tracked is not None:
            track(statistics, self.running_mean, self.running_var, self.num_batches_tracked, self.momentum)
        return output

    def _first_tensor(self) -> Tensor | None:
        tensors = (self.weight, self.bias, self.running_mean)
        return next((tensor for tensor in tensors if tensor is not None), None)

    def _own_dtype(self) -> torch.dtype | None:
        tensor = self._first_tensor()
        return None if tensor is None else tensor.dtype

    def _problem_with(self, input: Tensor) -> tuple[str, str] | None:
        """What the library cannot find out by itself: the name of an argument, and what is wrong with it."""
        if torch._C._are_functorch_transforms_active():
            return "input", "is within a transform of torch.func, which SyncBatchNorm cannot follow in training"
        own = {name: getattr(self, name) for name in ("weight", "bias", "running_mean", "running_var")}
        tensors = {name: tensor for name, tensor in {"input": input, **own}.items() if tensor is not None}
        for name, tensor in tensors.items():
            if isinstance(tensor, FakeTensor) or dispatches_itself(type(tensor)):
                return name, f"is a {type(tensor).__name__}; expected a plain tensor"
            if _has_tangent(tensor):
                return name, "has a tangent of forward mode, which SyncBatchNorm cannot follow in training"
        expected = self._own_dtype()
        if not input.is_cpu:
            return (
                "input",
                f"is on the device {input.device}; expected the CPU (torch.nn.SyncBatchNorm is for others)",
            )
        if input.layout != torch.strided:
            return "input", f"has the layout {input.layout}; expected torch.strided"
        if not 2 <= input.dim() <= 8:
            return "input", f"is {input.dim()}D; expected 2D to 8D"
        if input.shape[1] != self.num_features:
            return "input", f"has {input.shape[1]} channels; expected {self.num_features}"
        for name, tensor in tensors.items():
            if name != "input" and not tensor.is_cpu:
                return name, f"is on the device {tensor.device}; expected the CPU, as the input"
            if name != "input" and expected is not None and tensor.dtype != expected:
                return name, f"is {_name(tensor.dtype)}; expected {_name(expected)}, as the module's others"
            if name != "input" and tensor.shape != (self.num_features,):
                return name, f"has shape {tuple(tensor.shape)}; expected ({self.num_features},)"
        if not _is_within(self.eps, sys.float_info.max):
            return "eps", f"is {self.eps!r}; expected a finite number of 0 or more"
        if self.momentum is not None and not _is_within(self.momentum, 1):
            return "momentum", f"is {self.momentum!r}; expected a number from 0 to 1, or None"
        if input.dtype not in _kernels.dtypes:
            return "input", f"is {_name(input.dtype)}; expected float32, float64, bfloat16 or float16"
        if expected is not None and expected != _kernels.parameter_dtype(input.dtype, (self._first_tensor(),)):
            fitting = f"{_name(expected)}, as the module"
            if expected == torch.float32:
                fitting = "float32, bfloat16 or float16, as the module is float32"
            return "input", f"is {_name(input.dtype)}; expected {fitting}"
        return None

    def _exchange_over(self, group: ProcessGroup) -> _core.Exchange:
        """Made by all ranks at the first call, when they compare what they are about to send."""
        # Without a tensor that tells, the sums are of the range that holds both dtypes.
        extended = self._own_dtype() in (None, torch.float64)
        key = (id(group), self.num_features, extended)
        known = self.__dict__.get("_exchange")
        if known is None or known[0] != key:
            exchange = _core.Exchange(
                distributed.get_rank(group),
                distributed.get_world_size(group),
                _AllReduce(group),
                _Gather(group),
                self.num_features,
                extended,
            )
            known = self.__dict__["_exchange"] = (key, exchange)
        result: _core.Exchange = known[1]
        return result

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles agree with the other ranks by themselves.
        return {name: value for name, value in self.__dict__.items() if name != "_exchange"}

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
        """`convert_sync_batchnorm`, under the name that it has in `torch.nn.SyncBatchNorm`."""
        return convert_sync_batchnorm(module, process_group)


def convert_sync_batchnorm(module: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
    """Makes every batch normalization of a model a `SyncBatchNorm`, in place; returns the model.

    As `torch.nn.SyncBatchNorm.convert_sync_batchnorm`, whose modules it takes, too. Parameters and buffers are shared with
    the modules before, and so are state_dict's keys. Raises ValueError for lazy modules that have not seen an input.

    >>> import torch, exactnorm.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    >>> exactnorm.torch.convert_sync_batchnorm(model)[1]
    SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    for name, child in list(module.named_children()):
        converted = convert_sync_batchnorm(child, process_group)
        if converted is not child:
            module.add_module(name, converted)
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(f"{type(module).__name__} has not seen an input; expected modules whose size is known")
    result = SyncBatchNorm(
        module.num_features,
        module.eps,
        module.momentum,
        affine=False,
        track_running_stats=module.track_running_stats,
        process_group=process_group,
        device="meta",
    )
    result.affine = module.affine
    # In Module's own dictionaries: hooks stay, and parameters keep their identity for optimizers.
    result.__dict__.update({name: value for name, value in module.__dict__.items() if name.startswith("_")})
    result.__dict__.pop("_exchange", None)
    result.training = module.training
    return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _AllReduce:
    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __call__(self, numbers: NDArray[np.int64]) -> None:
        with _Explained(self.group):
            distributed.all_reduce(torch.from_numpy(numbers), group=self.group)


class _Gather:
    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __call__(self, text: bytes) -> list[bytes]:
        texts: list[Any] = [None] * distributed.get_world_size(self.group)
        with _Explained(self.group):
            distributed.all_gather_object(texts, text, group=self.group)
        return texts


class _Explained:
    """Says what a failure of the process group means."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            rank, size = distributed.get_rank(self.group), distributed.get_world_size(self.group)
            raise RuntimeError(
                f"SyncBatchNorm: rank {rank} of {size} did not hear from the others: one of them died, or did not call "
                f"within the process group's timeout, or {distributed.get_backend(self.group)} cannot add up int64 "
                f"tensors of the CPU ({error})"
            ) from error


class _Synchronized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, exchange: _core.Exchange, eps: float
    ) -> tuple[Tensor, Tensor]:
        output = torch.empty_like(input)
        statistics = _new_statistics(input, exchange.channels)
        exchange.training(
            _view(input),
            _view(output),
            _optional_view(weight),
            _optional_view(bias),
            _view(statistics),
            eps,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(input, weight, statistics)
        ctx.exchange = exchange
        ctx.eps = eps
        ctx.mark_non_differentiable(statistics)
        return output, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        input, weight, statistics = ctx.saved_tensors
        for_input, for_weight, for_bias = ctx.needs_input_grad[:3]
        if not for_input:
            # What is left needs no other rank: the gradients of frozen statistics.
            wanted = [False, for_weight, for_bias]
            gradients = pull_back(grad_output, input, statistics, weight, ctx.eps, True, wanted)
            return *only_wanted(gradients, wanted), None, None
        if are_opaque((grad_output,)):
            with temporarily_clear_interpreter_stack():
                ctx.exchange.fail("grad_output", "is within a transform, which SyncBatchNorm cannot follow")
        grad_output = _real(grad_output)
        grad_input = torch.empty_like(input)
        dtype = _kernels.gradient_dtype(input, weight)
        grad_weight = input.new_empty(input.shape[1], dtype=dtype) if for_weight else None
        grad_bias = input.new_empty(input.shape[1], dtype=dtype) if for_bias else None
        ctx.exchange.backward(
            _view(grad_output),
            _view(input),
            _view(statistics),
            _optional_view(weight),
            _view(grad_input),
            _optional_view(grad_weight),
            _optional_view(grad_bias),
            ctx.eps,
            torch.get_num_threads(),
        )
        return grad_input, grad_weight, grad_bias, None, None


def _is_within(value: Any, largest: float) -> bool:
    try:
        return 0 <= float(value.__float__()) <= largest  # a str has no such method
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False


def _has_tangent(tensor: Tensor) -> bool:
    if forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _real(tensor: Tensor) -> Tensor:
    """With numbers in memory, where PyTorch has only marked a tensor as negated, or as zero."""
    return tensor.clone() if tensor.is_neg() or tensor._is_zerotensor() else tensor
