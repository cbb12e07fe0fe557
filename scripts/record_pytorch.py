#!/usr/bin/env python3
"""Record inputs and PyTorch's batch normalization of them, for the demonstration and the tests.

    .venv/bin/python scripts/record_pytorch.py            write data/demo/*.npy
    .venv/bin/python scripts/record_pytorch.py --check    compare with the files that are there

Needs data/digits.npy. data/README.md describes every file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

PYTORCH_VERSION = "2.13.0"
SEED = 20150211  # the day that Ioffe and Szegedy's paper appeared
MAXIMUM_FILE_SIZE = 1 << 20
# PyTorch sums in float32, in an order that depends on the processor and its threads.
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-5

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "data" / "demo"


def normalize_features(z: np.ndarray) -> np.ndarray:
    """Normalize z (feature, example) by a fresh nn.BatchNorm1d in training mode."""
    layer = torch.nn.BatchNorm1d(z.shape[0])
    y = layer(torch.tensor(z.T, dtype=torch.float32)).T
    return np.ascontiguousarray(y.detach().numpy())


def normalize_images(z: np.ndarray) -> np.ndarray:
    """Normalize z (row, column, channel, example) by a fresh nn.BatchNorm2d in training mode."""
    layer = torch.nn.BatchNorm2d(z.shape[2])
    y = layer(torch.tensor(z.transpose(3, 2, 0, 1), dtype=torch.float32)).permute(2, 3, 1, 0)
    return np.ascontiguousarray(y.detach().numpy())


def fully_connected_random() -> Iterator[tuple[str, np.ndarray]]:
    """Six features of four examples, mapped to five by random weights."""
    rng = np.random.default_rng([SEED, 1])
    # Multiples of 2^-16 times integers below 100: every product and sum is exact in float64.
    weights = np.round(rng.random((5, 6)) * 2**16) / 2**16
    inputs = rng.integers(0, 100, size=(4, 6), dtype=np.int64)
    yield "fully_connected_random_weights", weights
    yield "fully_connected_random_input", inputs
    yield "fully_connected_random_pytorch", normalize_features(weights @ inputs.T)


def fully_connected_digits(digits: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The digits' 64 pixels mapped to twelve features, the first of which never varies."""
    pixels = digits.reshape(len(digits), 64).astype(np.float64)
    deviations = pixels.std(axis=0)
    assert deviations[0] == 0.0, "pixel 0 of the digits should be blank in every image"
    rarest = int(np.argmin(np.where(deviations > 0.0, deviations, np.inf)))

    rng = np.random.default_rng([SEED, 2])
    weights = rng.integers(-16, 17, size=(12, 64)) / 8.0
    weights[:2] = 0.0
    weights[0, 0] = 1.0
    weights[1, rarest] = 1.0
    yield "fully_connected_digits_weights", weights
    yield "fully_connected_digits_pytorch", normalize_features(weights @ pixels.T)


def convolution_random() -> Iterator[tuple[str, np.ndarray]]:
    """A stand-in for a convolution's output: 5 x 5 pixels, four channels, eight examples."""
    rng = np.random.default_rng([SEED, 3])
    z = rng.integers(0, 100, size=(5, 5, 4, 8), dtype=np.int64)
    yield "convolution_random_input", z
    yield "convolution_random_pytorch", normalize_images(z)


def convolution_digits(digits: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Three 3 x 3 filters over the digits, without padding: 6 x 6 pixels, three channels."""
    filters = np.array(
        [
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],  # horizontal edges (Sobel)
            [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],  # vertical edges (Sobel)
            [[0, 1, 0], [1, -4, 1], [0, 1, 0]],  # Laplacian
        ],
        dtype=np.int64,
    )
    windows = sliding_window_view(digits.astype(np.int64), (3, 3), axis=(1, 2))
    z = np.einsum("mhwij,cij->hwcm", windows, filters)
    yield "convolution_digits_filters", filters
    yield "convolution_digits_pytorch", normalize_images(z)


def recordings() -> Iterator[tuple[str, np.ndarray]]:
    """Every file's name, without .npy, and what it holds."""
    digits = np.load(ROOT / "data" / "digits.npy")
    assert digits.shape == (1797, 8, 8) and digits.dtype == np.uint8 and digits.max() == 16
    yield from fully_connected_random()
    yield from fully_connected_digits(digits)
    yield from convolution_random()
    yield from convolution_digits(digits)


def write() -> int:
    """Write all files; return the exit status."""
    DEMO.mkdir(parents=True, exist_ok=True)
    for name, array in recordings():
        path = DEMO / f"{name}.npy"
        np.save(path, array, allow_pickle=False)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {array.dtype} {array.shape}, {size} bytes")
        if size >= MAXIMUM_FILE_SIZE:
            print(f"{path.name} is larger than {MAXIMUM_FILE_SIZE} bytes", file=sys.stderr)
            return 1
    return 0


def difference(name: str, expected: np.ndarray) -> str | None:
    """Compare one file with what it should hold; return what is wrong, or None."""
    path = DEMO / f"{name}.npy"
    if not path.is_file():
        return "missing"
    found = np.load(path, allow_pickle=False)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype} {found.shape}; expected {expected.dtype} {expected.shape}"
    if name.endswith("_pytorch"):
        if np.allclose(found, expected, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE):
            return None
        return f"differs by up to {np.abs(found.astype(np.float64) - expected).max():g}"
    return None if np.array_equal(found, expected) else "holds other values"


def check() -> int:
    """Compare all files; return the exit status."""
    names = []
    failures = 0
    for name, array in recordings():
        names.append(f"{name}.npy")
        problem = difference(name, array)
        print(f"data/demo/{name}.npy: {problem or 'as recorded'}")
        failures += problem is not None
    for path in sorted(DEMO.glob("*.npy")):
        if path.name not in names:
            print(f"data/demo/{path.name}: this script does not write it")
            failures += 1
    print(f"{len(names)} files, {failures} problems")
    return 1 if failures else 0


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Record PyTorch's batch normalization.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    if not torch.__version__.startswith(PYTORCH_VERSION):
        parser.error(f"PyTorch is {torch.__version__}; expected {PYTORCH_VERSION}")
    torch.set_num_threads(1)
    return check() if arguments.check else write()


if __name__ == "__main__":
    sys.exit(main())
