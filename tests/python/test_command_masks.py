"""Masks of the command exactnorm, against files that hold the selected values alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_command import directory, normalize, run, sample, succeed  # noqa: F401

SHAPE = (6, 5, 4, 7)
MASKS = {  # shape of the mask, channel axes
    "of the reduced axes": ((6, 4, 7), "1"),
    "of all axes": ((6, 1, 4, 7), "1"),
    "of images": ((6, 1, 1), "1"),
    "of two channel axes": ((6, 7), "1,2"),
    "channels last": ((6, 5, 4), "-1"),
}


def files(shape: tuple[int, ...], channel_axes: str, order: str = "C") -> tuple[np.ndarray, np.ndarray]:
    """x.npy, with NaN where mask.npy is false, and the mask of x's shape."""
    axes = [int(axis) % 4 for axis in channel_axes.split(",")]
    mask = np.random.default_rng(3).random(shape) < 0.5
    full = mask if mask.ndim == 4 else np.expand_dims(mask, axes)
    full = np.broadcast_to(full, SHAPE)
    x = np.where(full, sample(), np.float32(np.nan))
    np.save("x.npy", np.asfortranarray(x) if order == "F" else x)
    np.save("mask.npy", np.asfortranarray(mask) if order == "F" else mask)
    return x, full


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("blocks", [[], ["--block-bytes", 300]])
def test_results_are_those_of_the_selected_values(name: str, order: str, blocks: list[object]) -> None:
    shape, axes = MASKS[name]
    x, full = files(shape, axes, order)
    options = ["--channel-axes", axes, "--mask", "mask.npy", *blocks]
    y = normalize("x.npy", *options, "--statistics", "found.json")
    channels = [int(axis) % 4 for axis in axes.split(",")]
    rows = np.moveaxis(x, channels, range(len(channels)))
    rows = rows.reshape(*rows.shape[: len(channels)], -1)
    chosen = np.moveaxis(full, channels, range(len(channels))).reshape(rows.shape)[(0,) * len(channels)]
    np.save("alone.npy", rows[..., chosen])
    of_channels = ",".join(str(axis) for axis in range(len(channels)))
    right = normalize("alone.npy", "--channel-axes", of_channels, "--statistics", "right.json")
    found = np.moveaxis(y, channels, range(len(channels))).reshape(rows.shape)
    np.testing.assert_array_equal(found[..., chosen], right)
    assert not found[..., ~chosen].any()
    with open("found.json") as ours, open("right.json") as theirs:
        of_mask, of_alone = json.load(ours), json.load(theirs)
    for key in ("count", "mean", "variance", "non_finite_count"):
        assert of_mask[key] == of_alone[key]
    ours = json.loads(succeed("statistics", "x.npy", *options, "--json"))
    assert ours == json.loads(succeed("statistics", "alone.npy", "--channel-axes", of_channels, "--json"))


def test_other_values_normalized() -> None:
    x, full = files((6, 4, 7), "1")
    x = np.where(full, x, np.float32(2))
    np.save("x.npy", x)
    y = normalize("x.npy", "--channel-axes", 1, "--mask", "mask.npy", "--masked", "normalized", "--statistics", "fit.json")
    np.testing.assert_array_equal(y, normalize("x.npy", "--channel-axes", 1, "--statistics-from", "fit.json"))
    # By given statistics a mask says what is written.
    zeros = normalize("x.npy", "--channel-axes", 1, "--statistics-from", "fit.json", "--mask", "mask.npy")
    np.testing.assert_array_equal(zeros, np.where(full, y, 0))


def test_several_files_have_a_mask_each() -> None:
    x = sample(shape=(10, 3))
    mask = np.arange(10) % 3 > 0
    np.save("all.npy", x[mask])
    for name, rows in (("a", slice(4)), ("b", slice(4, 10))):
        np.save(f"{name}.npy", x[rows])
        np.save(f"{name}_mask.npy", mask[rows])
    found = succeed(
        "statistics", "a.npy", "b.npy", "--channel-axes", 1, "--mask", "a_mask.npy", "--mask", "b_mask.npy", "--json"
    )
    assert json.loads(found) == json.loads(succeed("statistics", "all.npy", "--channel-axes", 1, "--json"))


def test_a_mask_that_selects_nothing() -> None:
    np.save("x.npy", sample())
    np.save("mask.npy", np.zeros((6, 4, 7), bool))
    assert not normalize("x.npy", "--channel-axes", 1, "--mask", "mask.npy").any()
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", 1, "--mask", "mask.npy", "--json"))
    assert (found["count"], found["mean"]) == (0, [None] * 5)


ERRORS = [
    ("normalize x.npy -o y.npy --channel-axes 1 --mask x.npy", "--mask: x.npy has dtype float32; expected bool"),
    (
        "normalize x.npy -o y.npy --channel-axes 2 --mask mask.npy",
        "--mask: mask.npy has shape (6, 4, 7); expected (6, 5, 1, 7) or (6, 5, 7), or 1 on some of these axes",
    ),
    ("normalize x.npy -o y.npy --channel-axes 1 --masked zero", "--masked: is given alone; expected --mask as well"),
    ("normalize x.npy -o mask.npy --channel-axes 1 --mask none.npy", "none.npy: cannot be opened (No such file"),
    (
        "statistics x.npy x.npy --channel-axes 1 --mask mask.npy",
        "--mask: names 1 file; expected 2, one for each input",
    ),
]


@pytest.mark.parametrize(("line", "message"), ERRORS)
def test_errors(line: str, message: str) -> None:
    files((6, 4, 7), "1")
    result = run(*line.split())
    assert result.returncode != 0
    assert message in result.stderr
