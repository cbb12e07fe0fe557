"""exactnorm's functions on NumPy arrays against their definition, computed in longdouble."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
import tracemalloc

import exactnorm
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def exact(x, axes, gamma=1, beta=0, epsilon=1e-5, epsilon_placement="variance"):
    """y and a bound's unit for each element: two passes, 64 bits of significand."""
    wide = np.asarray(x).astype(np.longdouble)
    reduced = tuple(axis for axis in range(wide.ndim) if axis not in [a % wide.ndim for a in axes])
    mean = wide.mean(axis=reduced, keepdims=True)
    variance = ((wide - mean) ** 2).mean(axis=reduced, keepdims=True)
    if epsilon_placement == "variance":
        normalized = (wide - mean) / np.sqrt(variance + epsilon)
    else:
        normalized = (wide - mean) / (np.sqrt(variance) + epsilon)
    return gamma * normalized + beta


def bound(y, beta=0, single=True):
    unit = 4 * 2.0**-24 + 2.0**-31 if single else 16 * 2.0**-53
    of_mean = 2.0**-34 if single else 0  # times gamma, which is about 1
    return unit * np.maximum(np.maximum(abs(y), abs(y - beta)), abs(beta)) + 4 * of_mean + 1e-12


def test_the_notebooks_two_cases():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(5, 40)) * 3 + 1  # (hidden, m)
    gamma, beta = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
    by_hand = (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-5) * gamma + beta
    assert np.allclose(exactnorm.batch_norm(z, gamma, beta, channel_axes=0), by_hand)

    a = rng.normal(size=(6, 7, 3, 10))  # (h, w, c, m)
    gamma, beta = rng.normal(size=(1, 1, 3, 1)), rng.normal(size=(1, 1, 3, 1))
    mean, variance = a.mean(axis=(0, 1, 3), keepdims=True), a.var(axis=(0, 1, 3), keepdims=True)
    by_hand = (a - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    assert np.allclose(exactnorm.batch_norm(a, gamma, beta, channel_axes=2), by_hand)


def test_the_notebooks_two_cases_as_pytorch_has_them():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(16, 200)).astype(np.float32)
    theirs = torch.nn.BatchNorm1d(16)(torch.from_numpy(z.T)).T
    assert np.allclose(exactnorm.batch_norm(z, channel_axes=0), theirs.detach().numpy(), atol=1e-6)
    a = rng.normal(size=(9, 8, 4, 20)).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(4)(torch.from_numpy(a).permute(3, 2, 0, 1)).permute(2, 3, 1, 0)
    assert np.allclose(exactnorm.batch_norm(a, channel_axes=2), theirs.detach().numpy(), atol=1e-6)


@st.composite
def arrays(draw):
    """Arrays of any layout: transposed, sliced, reversed, broadcast, read-only."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=6))
    dtypes = [np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.bool_]
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(loc=rng.choice([0, 100]), scale=10, size=shape)
    x = np.abs(values).astype(dtype) if np.dtype(dtype).kind in "ub" else np.clip(values, -120, 120).astype(dtype)
    x = x.transpose(draw(st.permutations(range(x.ndim))))
    for axis in range(x.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1]))
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        x = np.broadcast_to(x, (3, *x.shape))
    if draw(st.booleans()):
        x.setflags(write=False)
    axes = draw(st.lists(st.integers(-x.ndim, x.ndim - 1), max_size=x.ndim, unique_by=lambda axis: axis % x.ndim))
    return x, axes


@settings(max_examples=300, deadline=None)
@given(arrays(), st.sampled_from(["variance", "deviation"]))
def test_any_array_in_any_layout(drawn, placement):
    x, axes = drawn
    before = x.copy()
    y = exactnorm.batch_norm(x, channel_axes=axes, epsilon=0.1, epsilon_placement=placement)
    expected = exact(x, axes, epsilon=0.1, epsilon_placement=placement)
    assert y.shape == x.shape
    assert y.dtype == (x.dtype if x.dtype.kind == "f" else np.float32)
    assert (abs(y - expected) <= bound(expected, single=y.dtype == np.float32)).all()
    assert (x == before).all()
    # The layout changes no bit.
    compact = exactnorm.batch_norm(np.ascontiguousarray(x), channel_axes=axes, epsilon=0.1, epsilon_placement=placement)
    assert (compact == y).all()


def test_output_has_the_layout_of_x():
    x = np.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2)
    assert exactnorm.batch_norm(x + 1).strides == (x + 1).strides
    assert exactnorm.batch_norm(x).strides == x.strides


def test_out_and_in_place():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    expected = exactnorm.batch_norm(x)
    out = np.empty((100, 6), np.float64)[::2, ::-2]
    assert exactnorm.batch_norm(x, out=out) is out
    assert np.allclose(out, expected, atol=1e-6)
    assert exactnorm.batch_norm(x, out=x) is x
    assert (x == expected).all()


def test_pytorch_tensors_share_their_memory():
    x = torch.randn(20, 3, 4)
    out = torch.empty(20, 3, 4)
    y = exactnorm.batch_norm(x, out=out)
    assert isinstance(y, np.ndarray)
    assert np.allclose(out, torch.nn.functional.batch_norm(x, None, None, training=True), atol=1e-5)
    assert y.ctypes.data == out.data_ptr()


def test_statistics_and_pickling():
    x = np.random.default_rng(6).normal(1e6, 1, (1000, 4)).astype(np.float32)
    _, found = exactnorm.batch_norm(x, return_statistics=True)
    alone = exactnorm.statistics(x)
    again = pickle.loads(pickle.dumps(found))
    wide = x.astype(np.longdouble)
    for each in (found, alone, again):
        assert each.count == 1000
        assert each.channels == 4
        # What normalizes is rounded to some 30 bits, what is asked for by itself is not.
        off = np.abs(each.mean - wide.mean(axis=0).astype(np.float64))
        assert (off <= (0 if each is alone else 2.0**-34 * np.sqrt(each.variance))).all()
        tolerance = 1e-14 if each is alone else 2.0**-30
        assert np.allclose(each.variance, wide.var(axis=0).astype(np.float64), rtol=tolerance, atol=0)
        assert np.allclose(each.inverse_deviation, 1 / np.sqrt(each.variance + 1e-5), rtol=1e-14, atol=0)
    assert "4 channels" in repr(found)


def test_backward_is_pytorchs():
    rng = np.random.default_rng(7)
    x, dy = rng.normal(size=(2, 8, 3, 5, 5))
    gamma = rng.normal(size=3)
    for frozen in (False, True):
        x_torch, gamma_torch = torch.tensor(x, requires_grad=True), torch.tensor(gamma, requires_grad=True)
        beta_torch = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        mean, variance = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
        torch.nn.functional.batch_norm(
            x_torch, mean.clone(), variance.clone(), gamma_torch, beta_torch, training=not frozen
        ).backward(torch.tensor(dy))
        if frozen:
            found = exactnorm.given_statistics(mean, variance)
        else:
            _, found = exactnorm.batch_norm(x, gamma, return_statistics=True)
        ours = exactnorm.batch_norm_backward(dy, x, found, gamma, frozen=frozen)
        for mine, theirs in zip(ours, (x_torch.grad, gamma_torch.grad, beta_torch.grad), strict=True):
            assert np.allclose(mine, theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_inference():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(10, 3)).astype(np.float32)
    x[0, 0], x[1, 1] = np.inf, np.nan
    given_ones = exactnorm.given_statistics(np.zeros(3, np.float32), np.ones(3, np.float32), epsilon=0)
    assert np.array_equal(exactnorm.batch_norm_inference(x, given_ones), x, equal_nan=True)


def test_results_do_not_depend_on_threads():
    x = np.random.default_rng(9).normal(size=(16, 8, 30, 30)).astype(np.float32).transpose(0, 2, 3, 1)
    expected = exactnorm.batch_norm(x, channel_axes=-1, threads=1)
    for threads in (None, 2, 3, 7):
        assert (exactnorm.batch_norm(x, channel_axes=-1, threads=threads) == expected).all()


def test_calls_from_several_threads():
    x = np.random.default_rng(10).normal(size=(64, 32, 14, 14)).astype(np.float32)
    expected = exactnorm.batch_norm(x, threads=1)
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = exactnorm.batch_norm(x, threads=1)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((result == expected).all() for result in results)


def test_nothing_leaks():
    x = np.ones((100, 50), np.float32)
    out = np.empty_like(x)

    def use():
        _, found = exactnorm.batch_norm(x, out=out, return_statistics=True)
        exactnorm.batch_norm_backward(x, x, found, out=out)
        with pytest.raises(ValueError):
            exactnorm.batch_norm(x, np.ones(3), out=out)

    use()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        use()
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] - before < 20_000
    tracemalloc.stop()


X = np.ones((4, 3), np.float32)
LONG = np.ones((7, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exactnorm.batch_norm([1.0]), TypeError, "x: is of type list; expected a NumPy array"),
        (lambda: exactnorm.batch_norm(X.astype(complex)), TypeError, "x: has dtype complex128; expected float32"),
        (lambda: exactnorm.batch_norm(X.astype(np.longdouble)), TypeError, "x: has dtype float128"),
        (lambda: exactnorm.batch_norm(X.astype(">f4")), TypeError, "x: has dtype >f4"),
        (lambda: exactnorm.batch_norm(np.array(["a"])), TypeError, "x: has dtype <U1"),
        (lambda: exactnorm.batch_norm(X, np.ones(2)), ValueError, "gamma: has shape (2,)"),
        (lambda: exactnorm.batch_norm(X, beta="no"), TypeError, "beta: is of type str"),
        (lambda: exactnorm.batch_norm(X, channel_axes=2), ValueError, "channel_axes"),
        (lambda: exactnorm.batch_norm(X, channel_axes=range(9)), ValueError, "channel_axes: has 9 axes"),
        (lambda: exactnorm.batch_norm(X, channel_axes=1.5), TypeError, "channel_axes: is 1.5; expected an integer"),
        (lambda: exactnorm.batch_norm(X, channel_axes="a"), TypeError, "channel_axes: is 'a'"),
        (lambda: exactnorm.batch_norm(np.ma.array(X, mask=X > 0)), TypeError, "x: is a masked array"),
        (lambda: exactnorm.batch_norm(torch._neg_view(torch.ones(4, 3))), TypeError, "x: is a negative view"),
        (lambda: exactnorm.batch_norm(X, epsilon=-1), ValueError, "epsilon"),
        (lambda: exactnorm.batch_norm(X, epsilon_placement="x"), ValueError, "epsilon_placement: is 'x'; expected"),
        (lambda: exactnorm.batch_norm(X, epsilon="a"), TypeError, "epsilon: is 'a'; expected a number"),
        (lambda: exactnorm.batch_norm(X, epsilon_placement=3), TypeError, "epsilon_placement: is of type int"),
        (lambda: exactnorm.batch_norm(X, threads=0), ValueError, "threads: is 0"),
        (lambda: exactnorm.batch_norm(X, threads=1.5), TypeError, "threads: is 1.5; expected an integer"),
        (lambda: exactnorm.batch_norm_inference(X, X), TypeError, "statistics: is of type ndarray"),
        (lambda: exactnorm.batch_norm_backward(X, X, None), TypeError, "statistics: is of type NoneType"),
        (lambda: exactnorm.given_statistics(X, X, epsilon=None), TypeError, "epsilon: is None"),
        (lambda: exactnorm.BatchNorm("a"), TypeError, "channels: is 'a'; expected an integer"),
        (lambda: exactnorm.BatchNorm(3, momentum="a"), TypeError, "momentum: is 'a'; expected a number"),
        (lambda: exactnorm.Moments(2.5), TypeError, "channels: is 2.5; expected an integer"),
        (lambda: exactnorm.Moments(3).merge(3), TypeError, "other: is of type int; expected Moments"),
        (lambda: exactnorm.Moments(3) + 3, TypeError, "unsupported operand"),
        (lambda: exactnorm.Moments(3).nonfinite_count("a"), TypeError, "channel: is 'a'"),
        (lambda: exactnorm.Moments(3).statistics(epsilon="a"), TypeError, "epsilon: is 'a'"),
        (lambda: exactnorm.Moments.from_bytes("a"), TypeError, "data: is of type str; expected bytes"),
        (lambda: exactnorm.batch_norm(X, out=np.empty((3, 4), np.float32)), ValueError, "out: has shape (3, 4)"),
        (lambda: exactnorm.batch_norm(LONG[:-3], out=LONG[3:]), ValueError, "out: overlaps x"),
        (
            lambda: exactnorm.batch_norm_inference(X, exactnorm.statistics(X), out=np.empty((3, 4), np.float32)),
            ValueError,
            "out: has shape (3, 4)",
        ),
        (
            lambda: exactnorm.batch_norm_backward(X, X, exactnorm.statistics(X), out=np.empty((3, 4), np.float32)),
            ValueError,
            "out: has shape (3, 4)",
        ),
        (lambda: exactnorm.batch_norm(X, out=np.empty((4, 3), np.int32)), ValueError, "int32"),
        (lambda: exactnorm.batch_norm(X, out=np.broadcast_to(X, (4, 3))), TypeError, "out: is read-only"),
        (lambda: exactnorm.batch_norm(np.ones((1,) * 9)), ValueError, "x: has 9 dimensions; expected at most 8"),
        (lambda: exactnorm.batch_norm(torch.ones(4, 3, requires_grad=True)), TypeError, "x: cannot be shared"),
        (lambda: exactnorm.batch_norm_inference(X, exactnorm.statistics(np.ones((5, 2)))), ValueError, "statistics"),
        (lambda: exactnorm.given_statistics(np.ones(2), -np.ones(2)), ValueError, "variance"),
        (
            lambda: exactnorm.batch_norm_backward(X[:3], X, exactnorm.statistics(X)),
            ValueError,
            "dy: has shape (3, 3)",
        ),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)


def test_fields_of_records_that_lie_between_elements():
    records = np.zeros(10, np.dtype([("a", np.float32), ("b", np.int8)]))
    with pytest.raises(TypeError, match="without a copy"):
        exactnorm.batch_norm(records["a"], channel_axes=())


def test_a_forked_process_goes_on():
    """GNU OpenMP's threads stay behind: a process that waited for them would wait for ever."""
    x = np.random.default_rng(5).standard_normal((64, 16, 50, 50)).astype(np.float32)
    y = exactnorm.batch_norm(x, threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(exactnorm.batch_norm(x, threads=2), y) else 1)
    deadline = time.monotonic() + 120
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
