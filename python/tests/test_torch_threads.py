"""Modules in evaluation that threads share: each thread's results, and the buffers, are those of one thread."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import exactnorm.torch

THREADS = 8


@pytest.mark.parametrize("channels_last", [False, True])
def test_modules_in_evaluation(channels_last: bool) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.BatchNorm2d(7), nn.ReLU(), nn.BatchNorm2d(7, affine=False))
    for module in (model[0], model[2]):
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
    nn.init.normal_(model[0].weight)
    exactnorm.torch.convert(model).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = [torch.randn(3 + i, 7, 9, 5) for i in range(THREADS)]
    if channels_last:
        inputs = [x.to(memory_format=torch.channels_last) for x in inputs]

    def results(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        y = model(x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    expected = [results(x) for x in inputs]
    start = threading.Barrier(THREADS)
    wrong: list[object] = []

    def work(i: int) -> None:
        try:
            start.wait()
            for _ in range(40):
                for found, right in zip(results(inputs[i]), expected[i], strict=True):
                    if not torch.equal(found, right):
                        wrong.append((i, found, right))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
