"""The command exactnorm, as a user runs it: arguments in, files, text and exit status out.

EXACTNORM_COMMAND names the command to test (default: build/release/exactnorm).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = Path(os.environ.get("EXACTNORM_COMMAND", ROOT / "build" / "release" / "exactnorm")).resolve()
DTYPES = ["float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "bool"]
TINY_BLOCKS = [1, 7, 64, 1000]  # bytes


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, so that messages name files briefly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXACTNORM_TARGET", raising=False)
    return tmp_path


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def succeed(*arguments: object, **environment: str) -> str:
    """Run the command; return its output after checking that it complained of nothing."""
    result = run(*arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def normalize(*arguments: object, **environment: str) -> np.ndarray:
    succeed("normalize", *arguments, "--output", "out.npy", **environment)
    return np.load("out.npy")


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def targets() -> list[str]:
    return json.loads(succeed("info", "--json"))["targets"]["supported"]


def sample(dtype: str = "float32", shape: tuple[int, ...] = (6, 5, 4, 7), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 3 + 10).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    information = np.iinfo(dtype)
    return rng.integers(max(information.min, -1000), min(information.max, 1000), shape).astype(dtype)


def two_pass(x: np.ndarray, axes: tuple[int, ...], epsilon: float = 1e-5, placement: str = "variance") -> np.ndarray:
    """Batch normalization by NumPy in float64."""
    reduced = tuple(axis for axis in range(x.ndim) if axis not in axes)
    x = x.astype(np.float64)
    mean = x.mean(reduced, keepdims=True)
    variance = ((x - mean) ** 2).mean(reduced, keepdims=True)
    divisor = np.sqrt(variance + epsilon) if placement == "variance" else np.sqrt(variance) + epsilon
    return (x - mean) / divisor


# --- normalize ---


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalize_every_dtype(dtype: str, order: str) -> None:
    x = np.asarray(sample(dtype), order=order)
    np.save("x.npy", x)
    y = normalize("x.npy", "--channel-axes", "1")
    assert y.dtype == (dtype if x.dtype.kind == "f" else "float32")
    assert y.flags[f"{order}_CONTIGUOUS"]
    tolerance = {"float64": 1e-12, "float16": 2.0**-10}.get(dtype, 3e-7)
    np.testing.assert_allclose(y, two_pass(x, (1,)), rtol=0, atol=tolerance)
    wide = normalize("x.npy", "--channel-axes", "1", "--dtype", "float64")
    assert wide.dtype == np.float64
    # The statistics of data that float32 holds have some 30 bits.
    on_grid = dtype not in ("float64", "uint32", "int32", "int64")
    np.testing.assert_allclose(wide, two_pass(x, (1,)), rtol=2.0**-31 * on_grid, atol=2.0**-34 if on_grid else 1e-12)
    single = normalize("x.npy", "--channel-axes", "1", "--dtype", "float32")
    assert single.dtype == np.float32
    if dtype == "float16":
        assert (single.astype(np.float16) == y).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint16", "int16", "int32", "int64"])
def test_big_endian_and_misaligned_input_give_the_same_file(dtype: str) -> None:
    x = sample(dtype)
    np.save("x.npy", x)
    np.save("big.npy", x.astype(x.dtype.newbyteorder(">")))
    header = Path("x.npy").read_bytes()[10:128].rstrip(b" \n") + b"\n"
    header += b" " * (len(header) % 2 == 0) + b""
    Path("odd.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + x.tobytes())
    normalize("x.npy", "--channel-axes", "1")
    expected = digest("out.npy")
    for name in ["big.npy", "odd.npy"]:
        for block in [100, 1 << 20]:
            normalize(name, "--channel-axes", "1", "--block-bytes", block)
            assert digest("out.npy") == expected


@pytest.mark.parametrize("axes", ["0", "1", "-1", "0,2", "2,0", "1,3", "0,1,2,3", "none"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_blocks_threads_and_targets_give_the_same_file(axes: str, order: str, dtype: str) -> None:
    x = np.asarray(sample(dtype), order=order)
    np.save("x.npy", x)
    y = normalize("x.npy", "--channel-axes", axes)
    kept = () if axes == "none" else tuple(int(axis) % 4 for axis in axes.split(","))
    np.testing.assert_allclose(y, two_pass(x, kept), rtol=0, atol=3e-7)
    digests = {digest("out.npy")}
    for block in TINY_BLOCKS:
        normalize("x.npy", "--channel-axes", axes, "--block-bytes", block)
        digests.add(digest("out.npy"))
    for target in targets():
        for threads in [1, 3]:
            normalize("x.npy", "--channel-axes", axes, "--threads", threads, EXACTNORM_TARGET=target)
            digests.add(digest("out.npy"))
    assert len(digests) == 1


def test_larger_input_on_threads_and_targets() -> None:
    np.save("x.npy", sample(shape=(8, 32, 64, 64)))
    digests = set()
    for target in targets():
        for threads in [1, 2, 5]:
            arguments = ["--threads", threads, "--block-bytes", 300_000 * threads]
            normalize("x.npy", "--channel-axes", "1", *arguments, EXACTNORM_TARGET=target)
            digests.add(digest("out.npy"))
    assert len(digests) == 1


@pytest.mark.parametrize("shape", [(1, 50, 40), (3, 1, 2, 100), (1, 1, 1, 1, 77), (5,), (1,), (2, 3, 1, 4, 1, 5, 2, 2)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_and_blocks_smaller_than_a_slice(shape: tuple[int, ...], order: str) -> None:
    x = np.asarray(sample(shape=shape), order=order)
    np.save("x.npy", x)
    for axis in range(len(shape)):
        expected = two_pass(x, (axis,))
        for block in [*TINY_BLOCKS, 1 << 25]:
            y = normalize("x.npy", "--channel-axes", axis, "--block-bytes", block)
            np.testing.assert_allclose(y, expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_empty_input(shape: tuple[int, ...]) -> None:
    np.save("x.npy", np.zeros(shape, np.float32))
    assert normalize("x.npy", "--channel-axes", "-1", "--statistics", "s.json").shape == shape
    statistics = json.loads(Path("s.json").read_text())
    assert statistics["count"] == 0
    assert statistics["mean"] == [None] * shape[-1]


def test_scalar_input() -> None:
    np.save("x.npy", np.float64(3.5))
    assert normalize("x.npy", "--channel-axes", "none") == 0.0


@pytest.mark.parametrize("placement", ["variance", "deviation"])
def test_epsilon_and_affine(placement: str) -> None:
    x = sample("float64")
    gamma = np.arange(1.0, 6.0)
    beta = np.arange(5, dtype=np.int16)
    np.save("x.npy", x)
    np.save("gamma.npy", gamma)
    np.save("beta.npy", beta.reshape(1, 5, 1, 1))
    options = ["--epsilon", "0.25", "--epsilon-placement", placement, "--gamma", "gamma.npy", "--beta", "beta.npy"]
    y = normalize("x.npy", "--channel-axes", "1", *options)
    expected = two_pass(x, (1,), 0.25, placement) * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_inference_by_running_statistics() -> None:
    x = sample()
    mean, variance = np.arange(5.0), np.arange(5.0) + 0.5
    np.save("x.npy", x)
    np.save("mean.npy", mean)
    np.save("variance.npy", variance.astype(np.float32))
    running = ["--running-mean", "mean.npy", "--running-variance", "variance.npy"]
    expected = (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    digests = set()
    for block in TINY_BLOCKS:
        options = [*running, "--block-bytes", block, "--statistics", "s.json"]
        y = normalize("x.npy", "--channel-axes", "1", *options)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
        digests.add(digest("out.npy"))
    assert len(digests) == 1
    statistics = json.loads(Path("s.json").read_text())
    assert (statistics["mode"], statistics["count"], statistics["non_finite_count"]) == ("inference", None, None)
    assert statistics["variance"] == variance.tolist()


def test_statistics_file() -> None:
    x = sample("float64")
    x[0, 2, 0, 0] = np.nan
    x[1, 2, 0, 0] = np.inf
    np.save("x.npy", x)
    result = run("normalize", "x.npy", "-o", "out.npy", "--channel-axes", "-3", "--statistics", "s.json")
    assert result.returncode == 0
    assert result.stderr == "exactnorm: warning: 1 of 5 channels holds NaN or infinity and became NaN: 2\n"
    statistics = json.loads(Path("s.json").read_text())
    assert list(statistics) == [
        "mode",
        "count",
        "channels",
        "channel_axes",
        "channel_shape",
        "epsilon",
        "epsilon_placement",
        "mean",
        "mean_residual",
        "variance",
        "inverse_deviation",
        "standard_deviation",
        "non_finite_count",
    ]
    assert statistics["mode"] == "training"
    assert (statistics["count"], statistics["channels"], statistics["channel_axes"]) == (6 * 4 * 7, 5, [1])
    assert (statistics["epsilon"], statistics["epsilon_placement"]) == (1e-5, "variance")
    assert statistics["non_finite_count"] == [0, 0, 2, 0, 0]
    good = x[:, [0, 1, 3, 4]]
    for name, expected in [
        ("mean", good.mean((0, 2, 3))),
        ("variance", good.var((0, 2, 3))),
        ("standard_deviation", good.std((0, 2, 3))),
        ("inverse_deviation", 1 / np.sqrt(good.var((0, 2, 3)) + 1e-5)),
    ]:
        assert statistics[name][2] is None
        np.testing.assert_allclose(np.delete(np.array(statistics[name], float), 2), expected, rtol=1e-13)
    y = np.load("out.npy")
    assert np.isnan(y[:, 2]).all()
    assert np.isfinite(np.delete(y, 2, 1)).all()
    assert oct(Path("s.json").stat().st_mode) == oct(Path("out.npy").stat().st_mode)


def test_warning_names_the_first_channels() -> None:
    x = np.ones((2, 4, 3), np.float32)
    x[0] = np.nan
    np.save("x.npy", x)
    result = run("normalize", "x.npy", "--output", "out.npy", "--channel-axes", "1,2")
    assert result.stderr == (
        "exactnorm: warning: 12 of 12 channels hold NaN or infinity and became NaN: "
        "(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), ...\n"
    )


def test_output_may_be_the_input() -> None:
    x = sample()
    np.save("x.npy", x)
    Path("link.npy").hardlink_to("x.npy")
    succeed("normalize", "x.npy", "--output", "./x.npy", "--channel-axes", "1")
    np.testing.assert_allclose(np.load("x.npy"), two_pass(x, (1,)), rtol=0, atol=3e-7)
    succeed("normalize", "link.npy", "--output", "x.npy", "--channel-axes", "1")
    np.testing.assert_allclose(np.load("x.npy"), two_pass(x, (1,)), rtol=0, atol=3e-7)
    np.testing.assert_array_equal(np.load("link.npy"), x)


# --- errors ---

ERRORS = [
    ("normalize missing.npy -o y.npy --channel-axes 1",
     "missing.npy: cannot be opened (No such file or directory); expected a readable file"),
    ("normalize . -o y.npy --channel-axes 1", ".: is a directory; expected a regular file"),
    ("normalize x.npy -o y.npy --channel-axes 4",
     "--channel-axes: has 4; expected axes of a tensor of shape (6, 5, 4, 7)"),
    ("normalize x.npy -o y.npy --channel-axes 1,-3", "--channel-axes: is (1, -3); expected each axis at most once"),
    ("normalize x.npy -o y.npy --channel-axes 1,x",
     '--channel-axes: is "1,x"; expected numbers of axes, as in 1 or 0,2, or none'),
    ("normalize x.npy -o y.npy --channel-axes 0,1,2,3,4,5,6,7,8",
     '--channel-axes: is "0,1,2,3,4,5,6,7,8"; expected at most 8 axes'),
    ("normalize x.npy -o y.npy --channel-axes 1 --epsilon -1",
     "--epsilon: is -1; expected a finite number of 0 or more"),
    ("normalize x.npy -o y.npy --channel-axes 1 --threads -2", "--threads: is -2; expected 0 (all) or more"),
    ("normalize x.npy -o y.npy --channel-axes 1 --gamma three.npy",
     "--gamma: has shape (3,); expected one element for each of the 5 channels"),
    ("normalize x.npy -o y.npy --channel-axes 1 --beta column.npy",
     "--beta: has shape (5, 1); expected one element for each of the 5 channels"),
    ("normalize x.npy -o y.npy --channel-axes 1 --running-mean five.npy",
     "--running-mean: is given alone; expected --running-variance as well, or neither"),
    ("normalize x.npy -o y.npy --channel-axes 1 --running-variance five.npy",
     "--running-variance: is given alone; expected --running-mean as well, or neither"),
    ("normalize x.npy -o y.npy --channel-axes 1 --running-mean five.npy --running-variance negative.npy",
     "--running-variance: is -1 in channel 0; expected more than -1e-05, so that variance + epsilon is more than 0"),
    ("normalize x.npy -o y.npy --channel-axes 1 --running-mean nan.npy --running-variance five.npy",
     "--running-mean: is nan in channel 0; expected a finite number"),
    ("normalize x.npy -o y.npy --channel-axes 1 --statistics ./y.npy",
     "--statistics: is the same file as --output; expected a file of its own"),
    ("normalize x.npy -o y.npy --channel-axes 1 --statistics x.npy",
     "--statistics: is the same file as the input; expected a file of its own"),
    ("normalize x.npy -o y.npy --channel-axes 1 --statistics nowhere/s.json",
     "nowhere/s.json: cannot be created (No such file or directory); expected a writable directory"),
    ("normalize x.npy -o nowhere/y.npy --channel-axes 1 --statistics s.json",
     "nowhere/y.npy: cannot be created (No such file or directory); expected a writable directory"),
    ("normalize x.npy -o y.npy --channel-axes 1 --statistics folder",
     "folder: is a directory; expected a regular file or a new name"),
    ("normalize short.npy -o y.npy --channel-axes 1",
     "short.npy: holds 3352 bytes of data; expected 3360 for shape (6, 5, 4, 7) float32"),
    ("statistics x.npy three.npy --channel-axes 0",
     "three.npy: has 3 channels in shape (3,); expected 6, as x.npy has in shape (6, 5, 4, 7)"),
    ("statistics x.npy turned.npy --channel-axes 0,1",
     "turned.npy: has (5, 6) channels in shape (5, 6); expected (6, 5), as x.npy has in shape (6, 5, 4, 7)"),
    ("statistics x.npy three.npy --channel-axes 1",
     "--channel-axes for three.npy: has 1; expected axes of a tensor of shape (3,)"),
]  # fmt: skip


def write_inputs() -> None:
    np.save("x.npy", sample())
    np.save("three.npy", np.ones(3))
    np.save("five.npy", np.ones(5))
    np.save("column.npy", np.ones((5, 1)))
    np.save("negative.npy", -np.ones(5))
    np.save("nan.npy", np.full(5, np.nan))
    np.save("turned.npy", np.ones((5, 6)))
    Path("short.npy").write_bytes(Path("x.npy").read_bytes()[:-8])
    Path("folder").mkdir()


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors_say_what_is_wrong_and_leave_nothing(line: str, message: str) -> None:
    write_inputs()
    before = sorted(os.listdir())
    result = run(*line.split())
    assert (result.stderr, result.stdout, result.returncode) == (f"exactnorm: error: {message}\n", "", 1)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("line", "message", "command"),
    [
        ("", "A subcommand is required", "exactnorm"),
        ("normalize x.npy --channel-axes 1", "--output is required", "exactnorm normalize"),
        ("normalize x.npy -o y.npy", "--channel-axes is required", "exactnorm normalize"),
        ("statistics --channel-axes 1", "INPUT is required", "exactnorm statistics"),
        ("info --colour", "The following argument was not expected: --colour", "exactnorm info"),
        ("normalize x.npy -o y.npy --channel-axes 1 --dtype int8",
         "--dtype: int8 not in {float32,float64,float16}", "exactnorm normalize"),
        ("normalize x.npy -o y.npy --channel-axes 1 --epsilon few",
         "Could not convert: --epsilon = few", "exactnorm normalize"),
    ],
)  # fmt: skip
def test_usage_errors(line: str, message: str, command: str) -> None:
    result = run(*line.split())
    expected = f'exactnorm: error: {message}\nRun "{command} --help" to see what it takes.\n'
    assert (result.stderr, result.stdout, result.returncode) == (expected, "", 2)


@pytest.mark.parametrize(
    "line", ["info", "demo", "statistics x.npy --channel-axes 1", "normalize x.npy -o y.npy --channel-axes 1"]
)
def test_unknown_target(line: str) -> None:
    np.save("x.npy", sample())
    result = run(*line.split(), EXACTNORM_TARGET="NEON9")
    known = ", ".join(targets())
    expected = f'EXACTNORM_TARGET: is "NEON9"; expected a target that this processor supports: {known}'
    assert (result.stderr, result.stdout, result.returncode) == (f"exactnorm: error: {expected}\n", "", 1)
    assert os.listdir() == ["x.npy"]


def test_full_standard_output_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([COMMAND, "info"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "exactnorm: error: standard output: cannot be written\n")


# --- statistics ---


def split_randomly(x: np.ndarray, axis: int, rng: np.random.Generator) -> list[np.ndarray]:
    cuts = np.sort(rng.integers(0, x.shape[axis] + 1, 3))
    return np.split(x, cuts, axis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_statistics_do_not_depend_on_order_or_cuts(dtype: str, json_option: list[str]) -> None:
    rng = np.random.default_rng(5)
    x = sample(dtype, (40, 3, 11))
    if x.dtype.kind == "f":
        x[3, 1, 2], x[7, 1, 1], x[9, 0, 0], x[9, 0, 1] = np.nan, -np.inf, -0.0, 0.0
    np.save("x.npy", x)
    expected = succeed("statistics", "x.npy", "--channel-axes", "1", *json_option)
    for attempt in range(3):
        names = []
        for i, part in enumerate(split_randomly(x, 2 * (attempt % 2), rng)):
            names.append(f"part{attempt}{i}.npy")
            np.save(names[-1], np.asarray(part, order="CF"[i % 2]))
        rng.shuffle(names)
        options = ["--block-bytes", 200 * attempt + 8, "--threads", attempt]
        assert succeed("statistics", *names, "--channel-axes", "1", *options, *json_option) == expected


@pytest.mark.parametrize("axes", ["0", "1", "2", "3", "0,3", "3,1", "none"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_against_numpy(axes: str, order: str, dtype: str) -> None:
    x = sample(dtype, (5, 70, 9, 4))
    np.save("x.npy", np.asarray(x, order=order))
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", axes, "--json"))
    kept = [] if axes == "none" else [int(axis) for axis in axes.split(",")]
    moved = np.moveaxis(x, kept, range(len(kept)))
    channels = moved.reshape(int(np.prod(moved.shape[: len(kept)])), -1).astype(np.float64)
    assert found["count"] == channels.shape[1]
    assert found["channels"] == channels.shape[0]
    assert found["channel_shape"] == [x.shape[axis] for axis in kept]
    assert found["non_finite_count"] == [0] * channels.shape[0]
    assert found["minimum"] == channels.min(1).tolist()
    assert found["maximum"] == channels.max(1).tolist()
    np.testing.assert_allclose(found["mean"], channels.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["standard_deviation"], channels.std(1), rtol=1e-12)
    np.testing.assert_allclose(found["unbiased_standard_deviation"], channels.std(1, ddof=1), rtol=1e-12)


def test_statistics_table_and_mixed_dtypes() -> None:
    np.save("a.npy", np.array([[1, 10], [2, 20]], np.uint8))
    np.save("b.npy", np.array([[3.0, np.nan]]))
    np.save("c.npy", np.array([[[4, 4, -4]], [[0, np.inf, -np.inf]]], np.float32).transpose(2, 0, 1))
    assert succeed("statistics", "a.npy", "b.npy", "c.npy", "--channel-axes", "1") == (
        "2 channels of 6 values each\n"
        "\n"
        "channel                mean          deviation           unbiased  minimum  maximum  non-finite\n"
        "      0  1.6666666666666667  2.748737083745107  3.011090610836324       -4        4           0\n"
        "      1                 nan                nan                nan        0       20           3\n"
    )


def test_statistics_of_one_value_of_nothing_and_of_huge_values() -> None:
    np.save("one.npy", np.float32([2.5]))
    one = json.loads(succeed("statistics", "one.npy", "--channel-axes", "none", "--json"))
    assert (one["mean"], one["standard_deviation"], one["unbiased_standard_deviation"]) == ([2.5], [0.0], [None])
    np.save("empty.npy", np.zeros((0, 2)))
    empty = json.loads(succeed("statistics", "empty.npy", "--channel-axes", "1", "--json"))
    assert (empty["count"], empty["mean"], empty["minimum"]) == (0, [None, None], [None, None])
    np.save("huge.npy", np.array([1e300, -1e300]))
    huge = json.loads(succeed("statistics", "huge.npy", "--channel-axes", "none", "--json"))
    assert huge["mean"] == [0.0]
    np.testing.assert_allclose(huge["standard_deviation"], [1e300], rtol=1e-15)


# --- info, demo, help ---


def test_info_and_version() -> None:
    info = json.loads(succeed("info", "--json"))
    assert info["version"] == "0.1.0"
    assert info["targets"]["active"] in info["targets"]["supported"]
    assert set(info["targets"]["supported"]) <= set(info["targets"]["compiled"])
    floating = ["float32", "float64", "bfloat16", "float16"]
    assert info["dtypes"] == {"input": [*floating, *DTYPES[3:]], "output": floating}
    assert info["threads"] >= 1
    text = succeed("info")
    assert all(target in text for target in info["targets"]["compiled"])
    assert json.loads(succeed("info", "--json", OMP_NUM_THREADS="3"))["threads"] == 3
    for target in info["targets"]["supported"]:
        assert json.loads(succeed("info", "--json", EXACTNORM_TARGET=target))["targets"]["active"] == target
    assert succeed("--version") == "exactnorm 0.1.0\n"


def test_demo() -> None:
    text = succeed("demo")
    assert text.count("allclose to PyTorch 2.13.0: True  (rule: ") == 4
    assert "False" not in text
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 110
    checksums = re.findall(r"checksum ([0-9a-f]{16}) with each", text)
    assert len(checksums) == 2
    assert len(set(checksums)) == 1
    for target in targets():
        other = succeed("demo", EXACTNORM_TARGET=target, OMP_NUM_THREADS="1")
        assert other.splitlines()[:-1] == text.splitlines()[:-1]
        assert other.endswith(f"target {target}, 1 thread\n")


def test_demo_json() -> None:
    demo = json.loads(succeed("demo", "--json"))
    assert demo["passed"]
    assert [case["allclose"] for case in demo["cases"]] == [True] * 4
    for case in demo["cases"]:
        recorded = np.load(ROOT / "data" / "demo" / f"{case['name']}_pytorch.npy")
        # Less than the distance of two float32 numbers at the largest |y|, where PyTorch may be the nearer one.
        spacing = float(np.spacing(np.float32(abs(recorded).max())))
        assert case["largest_error"] <= max(case["pytorch_largest_error"], spacing)
        assert case["shape"] == list(recorded.shape)
        reduced = tuple(axis for axis in range(recorded.ndim) if axis != case["channel_axis"])
        np.testing.assert_allclose(case["after"]["mean"], recorded.mean(reduced, np.float64), atol=1e-6)
    first = np.load(ROOT / "data" / "demo" / "fully_connected_random_pytorch.npy")
    assert np.allclose(np.reshape(demo["cases"][0]["y"], first.shape), first)
    assert len(set(demo["checksums"]["threads"].values()) | set(demo["checksums"]["targets"].values())) == 1
    assert list(demo["checksums"]["targets"]) == targets()


@pytest.mark.parametrize("command", [[], ["demo"], ["normalize"], ["statistics"], ["info"]])
def test_help(command: list[str]) -> None:
    text = succeed(*command, "--help")
    assert text.startswith(succeed(*command, "-h")[:40])
    assert f"Usage: {' '.join(['exactnorm', *command])} " in text
    assert "--block-bytes" not in text
    assert max(map(len, text.splitlines())) <= 110


# --- large files: a few seconds each ---


def sparse_file(path: str, channels: int, gibibytes: float) -> None:
    """A file of zeros that takes no room, but for one value at its end."""
    rows = int(gibibytes * 2**30) // (4 * channels)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (1, rows, channels))
    array[0, -1, -1] = rows
    array.flush()


@pytest.mark.parametrize("command", ["normalize", "statistics"])
def test_memory_stays_small(command: str) -> None:
    sparse_file("x.npy", 64, 1)
    output = ["--output", "out.npy"] if command == "normalize" else []
    # Not os.wait4: what it says includes the memory of the process that forked.
    time_command = ["/usr/bin/time", "--format", "%M", "--output", "memory", "--", COMMAND]
    result = subprocess.run(
        [*time_command, command, "x.npy", "--channel-axes", "-1", *output], capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert int(Path("memory").read_text()) < 300 * 1024  # KiB
    if command == "normalize":
        y = np.load("out.npy", mmap_mode="r")
        assert (y[0, :-1, -1] < 0).all()
        assert y[0, -1, -1] > 1000
        assert not y[0, :, :-1].any()
        os.remove("out.npy")


def test_progress_is_for_terminals_and_an_interrupt_leaves_nothing() -> None:
    sparse_file("x.npy", 64, 0.75)
    piped = subprocess.run([COMMAND, "statistics", "x.npy", "--channel-axes", "-1"], capture_output=True, check=True)
    assert piped.stderr == b""
    # So long that it cannot end before the signal comes, however busy the machine: many seconds, if let be.
    sparse_file("x.npy", 64, 12)
    arguments = [COMMAND, "normalize", "x.npy", "--output", "y.npy", "--channel-axes", "-1", "--block-bytes", "100000"]
    terminal, end = os.openpty()
    process = subprocess.Popen(arguments, stderr=end, env=os.environ | {"EXACTNORM_TARGET": targets()[-1]})
    os.close(end)
    shown = b""
    while b"%" not in shown:
        shown += os.read(terminal, 1000)
    assert re.match(rb"\rexactnorm: normalizing +\d+ % +\d+ MB/s", shown)
    process.send_signal(signal.SIGINT)
    # Minutes: a write under way ends first, and waits for the disk if others keep it busy.
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # Linux: the other end is closed
            process.wait(120)
    os.close(terminal)
    assert process.returncode == -signal.SIGINT
    assert shown.endswith(b"\r\x1b[K")
    assert os.listdir() == ["x.npy"]
