"""Objects that Python's threads share: the results are those of one thread, or an error says why not."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import exactnorm
import numpy as np
import pytest

THREADS = 8


@pytest.fixture(autouse=True)
def _many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_in_threads(work, threads=THREADS):
    """work(i) in threads that start at the same time; raises what one of them raises, and where one does not end."""
    errors = []
    start = threading.Barrier(threads)

    def run(i):
        try:
            start.wait()
            work(i)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert not worker.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]


def test_functions_that_threads_call():
    rng = np.random.default_rng(8)
    data = [rng.normal(i, 3, (40, 6, 5)).astype(np.float32 if i % 2 else np.float64) for i in range(THREADS)]
    shared = exactnorm.statistics(data[0])
    gamma = rng.normal(size=6)

    def results(x):
        y, found = exactnorm.batch_norm(x, gamma, return_statistics=True, threads=2)
        evaluated = exactnorm.batch_norm_inference(x, shared, gamma, threads=1)
        return y, evaluated, *exactnorm.batch_norm_backward(y, x, found, gamma, threads=2), found.mean, shared.variance

    expected = [results(x) for x in data]

    def work(i):
        for _ in range(20):
            for found, right in zip(results(data[i]), expected[i], strict=True):
                assert (found == right).all()

    run_in_threads(work)


def test_moments_of_parts_that_threads_add():
    x = np.random.default_rng(1).normal(1e6, 1, (2000, 4, 100)).astype(np.float32)
    x[7:11] *= 1e-30
    sums = exactnorm.Moments(100)
    # float64 among them: the sums change their range while others add.
    run_in_threads(lambda i: [sums.add(part.astype(np.float64 if i == 3 else np.float32), threads=1) for part in x[i::8]])
    alone = exactnorm.Moments.of(x.reshape(-1, 100), threads=1)
    assert sums.count == 8000
    assert sums == alone
    assert (sums.statistics().mean == alone.statistics().mean).all()
    assert (sums.statistics().variance == alone.statistics().variance).all()


def test_moments_are_read_as_of_whole_additions():
    part = np.random.default_rng(2).normal(3, 1, (3, 50)).astype(np.float32)
    once = exactnorm.Moments.of(part)
    sums = exactnorm.Moments(50).add(part)

    def work(i):
        for _ in range(100):
            if i < 4:
                sums.add(part, threads=1)
                continue
            for read in (copy.deepcopy(sums), sums.copy(), pickle.loads(pickle.dumps(sums))):
                assert read.count % 3 == 0
                assert (read.statistics().mean == once.statistics().mean).all()
                assert (read.statistics().variance == once.statistics().variance).all()
            assert (sums.statistics().mean == once.statistics().mean).all()
            assert sums == sums
            assert sums.nonfinite_count(0) == 0

    run_in_threads(work)
    assert sums.count == 3 + 4 * 100 * 3


def test_moments_that_are_merged_into_each_other():
    part = np.random.default_rng(3).normal(size=(5, 20))
    a, b = exactnorm.Moments.of(part), exactnorm.Moments.of(part)

    def work(i):
        for _ in range(7):
            if i % 4 == 0:
                a.merge(b)
            elif i % 4 == 1:
                b.merge(a)
            elif i % 4 == 2:
                a.merge(a)
            else:
                assert (a == b) in (True, False)

    run_in_threads(work)
    for sums in (a, b):
        assert sums.count % 5 == 0
        assert (sums.statistics().mean == exactnorm.statistics(part).mean).all()


def test_running_statistics_that_threads_update():
    batches = [exactnorm.statistics(np.array([[i - 1.0] * 30, [i + 1.0] * 30])) for i in range(THREADS)]
    running = exactnorm.RunningStatistics(30, momentum=1)

    def work(i):
        for _ in range(200):
            running.update(batches[i])
            again = pickle.loads(pickle.dumps(running))
            # Of one batch and not of two.
            assert (again.mean == again.mean[0]).all()
            assert again.mean[0] in range(THREADS)
            assert (again.variance == 2).all()
            found = running.statistics()
            assert (found.mean == found.mean[0]).all()

    run_in_threads(work)
    assert running.batches_tracked == THREADS * 200


def test_running_statistics_average_what_threads_bring():
    rng = np.random.default_rng(4)
    batches = [exactnorm.statistics(rng.integers(-4, 5, (5, 6)).astype(np.float64)) for _ in range(THREADS)]
    running = exactnorm.RunningStatistics(6, momentum=None)
    run_in_threads(lambda i: [running.update(batches[i]) for _ in range(100)])
    assert running.batches_tracked == THREADS * 100
    assert np.allclose(running.mean, np.mean([batch.mean for batch in batches], axis=0), rtol=1e-10, atol=1e-12)


def test_a_layer_that_threads_evaluate():
    rng = np.random.default_rng(5)
    layer = exactnorm.BatchNorm(7, threads=1)
    layer(rng.normal(2, 3, (50, 7)))
    layer.training = False
    layer.gamma[:] = rng.normal(size=7)
    data = [rng.normal(size=(20 + i, 7)).astype(np.float32) for i in range(THREADS)]
    expected = [layer(x) for x in data]
    expected_dx = [layer.gamma * layer.running.statistics().inverse_deviation * x for x in data]

    def work(i):
        for _ in range(100):
            assert (layer(data[i]) == expected[i]).all()
            try:
                assert np.allclose(layer.backward(data[i], data[i]), expected_dx[i], rtol=1e-6)
            except ValueError as error:  # another thread's call was the latest
                assert str(error).startswith("x: has shape")

    run_in_threads(work)


def test_a_layer_that_threads_train():
    rng = np.random.default_rng(6)
    data = [rng.normal(i, 3, (30, 5)).astype(np.float32) for i in range(THREADS)]
    expected = [exactnorm.batch_norm(x) for x in data]
    single = [exactnorm.BatchNorm(5, momentum=1) for _ in data]
    for layer, x in zip(single, data, strict=True):
        layer(x)
    layer = exactnorm.BatchNorm(5, momentum=1, threads=1)

    def work(i):
        for _ in range(50):
            assert (layer(data[i]) == expected[i]).all()

    run_in_threads(work)
    assert layer.running.batches_tracked == THREADS * 50
    state = pickle.dumps(layer.running)
    ends = [pickle.loads(pickle.dumps(one.running)) for one in single]
    last = pickle.loads(state)
    assert any((last.mean == end.mean).all() and (last.variance == end.variance).all() for end in ends)


def test_a_backward_pass_after_anothers_forward_is_refused():
    rng = np.random.default_rng(7)
    data = [rng.normal(i, 3, (30, 5)) for i in range(THREADS)]
    dy = rng.normal(size=(30, 5))
    layer = exactnorm.BatchNorm(5, threads=1)
    all_called = threading.Barrier(THREADS)
    right = []
    refused = []

    def work(i):
        layer(data[i])
        all_called.wait()
        try:
            right.append((i, layer.backward(dy, data[i])))
        except ValueError as error:
            assert "as x had in the latest forward pass" in str(error)
            refused.append(i)

    run_in_threads(work)
    assert len(refused) == THREADS - 1
    [(i, dx)] = right
    assert (dx == exactnorm.batch_norm_backward(dy, data[i], exactnorm.statistics(data[i])).dx).all()
