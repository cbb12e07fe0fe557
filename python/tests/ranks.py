"""Processes of this machine that form a process group, to run a function of a test in."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

# A server that has imported PyTorch forks each rank in some milliseconds, and has no threads that a fork would lose.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torch.distributed", "exactnorm.torch"])


def batch(seed, shape, dtype=torch.float32):
    """Random numbers far from zero, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1000).to(dtype)


def _work(function, rank, size, directory, timeout, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{directory}/store", size)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    try:
        outcome = function(rank, size, *arguments)
    except Exception as error:  # what the test is to see
        outcome = error
        outcome.__notes__ = [traceback.format_exc()]
    Path(directory, f"{rank}.partial").write_bytes(pickle.dumps(outcome))
    Path(directory, f"{rank}.partial").rename(Path(directory, str(rank)))
    # Without farewell: a rank that died would keep the others waiting.
    os._exit(0)


def outcomes_of(function, size, *arguments, timeout=30):
    """What function(rank, size, *arguments) returned or raised in each rank; None of one that died."""
    with tempfile.TemporaryDirectory() as directory:
        processes = [
            _context.Process(target=_work, args=(function, rank, size, directory, timeout, arguments))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            assert process.exitcode is not None, "a rank hangs"
        files = [Path(directory, str(rank)) for rank in range(size)]
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]


def results_of(function, size, *arguments, timeout=30):
    """The same where nothing is to be raised."""
    outcomes = outcomes_of(function, size, *arguments, timeout=timeout)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes
