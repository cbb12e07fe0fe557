"""What the operators do: tensors of the CPU, of the dtypes below, channels on axis 1, handed to the library as they are.

Statistics travel as a float64 tensor of five rows: mean, mean_residual, variance, inverse_deviation, count. The functions
whose names end in _meta make outputs of the same layout without values, for PyTorch's compilers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exactnorm import _core

_dtype_names = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
dtypes = tuple(_dtype_names)
half_dtypes = (torch.bfloat16, torch.float16)
_View = tuple[int, str, tuple[int, ...], tuple[int, ...]]


def parameter_dtype(dtype: torch.dtype, parameters: tuple[Tensor | None, ...]) -> torch.dtype:
    """The dtype that all parameters and buffers beside an input of `dtype` are to have: the input's or, beside 16 bits,
    float32, if the first of them has it, as autocast leaves it."""
    if dtype in half_dtypes:
        first = next((value for value in parameters if value is not None), None)
        if first is not None and first.dtype == torch.float32:
            return torch.float32
    return dtype


def gradient_dtype(input: Tensor, weight: Tensor | None) -> torch.dtype:
    """The dtype of the gradients of weight and bias; without a weight one that holds either of a bias."""
    if weight is not None:
        return weight.dtype
    return torch.float32 if input.dtype in half_dtypes else input.dtype


def _view(tensor: Tensor) -> _View:
    return tensor.data_ptr(), _dtype_names[tensor.dtype], tensor.shape, tensor.stride()


def _optional_view(tensor: Tensor | None) -> _View | None:
    return None if tensor is None else _view(tensor)


def _new_statistics(like: Tensor, channels: int) -> Tensor:
    return like.new_empty((5, channels), dtype=torch.float64)


def batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return activated(input, None, weight, bias, eps, "none", 0.0)


def batch_norm_meta(input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(input), _new_statistics(input, input.shape[1])


def activated(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    output, statistics = batch_norm_meta(input, weight, bias, eps)
    _core.tensor_training(
        _view(input),
        _view(output),
        _optional_view(weight),
        _optional_view(bias),
        _view(statistics),
        eps,
        torch.get_num_threads(),
        _optional_view(residual),
        (activation, slope),
    )
    return output, statistics


def activated_meta(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    return batch_norm_meta(input, weight, bias, eps)


def inference(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    activation: tuple[str, float] = ("none", 0.0),
) -> Tensor:
    output = torch.empty_like(input)
    _core.tensor_inference(
        _view(input),
        _view(output),
        _view(running_mean),
        _view(running_var),
        _optional_view(weight),
        _optional_view(bias),
        eps,
        torch.get_num_threads(),
        _optional_view(residual),
        activation,
    )
    return output


def inference_meta(
    input: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    return torch.empty_like(input)


def given_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    statistics = _new_statistics(running_mean, running_mean.shape[0])
    _core.tensor_given_statistics(_view(running_mean), _view(running_var), _view(statistics), eps)
    return statistics


def given_statistics_meta(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    return _new_statistics(running_mean, running_mean.shape[0])


def backward_meta(
    grad_output: Tensor,
    input: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    eps: float,
    frozen: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    # Operators have to return tensors: what is not wanted is empty.
    channels, dtype = input.shape[1], gradient_dtype(input, weight)
    return (
        torch.empty_like(input) if output_mask[0] else input.new_empty(0),
        input.new_empty(channels if output_mask[1] else 0, dtype=dtype),
        input.new_empty(channels if output_mask[2] else 0, dtype=dtype),
    )


def backward(
    grad_output: Tensor,
    input: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    eps: float,
    frozen: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = backward_meta(grad_output, input, statistics, weight, eps, frozen, output_mask)
    dx, dweight, dbias = _wanted_views(gradients, output_mask)
    _pull_back(grad_output, input, statistics, weight, eps, frozen, (dx, None, dweight, dbias))
    return gradients


def _wanted_views(gradients: tuple[Tensor, ...], output_mask: list[bool]) -> tuple[_View | None, ...]:
    return tuple(_view(gradient) if wanted else None for gradient, wanted in zip(gradients, output_mask, strict=True))


def _pull_back(
    grad_output: Tensor,
    input: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    eps: float,
    frozen: bool,
    gradients: tuple[_View | None, ...],
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    output: Tensor | None = None,
    activation: tuple[str, float] = ("none", 0.0),
) -> None:
    """Writes the gradients of input, residual, weight and bias."""
    dx, d_residual, dweight, dbias = gradients
    _core.tensor_backward(
        _view(grad_output),
        _view(input),
        _view(statistics),
        _optional_view(weight),
        dx,
        dweight,
        dbias,
        frozen,
        eps,
        torch.get_num_threads(),
        _optional_view(bias),
        _optional_view(residual),
        d_residual,
        activation,
        _optional_view(output),
    )


def activated_backward_meta(
    grad_output: Tensor,
    input: Tensor,
    residual: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    frozen: bool,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_input, of_residual, *of_parameters = output_mask
    dx, dweight, dbias = backward_meta(grad_output, input, statistics, weight, eps, frozen, [of_input, *of_parameters])
    return dx, torch.empty_like(input) if of_residual else input.new_empty(0), dweight, dbias


def activated_backward(
    grad_output: Tensor,
    input: Tensor,
    residual: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    frozen: bool,
    activation: str,
    slope: float,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arguments = (grad_output, input, residual, output, statistics, weight, bias, eps, frozen, activation, slope, output_mask)
    gradients = activated_backward_meta(*arguments)
    views = _wanted_views(gradients, output_mask)
    function = activation, slope
    _pull_back(grad_output, input, statistics, weight, eps, frozen, views, bias, residual, output, function)
    return gradients


def is_recomputation() -> bool:
    """Whether this forward pass runs within a backward pass, as the second one of activation checkpointing does."""
    return torch._C._current_graph_task_id() != -1


def track(
    statistics: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float | None,
) -> None:
    """Counts a batch, if there is a counter, and updates running statistics, if there are any; once for each batch."""
    if is_recomputation():
        return
    if momentum is None and batches is not None:
        momentum = 1.0 / (int(batches) + 1)
    if running_mean is not None and running_var is not None and momentum is not None:
        _core.tensor_update_running(_view(statistics), _view(running_mean), _view(running_var), momentum)
        # PyTorch does not see these writes. A new version tells graphs that have saved the tensors.
        torch._C._increment_version((running_mean, running_var))
    if batches is not None:
        batches.add_(1)


def track_meta(
    statistics: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float | None,
) -> None:
    return None
