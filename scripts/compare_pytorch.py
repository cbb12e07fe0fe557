#!/usr/bin/env python3
"""Normalizes hard inputs with the command `exactnorm` and with PyTorch, and prints both errors.

Usage: .venv/bin/python scripts/compare_pytorch.py [COMMAND]     (default: build/release/exactnorm)

The judge is a two-pass computation in NumPy's longdouble (64 bits of significand on x86). Printed is the
largest |y - exact|, where y has deviation 1 (or is 0, for a constant input). Exits with 1 if exactnorm's
error exceeds 4 * 2^-24 * |exact| anywhere, which is what a careful float32 implementation can promise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional

ROOT = Path(__file__).resolve().parents[1]
EPSILON = 1e-5
UNIT = 2.0**-24


def exact(x: np.ndarray) -> np.ndarray:
    """Channels on axis 1, biased variance, epsilon inside of the square root."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    return centred / np.sqrt(variance + np.longdouble(EPSILON))


def largest_error(y: np.ndarray, reference: np.ndarray) -> float:
    return float(np.max(np.abs(y.astype(np.longdouble) - reference)))


def keeps_promise(y: np.ndarray, reference: np.ndarray) -> bool:
    return bool(np.all(np.abs(y.astype(np.longdouble) - reference) <= 4 * UNIT * np.abs(reference)))


def by_command(command: Path, x: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "x.npy", x)
    subprocess.run(
        [command, "normalize", folder / "x.npy", "--output", folder / "y.npy", "--channel-axes", "1"],
        check=True,
    )
    return np.load(folder / "y.npy")


def by_pytorch(x: np.ndarray, memory_format: torch.memory_format) -> np.ndarray:
    tensor = torch.tensor(x).to(memory_format=memory_format)
    return functional.batch_norm(tensor, None, None, training=True, eps=EPSILON).numpy()


def inputs() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(2015)
    shape = (32, 4, 28, 28)
    normal = generator.standard_normal(shape)
    return {
        "standard normal": normal.astype(np.float32),
        "standard normal + 1e3": (normal + 1e3).astype(np.float32),
        "standard normal + 1e6": (normal + 1e6).astype(np.float32),
        "every value 3000.3": np.full(shape, 3000.3, np.float32),
        "every value 1.23e7": np.full(shape, 1.23e7, np.float32),
        "standard normal * 1e30": (normal * 1e30).astype(np.float32),
    }


def main() -> int:
    command = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/release/exactnorm"
    print(f"Largest error of y, float32 (32, 4, 28, 28), training; PyTorch {torch.__version__}")
    print(f"{'input':24} {'exactnorm':>10} {'PyTorch':>10} {'PyTorch, channels last':>24}")
    promise_kept = True
    for name, x in inputs().items():
        reference = exact(x)
        with tempfile.TemporaryDirectory() as folder:
            ours = by_command(command, x, Path(folder))
        promise_kept = promise_kept and keeps_promise(ours, reference)
        theirs = largest_error(by_pytorch(x, torch.contiguous_format), reference)
        last = largest_error(by_pytorch(x, torch.channels_last), reference)
        print(f"{name:24} {largest_error(ours, reference):10.2g} {theirs:10.2g} {last:24.2g}")
    return 0 if promise_kept else 1


if __name__ == "__main__":
    sys.exit(main())
