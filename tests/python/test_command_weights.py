"""Weights of the command exactnorm, against files that hold values as often as weights say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_command import directory, normalize, run, sample, succeed  # noqa: F401
from test_mpi import mpirun

BLOCKS = [[], ["--block-bytes", 300]]


def files(dtype: object = np.uint8, order: str = "C") -> tuple[np.ndarray, np.ndarray]:
    """x.npy of (6, 5, 4, 7), NaN where the weight in w.npy, of (6, 4, 7), is 0; and both."""
    weights = np.random.default_rng(2).integers(0, 4, (6, 4, 7)).astype(dtype)
    x = np.where(weights[:, None] == 0, np.float32(np.nan), sample())
    np.save("x.npy", np.asfortranarray(x) if order == "F" else x)
    np.save("w.npy", weights)
    return x, weights


def repeated(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows = np.moveaxis(x, 1, 0).reshape(5, -1)
    return np.repeat(rows, weights.astype(int).ravel(), axis=1)


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "<i8"])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("blocks", BLOCKS)
def test_whole_weights_repeat_values(dtype: str, order: str, blocks: list[object]) -> None:
    x, weights = files(dtype, order)
    options = ["--channel-axes", 1, "--weights", "w.npy", *blocks]
    np.save("repeated.npy", repeated(x, weights))
    y = normalize("x.npy", *options, "--statistics", "found.json")
    right = normalize("repeated.npy", "--channel-axes", 0, "--statistics", "right.json")
    np.testing.assert_array_equal(repeated(y, weights), right)
    with open("found.json") as ours, open("right.json") as theirs:
        found, expected = json.load(ours), json.load(theirs)
    for key in ("count", "mean", "variance", "standard_deviation", "non_finite_count"):
        assert found[key] == expected[key]
    ours = succeed("statistics", "x.npy", *options, "--json")
    assert ours == succeed("statistics", "repeated.npy", "--channel-axes", 0, "--json")


def test_other_weights_and_several_files() -> None:
    x, weights = files(np.float64)
    weights *= np.random.default_rng(8).random(weights.shape)
    for name, part in (("a", slice(2)), ("b", slice(2, 6))):
        np.save(f"{name}.npy", x[part])
        np.save(f"w{name}.npy", weights[part])
    arguments = ["b.npy", "a.npy", "--channel-axes", 1, "--weights", "wb.npy", "--weights", "wa.npy", "--json"]
    found = json.loads(succeed("statistics", *arguments))
    rows, of_rows = np.moveaxis(x, 1, 0).reshape(5, -1).astype(np.float64), weights.ravel()
    rows = np.where(of_rows == 0, 0, rows)
    mean = (rows * of_rows).sum(1) / of_rows.sum()
    variance = ((rows - mean[:, None]) ** 2 * of_rows).sum(1) / of_rows.sum()
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found["standard_deviation"], np.sqrt(variance), rtol=1e-12)
    unbiased = np.sqrt(variance * of_rows.sum() / (of_rows.sum() - 1))
    np.testing.assert_allclose(found["unbiased_standard_deviation"], unbiased, rtol=1e-12)
    assert found["count"] == (of_rows != 0).sum()
    assert found["minimum"] == [float(row[of_rows > 0].min()) for row in rows]
    assert found["non_finite_count"] == [0] * 5


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
def test_ranks_share_the_work() -> None:
    files()
    options = ["--channel-axes", 1, "--weights", "w.npy", "--block-bytes", 200]
    y = normalize("x.npy", *options)
    table = succeed("statistics", "x.npy", *options)
    for ranks in (2, 5):
        assert mpirun(ranks, "statistics", "x.npy", *options).stdout == table
        result = mpirun(ranks, "normalize", "x.npy", "-o", "shared.npy", *options)
        assert (result.returncode, result.stderr) == (0, "")
        np.testing.assert_array_equal(np.load("shared.npy"), y)


NORMALIZE = "normalize x.npy -o y.npy --channel-axes 1 --weights w.npy"
ERRORS = [
    (f"{NORMALIZE} --mask m.npy", "--weights: is given with --mask; expected weights of 0 where values do not count"),
    (f"{NORMALIZE} --ignore-nan", "--weights: is given with --ignore-nan; expected weights of 0 where values"),
    (f"{NORMALIZE} --statistics-from s.json", "--weights: is given with --statistics-from; expected statistics of"),
    (f"{NORMALIZE} --running-mean a.npy --running-variance b.npy", "--weights: is given with --running-mean; expected"),
    ("statistics x.npy --weights w.npy --mask m.npy", "--weights: is given with --mask; expected weights of 0"),
    ("statistics x.npy --weights w.npy --ignore-nan", "--weights: is given with --ignore-nan; expected weights of 0"),
    ("statistics x.npy x.npy --weights w.npy", "--weights: names 1 file; expected 2, one for each input"),
    (
        "statistics x.npy --channel-axes 2 --weights w.npy",
        "--weights: w.npy has shape (6, 4, 7); expected (6, 5, 1, 7) or (6, 5, 7), or 1 on some of these axes",
    ),
    (
        "statistics x.npy --channel-axes 1 --weights negative.npy",
        "--weights: negative.npy has -2 as element 1; expected finite numbers, 0 or more",
    ),
    (
        "statistics x.npy --channel-axes 1 --weights nan.npy",
        "--weights: nan.npy has nan as element 0; expected finite numbers, 0 or more",
    ),
    ("normalize x.npy -o y.npy --channel-axes 1 --weights none.npy", "none.npy: cannot be opened (No such file"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS)
def test_errors(line: str, message: str) -> None:
    files()
    np.save("m.npy", np.ones((6, 4, 7), bool))
    np.save("negative.npy", np.array([[[1, -2, 3, 4, 5, 6, 7]]]))
    np.save("nan.npy", np.full((6, 1, 1), np.nan))
    if "--channel-axes" not in line:
        line += " --channel-axes 1"
    result = run(*line.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert not Path("y.npy").exists()
