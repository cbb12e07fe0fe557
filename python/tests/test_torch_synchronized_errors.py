"""SyncBatchNorm when something is wrong on one rank, or differs between ranks: all hear the same, and go on."""

from __future__ import annotations

import os
import signal
import time

import exactnorm.torch
import pytest
import torch
from ranks import batch, outcomes_of, results_of


def wrong_on_one(rank, size, mistake):
    layer = exactnorm.torch.SyncBatchNorm(3)
    good = batch(1, (4, 3))
    bad = {
        "channels": batch(1, (4, 5)),
        "float64": good.double(),
        "int32": good.int(),
        "one dimension": good[0],
        "meta": good.to("meta"),
        "sparse": good.to_sparse(),
    }[mistake]
    texts = []
    try:
        layer(bad if rank == 1 else good)
    except ValueError as error:
        texts.append(str(error))
    tracked = int(layer.num_batches_tracked)
    # All go on with the next batch.
    return texts, tracked, layer(good).isfinite().all().item()


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("channels", "input on rank 1: has 5 channels; expected 3"),
        ("float64", "input on rank 1: is float64; expected float32, bfloat16 or float16, as the module is float32"),
        ("int32", "input on rank 1: is int32; expected float32, float64, bfloat16 or float16"),
        ("one dimension", "input on rank 1: is 1D; expected 2D to 8D"),
        ("meta", "input on rank 1: is on the device meta; expected the CPU (torch.nn.SyncBatchNorm is for others)"),
        ("sparse", "input on rank 1: has the layout torch.sparse_coo; expected torch.strided"),
    ],
)
def test_a_mistake_of_one_rank_is_the_error_of_all(mistake, expected):
    for texts, tracked, went_on in results_of(wrong_on_one, 3, mistake):
        assert texts == [expected]
        assert (tracked, went_on) == (0, True)


def wrong_module_on_one(rank, size, attribute, value):
    layer = exactnorm.torch.SyncBatchNorm(3)
    right = getattr(layer, attribute)
    if rank == 1:
        setattr(layer, attribute, value)
    good = batch(1, (4, 3))
    texts = []
    try:
        layer(good)
    except ValueError as error:
        texts.append(str(error))
    setattr(layer, attribute, right)
    tracked = int(layer.num_batches_tracked)
    return texts, tracked, layer(good).isfinite().all().item()


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("momentum", 2, "momentum on rank 1: is 2; expected a number from 0 to 1, or None"),
        ("eps", "a", "eps on rank 1: is 'a'; expected a finite number of 0 or more"),
        ("eps", -1.0, "eps on rank 1: is -1.0; expected a finite number of 0 or more"),
        ("running_mean", torch.zeros(2), "running_mean on rank 1: has shape (2,); expected (3,)"),
        ("running_var", torch.ones(1, 3), "running_var on rank 1: has shape (1, 3); expected (3,)"),
    ],
)
def test_a_module_that_is_wrong_on_one_rank_is_the_error_of_all(attribute, value, expected):
    for texts, tracked, went_on in results_of(wrong_module_on_one, 3, attribute, value):
        assert texts == [expected]
        assert (tracked, went_on) == (0, True)


def backward_of_another_batch(rank, size):
    layer = exactnorm.torch.SyncBatchNorm(3)
    outputs = [layer(batch(seed, (4, 3)).requires_grad_()) for seed in (1, 2)]
    try:
        outputs[0 if rank == 1 else 1].sum().backward()
    except ValueError as error:
        return str(error)
    return None


def test_backward_of_another_batch_on_one_rank_is_the_error_of_all():
    texts = results_of(backward_of_another_batch, 3)
    assert len(set(texts)) == 1
    assert texts[0].startswith("call on rank 1: is number 3, gradients, epsilon 1e-05 beside the variance, statistics ")


def modules_that_differ(rank, size):
    layer = exactnorm.torch.SyncBatchNorm(3 + rank // 2)
    layer(batch(1, (4, layer.num_features)))


def epsilons_that_differ(rank, size):
    exactnorm.torch.SyncBatchNorm(3, eps=1e-5 if rank == 0 else 1e-3)(batch(1, (4, 3)))


def single_value(rank, size):
    exactnorm.torch.SyncBatchNorm(3)(batch(1, (1 if rank == 1 else 0, 3)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (modules_that_differ, "layers on rank 2: are 4 channels of range single; expected 3 channels of range single"),
        (epsilons_that_differ, "call on rank 1: is number 1, moments, epsilon 0.001"),
        (single_value, "Expected more than 1 value per channel when training, got 1 on all ranks together"),
    ],
)
def test_ranks_that_disagree_are_told(function, expected):
    for outcome in outcomes_of(function, 3):
        assert isinstance(outcome, ValueError)
        assert str(outcome).startswith(expected)


def one_stops(rank, size, how):
    layer = exactnorm.torch.SyncBatchNorm(3)
    layer(batch(1, (4, 3)))
    start = time.monotonic()
    if rank == 1 and how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and how == "sleeps":
        time.sleep(8)
        return None
    running = layer.running_mean.clone()
    try:
        layer(batch(2, (4, 3)))
    except RuntimeError as error:
        assert torch.equal(layer.running_mean, running)
        return str(error), time.monotonic() - start
    return "no error", 0


@pytest.mark.parametrize("how", ["dies", "sleeps"])
def test_a_rank_that_is_gone_ends_the_others(how):
    outcomes = outcomes_of(one_stops, 3, how, timeout=3)
    assert outcomes[1] is None
    for rank in (0, 2):
        text, seconds = outcomes[rank]
        assert text.startswith(f"SyncBatchNorm: rank {rank} of 3 did not hear from the others: one of them died")
        assert seconds < 7
