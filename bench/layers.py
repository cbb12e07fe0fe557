#!/usr/bin/env python3
"""A layer's training step, with what surrounds it in networks: Exactnorm beside PyTorch, in each dtype.

Usage: .venv-bench/bin/python bench/layers.py --shape 16,64,28,28 --dtype float32,bfloat16

A step is y = relu(bn(x) + residual), and the gradients of x, gamma, beta and the residual from that of y; less of it
where the layer has no residual or no relu. With a mask, of N, H and W at half density, it is bn of what is selected,
and 0 elsewhere. PyTorch's is eager: its functions, and y.backward(dy); with a mask, bn of the rows that are indexed by
it, written into zeros. Exactnorm's is
`batch_norm` and `batch_norm_backward` on PyTorch's tensors, into outputs that exist. Parameters are float32.

Both answers are compared with PyTorch in float64 first, but for elements that relu's jump is near to. A row with a
wrong answer is not printed, and the exit code is 1. Then both, and Exactnorm's bn alone, are timed in turn; a ratio is
the median over rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from python_peers import WrongAnswer, list_of, parse_shape, processor, report
from turns import Call, median_ratio, time_in_turn

import exactnorm

LAYERS = ["bn", "bn+relu", "bn+add+relu", "bn+mask"]
LAYOUTS = ["nchw", "nhwc"]
# Of the largest right value; and how near to relu's jump its result is left to chance. Sums have elements on the other
# side of the jump in them: few in float32, more where PyTorch rounds to 16 bits before it. Its channels-last sums of
# float32 round each addition.
TOLERANCES = {"float32": 3e-4, "float16": 1e-3, "bfloat16": 1e-2}
TOLERANCES_OF_PEER = {"float32": 1e-2, "float16": 6e-2, "bfloat16": 6e-2}
MARGINS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
AT_JUMP = 1e-6

Outputs = dict[str, torch.Tensor]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shape", type=parse_shape, action="append", required=True, help="N,C,H,W; may be repeated")
    parser.add_argument("--layout", type=list_of(LAYOUTS), default=LAYOUTS, help=f"of {', '.join(LAYOUTS)}")
    parser.add_argument("--layer", type=list_of(LAYERS), default=LAYERS, help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--dtype", type=list_of(TOLERANCES), default=list(TOLERANCES), help=f"of {', '.join(TOLERANCES)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5, help="at least (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if any(len(shape) != 4 for shape in arguments.shape):
        parser.error("--shape: expected N,C,H,W")
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return arguments


class Layer:
    """One row: the numbers, and a step by either library."""

    def __init__(self, name: str, shape: tuple[int, ...], layout: str, dtype: str, threads: int) -> None:
        self.name, self.shape, self.layout, self.dtype, self.threads = name, shape, layout, dtype, threads
        torch.manual_seed(2015)
        memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        self.x, self.dy, self.residual = (
            torch.randn(shape).to(getattr(torch, dtype)).contiguous(memory_format=memory) for _ in range(3)
        )
        self.mask = torch.rand(shape[0], *shape[2:]) < 0.5
        self.gamma = torch.rand(shape[1]) * 2.5 - 1
        self.beta = torch.randn(shape[1])
        self._y, self._dx, self._d_residual = (torch.zeros_like(self.x) for _ in range(3))
        self._leaves = [
            tensor.clone(memory_format=torch.preserve_format).requires_grad_()
            for tensor in (self.x, self.gamma, self.beta, self.residual)
        ]

    @property
    def has_relu(self) -> bool:
        return "relu" in self.name

    @property
    def has_residual(self) -> bool:
        return "add" in self.name

    @property
    def has_mask(self) -> bool:
        return "mask" in self.name

    def _outputs(self, y: torch.Tensor, gradients: list[torch.Tensor]) -> Outputs:
        names = ["y", "dx", "dgamma", "dbeta", "d_residual"]
        return dict(zip(names, [y, *gradients], strict=False))

    def _forward(self, leaves: list[torch.Tensor]) -> torch.Tensor:
        x, gamma, beta, residual = leaves
        if self.has_mask:
            rows = x.movedim(1, -1)
            y = torch.zeros_like(rows)
            y[self.mask] = torch.nn.functional.batch_norm(rows[self.mask], None, None, gamma, beta, training=True)
            return y.movedim(-1, 1)
        y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
        if self.has_residual:
            y = y + residual
        return torch.nn.functional.relu(y) if self.has_relu else y

    def pytorch(self) -> Outputs:
        for leaf in self._leaves:
            leaf.grad = None
        y = self._forward(self._leaves)
        y.backward(self.dy)
        return self._outputs(y.detach(), [leaf.grad for leaf in self._leaves if leaf.grad is not None])

    def ours(self, name: str | None = None) -> Outputs:
        name = self.name if name is None else name
        given: dict[str, Any] = {"threads": self.threads}
        if "relu" in name:
            given["activation"] = "relu"
        if "add" in name:
            given["residual"] = self.residual
        if "mask" in name:
            given["mask"] = self.mask
        _, found = exactnorm.batch_norm(self.x, self.gamma, self.beta, out=self._y, return_statistics=True, **given)
        if "add" in name:
            given["out_residual"] = self._d_residual
        gradients = exactnorm.batch_norm_backward(
            self.dy, self.x, found, self.gamma, self.beta, out=self._dx, **given
        )
        return self._outputs(self._y, [self._dx, *gradients[1:]])

    def check(self, who: str, found: Outputs, tolerance: float) -> float:
        """The largest error."""
        leaves = [leaf.detach().double().requires_grad_() for leaf in self._leaves]
        y = self._forward(leaves)
        y.backward(self.dy.double())
        right = self._outputs(y.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None])
        # Where the jump is near, y is small, or 0 beside a number that is.
        with torch.no_grad():
            normalized = torch.nn.functional.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True)
            before = normalized + leaves[3] if self.has_residual else normalized
            normalized_x = torch.nn.functional.batch_norm(leaves[0], None, None, training=True)
        is_clear = (before.abs() > MARGINS[self.dtype]) if self.has_relu else torch.ones_like(before, dtype=torch.bool)
        # What an element next to the jump adds to the sums, or does not: float32 decides otherwise than float64.
        is_at_jump = (before.abs() < AT_JUMP) & torch.tensor(self.has_relu)
        of_jump = (self.dy.double().abs() * is_at_jump).transpose(0, 1).flatten(1)
        doubt = {
            "dgamma": (of_jump * normalized_x.abs().transpose(0, 1).flatten(1)).sum(1),
            "dbeta": of_jump.sum(1),
        }
        largest = 0.0
        for name, answer in right.items():
            difference = (_as_float64(found[name]) - answer).abs()
            if name in ("dx", "d_residual"):
                difference = difference[is_clear]
            if name in doubt:
                difference = (difference - doubt[name]).clamp(min=0)
            largest = max(largest, float(difference.max() / answer.abs().max()))
        if not largest <= tolerance:
            raise WrongAnswer(
                f"{who}: {self.name} {self.layout} {self.shape} {self.dtype}: the largest error is {largest:.2g} of "
                f"the largest value; expected at most {tolerance:.0e}"
            )
        return largest


def _as_float64(array: Any) -> torch.Tensor:
    """Of a tensor, or of NumPy's array, whose bfloat16 PyTorch does not take."""
    return array.double() if isinstance(array, torch.Tensor) else torch.from_numpy(array.astype("float64"))


def description() -> dict[str, Any]:
    return {
        "name": "PyTorch",
        "version": torch.__version__,
        "variant": "eager",
        "isa": torch.backends.cpu.get_cpu_capability(),
        "returns_new_arrays": True,
    }


def measure(layer: Layer, rounds: int, seconds: float) -> dict[str, Any]:
    errors = {
        "peer": layer.check("PyTorch", layer.pytorch(), TOLERANCES_OF_PEER[layer.dtype]),
        "exactnorm": layer.check("Exactnorm", layer.ours(), TOLERANCES[layer.dtype]),
    }
    calls: dict[str, Call] = {
        "exactnorm": layer.ours,
        "exactnorm_bn": lambda: layer.ours("bn"),
        "peer": layer.pytorch,
    }
    times = time_in_turn(calls, rounds, seconds)
    return {
        "op": layer.name,
        "layout": layer.layout,
        "shape": list(layer.shape),
        "dtype": layer.dtype,
        "bytes_per_tensor": layer.x.nbytes,
        "threads": layer.threads,
        "target": exactnorm.active_target(),
        "exactnorm_version": exactnorm.__version__,
        "rounds": len(times["peer"].milliseconds),
        "peer": description(),
        "milliseconds": {name: of.median for name, of in times.items()},
        "quartiles": {name: of.quartiles for name, of in times.items()},
        "ratio_to_peer": median_ratio(times["peer"], times["exactnorm"]),
        "ratio_to_bn_alone": median_ratio(times["exactnorm"], times["exactnorm_bn"]),
        "largest_error": errors,
    }


class Benchmark:
    """All rows, and what happened on the way to them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.found_wrong_answers = False
        torch.set_num_threads(arguments.threads)

    def header(self) -> dict[str, Any]:
        return {
            "program": "layers",
            "exactnorm_version": exactnorm.__version__,
            "target": exactnorm.active_target(),
            "cpu": processor(),
            "threads": self._arguments.threads,
            "peers": [description()],
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        given = self._arguments
        for shape, layout, dtype, name in product(given.shape, given.layout, given.dtype, given.layer):
            try:
                yield measure(Layer(name, shape, layout, dtype, given.threads), given.rounds, given.seconds)
            except WrongAnswer as wrong:
                print(f"wrong answer: {wrong}", file=sys.stderr)
                self.found_wrong_answers = True


def print_table(rows: Iterator[dict[str, Any]]) -> None:
    print(f"{'shape':14} {'layout':6} {'dtype':9} {'layer':12} {'ms':>9} {'of bn':>6} {'PyTorch':>9} {'ratio':>7}")
    for row in rows:
        times = row["milliseconds"]
        print(
            f"{','.join(map(str, row['shape'])):14} {row['layout']:6} {row['dtype']:9} {row['op']:12} "
            f"{times['exactnorm']:9.4g} {row['ratio_to_bn_alone']:6.2f} {times['peer']:9.4g} "
            f"{row['ratio_to_peer']:7.2f}",
            flush=True,
        )


def main() -> int:
    arguments = parse_arguments()
    return report(Benchmark(arguments), arguments.json, print_table)


if __name__ == "__main__":
    sys.exit(main())
