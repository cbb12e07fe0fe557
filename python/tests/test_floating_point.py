"""Flushed subnormal numbers, by PyTorch's switch, change no result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch

import exactnorm
import exactnorm.torch


@contextmanager
def flushing(flush: bool = True) -> Iterator[None]:
    assert torch.set_flush_denormal(flush)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def test_mean_of_subnormal_numbers():
    x = np.full((1, 90_001), 2e-40, np.float32)
    right = np.array([float(Fraction(float(x[0, 0])))])
    assert right[0] > 0
    for threads in (1, 2, 5):
        with flushing():
            mean = exactnorm.statistics(x, channel_axes=0, threads=threads).mean
        assert mean == right


def test_running_statistics_of_modules():
    x = torch.tensor([[1e-40, 5e-39], [4e-40, -1e-39], [2e-40, 1e-38]])

    def train(flush: bool) -> tuple[torch.Tensor, torch.Tensor]:
        layer = exactnorm.torch.BatchNorm1d(2, momentum=0.3, eps=1e-30)
        layer.running_mean.copy_(torch.tensor([3e-40, -2e-39]))
        with flushing(flush):
            layer(x)
        return layer.running_mean.view(torch.int32), layer.running_var.view(torch.int32)

    found, right = train(True), train(False)
    assert torch.equal(found[0], right[0]) and torch.equal(found[1], right[1])
    assert right[0].ne(0).all()


def test_parameters_that_are_set():
    values = np.array([1e-40, -3e-41], np.float32)
    right = [float(Fraction(float(value))) for value in values]
    layer = exactnorm.BatchNorm(2)
    with flushing():
        layer.gamma = values
        layer.running.mean = values
        running = exactnorm.RunningStatistics.from_values(values, 1)
    assert layer.gamma.tolist() == layer.running.mean.tolist() == running.mean.tolist() == right
