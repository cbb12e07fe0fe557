"""Flushed subnormal numbers, by PyTorch's switch, change no result."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import exactnorm
import exactnorm.torch


@pytest.fixture
def flushing():
    assert torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def test_mean_of_subnormal_numbers(flushing):
    x = np.full((1, 90_001), 2e-40, np.float32)
    torch.set_flush_denormal(False)
    right = float(Fraction(float(x[0, 0])))
    torch.set_flush_denormal(True)
    for threads in (1, 2, 5):
        mean = exactnorm.statistics(x, channel_axes=0, threads=threads).mean.view(np.uint64)
        assert mean == np.array([right]).view(np.uint64)


def test_running_statistics_of_modules(flushing):
    def train() -> tuple[torch.Tensor, torch.Tensor]:
        layer = exactnorm.torch.BatchNorm1d(2, momentum=0.3, eps=1e-30)
        layer.running_mean.copy_(torch.tensor([3e-40, -2e-39]))
        torch.set_flush_denormal(flush)
        layer(x)
        torch.set_flush_denormal(False)
        return layer.running_mean.view(torch.int32), layer.running_var.view(torch.int32)

    torch.set_flush_denormal(False)
    x = torch.tensor([[1e-40, 5e-39], [4e-40, -1e-39], [2e-40, 1e-38]])
    flush = False
    right = train()
    flush = True
    found = train()
    assert torch.equal(found[0], right[0]) and torch.equal(found[1], right[1])
    assert right[0].ne(0).all()
