#!/usr/bin/env python3
"""Folds five networks, in PyTorch and as ONNX: how many normalizations, the error against float64, and the time before and after.

Usage: .venv-bench/bin/python bench/folding.py

The networks are those of bench/networks.py, with random weights, statistics of a training step and random gamma and beta. Errors are
by the largest output of the same network in float64. The time is an evaluation's of a batch of 1: medians over rounds in which
the two take turns.
"""

from __future__ import annotations

import copy
import io
import sys
import warnings
from typing import Any

import onnx
import onnxruntime
import torch
from network_models import NETWORKS
from python_peers import processor
from report_tables import table
from torch import Tensor, nn
from turns import median_ratio, time_in_turn

import exactnorm.onnx
import exactnorm.torch

NAMES = ["ResNet-50", "MobileNetV2", "DenseNet-121", "U-Net", "speech"]
HEADS = [
    "network", "folded", "largest bound", "error before", "error after", "PyTorch, ms", "folded", "ONNX: folded",
    "ONNX Runtime, ms", "folded",
]  # fmt: skip
LARGEST_ERROR = 1e-4
ROUNDS, SECONDS = 15, 3


def trained(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2015)
    model = NETWORKS[name].make().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 1.0
    x = torch.randn(NETWORKS[name].shape)
    with torch.no_grad():
        model(x)
    return model.eval(), x[:1]


def exported(model: nn.Module, x: Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}  # or it is folded already
        torch.onnx.export(model, (x,), file, dynamo=False, input_names=["x"], **kept)
    return onnx.load_from_string(file.getvalue())


def error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).abs().max() / exact.abs().max())


def row(name: str) -> list[str]:
    model, x = trained(name)
    folded, report = exactnorm.torch.fold(model, (x,))
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        errors = [error(one(x), exact) for one in (model, folded)]
        times = time_in_turn({"before": lambda: model(x), "after": lambda: folded(x)}, ROUNDS, SECONDS)
    protobuf = exported(model, x)
    new, of_onnx = exactnorm.onnx.fold(protobuf)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for one in (protobuf, new)
    ]
    values: dict[str, Any] = {"x": x.numpy()}
    errors.append(error(torch.from_numpy(sessions[1].run(None, values)[0]), exact))
    if not max(errors) < LARGEST_ERROR:
        raise ValueError(f"{name}: errors {errors}; expected at most {LARGEST_ERROR}")
    of_runtime = time_in_turn(
        {"before": lambda: sessions[0].run(None, values), "after": lambda: sessions[1].run(None, values)}, ROUNDS, SECONDS
    )
    count, count_onnx = len(report.folded), len(of_onnx.folded)
    return [
        name, f"{count} of {count + len(report.refused)}", f"{max(norm.bound for norm in report.folded):.1e}",
        f"{errors[0]:.1e}", f"{errors[1]:.1e}",
        f"{times['before'].median:.3g}", f"{median_ratio(times['before'], times['after']):.2f}x",
        f"{count_onnx} of {count_onnx + len(of_onnx.refused)}",
        f"{of_runtime['before'].median:.3g}", f"{median_ratio(of_runtime['before'], of_runtime['after']):.2f}x",
    ]  # fmt: skip


def main() -> int:
    print(
        f"PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, exactnorm {exactnorm.__version__}, "
        f"{torch.get_num_threads()} threads, {processor()}\n"
    )
    print(table(HEADS, map(row, NAMES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
