"""Numbers that the command exactnorm writes: deviations rounded once, and statistics that another call applies."""

from __future__ import annotations

import json
import math
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_command import digest, directory, run, sample, succeed  # noqa: F401


def root(square: Fraction) -> float:
    """The square root, rounded once to nearest even: by comparing exact squares of midpoints."""
    if square == 0:
        return 0.0
    scale = 4 ** max(0, 1200 + (square.denominator.bit_length() - square.numerator.bit_length()) // 2)
    guess = Fraction(math.isqrt(square.numerator * scale // square.denominator), math.isqrt(scale))
    nearest = float(guess)  # within one number of it
    candidates = [nearest, math.nextafter(nearest, 0), math.nextafter(nearest, math.inf)]
    for number in candidates:
        below, above = (Fraction(math.nextafter(number, to)) for to in (0, math.inf))
        low, high = (Fraction(number) + below) / 2, (Fraction(number) + above) / 2
        if low**2 < square < high**2 or (square in (low**2, high**2) and number.hex().split("p")[0][-1] in "02468ace"):
            return number
    raise AssertionError(square)


def deviations(values: np.ndarray) -> tuple[float, float | None]:
    """Biased and unbiased deviation of a channel, from rationals."""
    exact = [Fraction(float(value)) for value in values]
    count = len(exact)
    mean = sum(exact) / count
    scatter = sum(((value - mean) ** 2 for value in exact), Fraction(0))
    return root(scatter / count), root(scatter / (count - 1)) if count > 1 else None


def few_bits(rng: np.random.Generator, count: int, channels: int) -> np.ndarray:
    return rng.integers(-4, 5, (count, channels)).astype(np.float32)


CASES = {
    "integers of few bits": few_bits,
    "integers": lambda rng, count, channels: rng.integers(-(2**40), 2**40, (count, channels)),
    "halves and quarters": lambda rng, count, channels: (rng.integers(0, 30, (count, channels)) / 4).astype(np.float32),
    "float32": lambda rng, count, channels: (rng.standard_normal((count, channels)) * 3 + 10).astype(np.float32),
    "float64": lambda rng, count, channels: rng.standard_normal((count, channels)),
    "all magnitudes": lambda rng, count, channels: np.ldexp(
        rng.standard_normal((count, channels)), rng.integers(-1074, 1000, (1, channels))
    ),
    "next to each other": lambda rng, count, channels: np.ldexp(
        2.0**52 + rng.integers(0, 3, (count, channels)), rng.integers(-1074, 900, (1, channels))
    ),
    "subnormal": lambda rng, count, channels: rng.integers(0, 5, (count, channels)) * 5e-324,
}


@pytest.mark.parametrize("name", CASES)
def test_deviations_are_exact_values_rounded_once(name: str) -> None:
    rng = np.random.default_rng(7)
    for count in [1, 2, 3, 5, 9, 31]:
        x = CASES[name](rng, count, 100)
        np.save("x.npy", x)
        found = json.loads(succeed("statistics", "x.npy", "--channel-axes", 1, "--json"))
        expected = [deviations(x[:, channel]) for channel in range(x.shape[1])]
        assert found["standard_deviation"] == [biased for biased, _ in expected]
        assert found["unbiased_standard_deviation"] == [unbiased for _, unbiased in expected]
        succeed("normalize", "x.npy", "-o", "y.npy", "--channel-axes", 1, "--statistics", "s.json")
        assert json.loads(Path("s.json").read_text())["standard_deviation"] == found["standard_deviation"]


def test_deviations_that_are_whole_numbers() -> None:
    np.save("x.npy", np.array([1.0, 3, 5]))
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", "none", "--json"))
    assert found["unbiased_standard_deviation"] == [2.0]
    # Two values d apart: deviation d / 2. Three, of which one is in the middle: d, unbiased.
    steps = np.arange(1.0, 400) * 2
    np.save("x.npy", np.stack([-steps, 0 * steps, steps]))
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", 1, "--json"))
    assert found["unbiased_standard_deviation"] == steps.tolist()


# --- normalize --statistics-from ---

FIT = ["normalize", "x.npy", "-o", "y.npy", "--channel-axes", "1", "--statistics", "fit.json"]
APPLY = ["normalize", "x.npy", "-o", "z.npy", "--channel-axes", "1", "--statistics-from", "fit.json"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int64"])
@pytest.mark.parametrize(
    "options", ["", "--epsilon 0.003", "--epsilon 0", "--epsilon 0.01 --epsilon-placement deviation"]
)
@pytest.mark.parametrize("output", ["float32", "float64"])
def test_applied_statistics_give_the_bits_of_the_fit(dtype: str, options: str, output: str) -> None:
    x = sample(dtype, (7, 5, 4, 9))
    if dtype == "float64":
        x *= np.float64([1e-160, 1e-3, 1, 1e150, 1e300])[:, None, None]
    x[:, 1] = x[0, 1, 0, 0]
    np.save("x.npy", x)
    np.save("gamma.npy", np.linspace(0.3, 2, 5))
    np.save("beta.npy", np.linspace(-1, 1e5, 5))
    affine = ["--gamma", "gamma.npy", "--beta", "beta.npy", "--dtype", output]
    succeed(*FIT, *options.split(), *affine)
    fit = digest("fit.json")
    succeed(*APPLY, *affine, "--statistics", "applied.json")
    assert digest("z.npy") == digest("y.npy")
    assert digest("fit.json") == fit
    # What was applied says the same, and can be applied again, also with the options of the fit.
    succeed("normalize", "x.npy", "-o", "z.npy", "--channel-axes", 1, "--statistics-from", "applied.json",
            *affine, *options.split())  # fmt: skip
    assert digest("z.npy") == digest("y.npy")
    fitted, applied = (json.loads(Path(name).read_text()) for name in ("fit.json", "applied.json"))
    assert (applied["mode"], applied["count"]) == ("inference", None)
    for key in ["mean", "mean_residual", "variance", "inverse_deviation", "epsilon", "epsilon_placement"]:
        assert applied[key] == fitted[key]


def test_a_fit_is_applied_to_other_data() -> None:
    x, test = sample("float64", (50, 5)), sample("float64", (20, 5), seed=2)
    np.save("x.npy", x)
    np.save("test.npy", test.T)
    succeed(*FIT, "--epsilon", "0.5")
    succeed("normalize", "test.npy", "-o", "z.npy", "--channel-axes", 0, "--statistics-from", "fit.json")
    expected = (test - x.mean(0)) / np.sqrt(x.var(0) + 0.5)
    np.testing.assert_allclose(np.load("z.npy").T, expected, rtol=1e-13, atol=1e-13)


def test_the_mean_is_known_beyond_float64() -> None:
    # Without mean_residual, y would be off by 1e-3 of its deviation.
    x = np.array([[1.0], [1 + 2**-52], [1 + 2**-51]]) * np.ones((1, 5))
    x[1] += 2.0**-52
    np.save("x.npy", x)
    succeed(*FIT, "--epsilon", "0")
    assert any(json.loads(Path("fit.json").read_text())["mean_residual"])
    succeed(*APPLY)
    assert digest("z.npy") == digest("y.npy")


def test_statistics_written_are_read_as_the_same_numbers() -> None:
    rng = np.random.default_rng(3)
    x = np.ldexp(rng.standard_normal((4, 500)), rng.integers(-500, 500, (1, 500)))
    np.save("x.npy", x)
    succeed(*FIT)
    fit = json.loads(Path("fit.json").read_text())
    for channel in range(500):
        exact = sum(map(Fraction, x[:, channel].tolist())) / 4
        assert fit["mean"][channel] == float(exact)
        assert fit["mean_residual"][channel] == float(exact - Fraction(fit["mean"][channel]))


FIT_ERRORS = [
    ("--running-mean five.npy --running-variance five.npy",
     "--statistics-from: is given with --running-mean; expected statistics from one of the two"),
    ("--running-variance five.npy",
     "--statistics-from: is given with --running-variance; expected statistics from one of the two"),
    ("--epsilon 1e-3", "--epsilon: is 0.001; expected 1e-05, as in fit.json, or no --epsilon"),
    ("--epsilon-placement deviation",
     "--epsilon-placement: is deviation; expected variance, as in fit.json, or no --epsilon-placement"),
    ("--statistics fit.json", "--statistics: is the same file as --statistics-from; expected a file of its own"),
    ("--statistics ./link.json", "--statistics: is the same file as --statistics-from; expected a file of its own"),
    ("--output fit.json", "--output: is the same file as --statistics-from; expected a file of its own"),
    ("--channel-axes 0", "--statistics-from: has channels of shape (5,) in fit.json; "
     "expected (6,), as x.npy has in shape (6, 5, 4, 7)"),
    ("--channel-axes none", "--statistics-from: has channels of shape (5,) in fit.json; "
     "expected (), as x.npy has in shape (6, 5, 4, 7)"),
    ("--statistics-from missing.json",
     "missing.json: cannot be opened (No such file or directory); expected a readable file"),
    ("--statistics-from .", ".: is a directory; expected a regular file"),
]  # fmt: skip


def with_options(line: list[str], options: str) -> list[str]:
    """The line with these options, each instead of the one that it has."""
    words = options.split()
    names = {"--output": "-o"}
    for name in words[::2]:
        name = names.get(name, name)
        if name in line:
            at = line.index(name)
            line = line[:at] + line[at + 2 :]
    return line + words


@pytest.mark.parametrize(("options", "message"), FIT_ERRORS, ids=[options for options, _ in FIT_ERRORS])
def test_arguments_that_contradict_a_fit(options: str, message: str) -> None:
    np.save("x.npy", sample())
    np.save("five.npy", np.ones(5))
    succeed(*FIT)
    Path("link.json").hardlink_to("fit.json")
    before = sorted(os.listdir()), digest("fit.json")
    result = run(*with_options(APPLY, options))
    assert (result.stderr, result.stdout, result.returncode) == (f"exactnorm: error: {message}\n", "", 1)
    assert (sorted(os.listdir()), digest("fit.json")) == before


def test_channels_of_two_axes_keep_their_order() -> None:
    np.save("x.npy", sample(shape=(6, 3, 5)))
    succeed(*with_options(FIT, "--channel-axes 1,2"))
    succeed(*with_options(APPLY, "--channel-axes 1,2"))
    result = run(*with_options(APPLY, "--channel-axes 2,1"))
    assert result.stderr == (
        "exactnorm: error: --statistics-from: has channels of shape (3, 5) in fit.json; "
        "expected (5, 3), as x.npy has in shape (6, 3, 5)\n"
    )


EXPECTED = "; expected a file that exactnorm normalize --statistics has written"
FIVE = "[1.0, 1.0, 1.0, 1.0, 1.0]"
MALFORMED = [
    ("", "", "is not JSON from line 1, column 1 on" + EXPECTED),
    ("", "\n\n  {,", "is not JSON from line 3, column 4 on" + EXPECTED),
    ("", '{"mean": [NaN]}', "is not JSON from line 1, column 11 on" + EXPECTED),
    ("", "\x93NUMPY", "is not JSON from line 1, column 1 on" + EXPECTED),
    ("", '{"mean": [1e400]}', "holds a number beyond 1.8e308" + EXPECTED),
    ("", "[1, 2]", "is not a JSON object" + EXPECTED),
    ("", "[" * 100_000, None),
    ("", "{}", 'has no "channel_shape"' + EXPECTED),
    ("mean_residual", None, 'has no "mean_residual"' + EXPECTED),
    ("variance", None, 'has no "variance"' + EXPECTED),
    ("epsilon", None, 'has no "epsilon"' + EXPECTED),
    ("epsilon", '"few"', 'has "few" for "epsilon"; expected a number'),
    ("epsilon", "-1", 'has a negative "epsilon"; expected 0 or more'),
    ("epsilon_placement", '"beside"',
     'has another "epsilon_placement" than variance or deviation; expected one of the two'),
    ("epsilon_placement", "1", 'has 1 for "epsilon_placement"; expected a text'),
    ("channel_shape", "[-5]", 'has [-5] for "channel_shape"; expected a list of at most 8 sizes'),
    ("channel_shape", "5", 'has 5 for "channel_shape"; expected a list of at most 8 sizes'),
    ("channel_shape", "[1,1,1,1,1,1,1,1,5]",
     'has [1,1,1,1,1,1,1,1,5] for "channel_shape"; expected a list of at most 8 sizes'),
    ("channel_shape", "[4]",
     'has 5 values for "mean"; expected one for each channel of "channel_shape" (4,)'),
    ("mean", "[1.0]", 'has 1 values for "mean"; expected one for each channel of "channel_shape" (5,)'),
    ("variance", "[1.0]", 'has 1 values for "variance"; expected 5, one for each channel'),
    ("variance", "{}", 'has {} for "variance"; expected a list of numbers'),
    ("mean", FIVE.replace("[1.0", "[null"), 'has null for "mean" in channel 0; '
     "expected a number; data with NaN, with infinity or without values has none"),
    ("mean", FIVE.replace("1.0]", "true]"), 'has true for "mean" in channel 4; expected a number'),
    ("mean_residual", FIVE.replace("[1.0", '["0"'), 'has "0" for "mean_residual" in channel 0; expected a number'),
    ("variance", FIVE.replace("[1.0", "[-1.0"), 'has -1.0 for "variance" in channel 0; expected 0 or more'),
    ("inverse_deviation", FIVE.replace("[1.0", "[-1.0"),
     'has -1.0 for "inverse_deviation" in channel 0; expected 0 or more'),
    ("mean_residual", FIVE, 'has 1.0 for "mean_residual" in channel 0; expected what float64 cannot hold of the mean'),
    ("epsilon", "[1, [2]]", 'has a list for "epsilon"; expected a number'),
    ("epsilon", '{"a": 1}', 'has an object for "epsilon"; expected a number'),
    ("epsilon", "0.5", None),  # without the inverse deviations that go with it
]  # fmt: skip


@pytest.mark.parametrize(("key", "text", "message"), MALFORMED)
def test_malformed_statistics(key: str, text: str | None, message: str | None) -> None:
    np.save("x.npy", sample())
    succeed(*FIT)
    if key:
        content = json.loads(Path("fit.json").read_text())
        del content[key]
        if text is not None:
            content[key] = json.loads(text)
        text = json.dumps(content)
    assert text is not None
    Path("fit.json").write_text(text, "latin-1")
    result = run(*APPLY)
    assert (result.stdout, result.returncode) == ("", 1)
    assert re.fullmatch("exactnorm: error: fit.json: .*; expected .*\n", result.stderr)
    if message is not None:
        assert result.stderr == f"exactnorm: error: fit.json: {message}\n"
    assert not os.path.exists("z.npy")


def test_values_of_any_depth_are_refused() -> None:
    np.save("x.npy", sample())
    deep = "[" * 200_000 + "]" * 200_000
    Path("fit.json").write_text('{"channel_shape": [5], "epsilon": ' + deep + "}")
    result = run(*APPLY)
    assert (result.stderr, result.returncode) == (
        'exactnorm: error: fit.json: has a list for "epsilon"; expected a number\n', 1
    )  # fmt: skip


def test_inverse_deviations_go_with_the_variances() -> None:
    np.save("x.npy", sample())
    succeed(*FIT)
    content = json.loads(Path("fit.json").read_text())
    content["variance"][3] = 4
    content["epsilon"] = 0
    content["inverse_deviation"] = [1 / math.sqrt(variance) for variance in content["variance"]]
    Path("fit.json").write_text(json.dumps(content))
    succeed(*APPLY)
    content["inverse_deviation"][3] = 0.6
    Path("fit.json").write_text(json.dumps(content))
    assert run(*APPLY).stderr == (
        'exactnorm: error: fit.json: has 0.6 for "inverse_deviation" in channel 3; '
        "expected 0.5, to go with variance and epsilon\n"
    )


def test_channels_without_statistics_cannot_be_applied() -> None:
    x = sample()
    x[0, 2, 0, 0] = np.nan
    np.save("x.npy", x)
    assert run(*FIT).returncode == 0
    result = run(*APPLY)
    assert result.stderr == (
        'exactnorm: error: fit.json: has null for "mean" in channel 2; '
        "expected a number; data with NaN, with infinity or without values has none\n"
    )


def test_no_channels_at_all() -> None:
    np.save("x.npy", np.zeros((3, 0), np.float32))
    succeed(*FIT)
    succeed(*APPLY)
    assert np.load("z.npy").shape == (3, 0)


def with_holes(dtype: str) -> np.ndarray:
    """Five channels: without holes, with NaN, with infinities, with one value, with none."""
    x = np.random.default_rng(5).normal(3, 2, (30, 5)).astype(dtype)
    x[[1, 4, 9], 1] = np.nan
    x[2, 2], x[7, 2], x[29, 2] = np.inf, -np.inf, np.nan
    x[1:, 3] = np.nan
    x[:, 4] = np.nan
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_leave_nan_out(dtype: str) -> None:
    x = with_holes(dtype)
    np.save("x.npy", x)
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", 1, "--ignore-nan", "--json"))
    assert found["non_finite_count"] == [0, 3, 3, 29, 30]
    for channel in range(4):
        kept = x[np.isfinite(x[:, channel]), channel]
        biased, unbiased = deviations(kept)
        mean = float(sum(Fraction(float(value)) for value in kept) / len(kept))
        assert found["mean"][channel] == mean
        assert found["standard_deviation"][channel] == biased
        assert found["unbiased_standard_deviation"][channel] == unbiased
    assert found["mean"][4] is None
    # Without the option such channels have none.
    found = json.loads(succeed("statistics", "x.npy", "--channel-axes", 1, "--json"))
    assert [mean is None for mean in found["mean"]] == [False, True, True, True, True]


def test_normalize_leaves_nan_out() -> None:
    x = with_holes("float32")
    np.save("x.npy", x)
    process = run("normalize", "x.npy", "--output", "y.npy", "--channel-axes", 1, "--ignore-nan")
    assert (process.returncode, process.stderr) == (
        0,
        "exactnorm: warning: 4 of 5 channels hold NaN or infinity and were normalized by their other values, "
        "where there are any: 1, 2, 3, 4\n",
    )
    y = np.load("y.npy")
    for channel in range(4):
        finite = np.isfinite(x[:, channel])
        kept = x[finite, channel].reshape(-1, 1)
        np.save("kept.npy", kept)
        succeed("normalize", "kept.npy", "--output", "kept_y.npy", "--channel-axes", 1)
        np.testing.assert_array_equal(y[finite, channel], np.load("kept_y.npy")[:, 0])
        np.testing.assert_array_equal(np.isnan(y[~finite, channel]), np.isnan(x[~finite, channel]))
    assert np.isnan(y[:, 4]).all()
    for option in (["--statistics-from", "fit.json"], ["--running-mean", "m.npy", "--running-variance", "v.npy"]):
        process = run("normalize", "x.npy", "--output", "z.npy", "--channel-axes", 1, "--ignore-nan", *option)
        assert process.returncode == 1
        assert f"--ignore-nan: is given with {option[0]}; expected statistics of the input itself" in process.stderr


def test_activations() -> None:
    x = sample("float32", (7, 3, 5))
    np.save("x.npy", x)
    succeed("normalize", "x.npy", "--output", "y.npy", "--channel-axes", 1)
    y = np.load("y.npy")
    zero = y.dtype.type(0)
    succeed("normalize", "x.npy", "--output", "relu.npy", "--channel-axes", 1, "--activation", "relu")
    np.testing.assert_array_equal(np.load("relu.npy"), np.maximum(y, zero))
    succeed("normalize", "x.npy", "--output", "leaky.npy", "--channel-axes", 1, "--activation", "leaky_relu", "--slope", 0.25)
    np.testing.assert_array_equal(np.load("leaky.npy"), np.where(y > 0, y, y / 4))
    process = run("normalize", "x.npy", "--output", "z.npy", "--channel-axes", 1, "--slope", 0.25)
    assert process.returncode == 1
    assert "--slope: is given with --activation none; expected --activation leaky_relu" in process.stderr
    process = run("normalize", "x.npy", "--output", "z.npy", "--channel-axes", 1, "--activation", "gelu")
    assert process.returncode == 2
    assert "--activation: gelu not in" in process.stderr
