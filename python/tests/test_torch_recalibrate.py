"""exactnorm.torch.recalibrate against means and variances of all samples at once, over splits, orders and ranks."""

from __future__ import annotations

import copy
import hashlib
import pickle
from fractions import Fraction
from typing import NamedTuple

import exactnorm.torch
import numpy as np
import pytest
import torch
from exactnorm.torch import Recalibration, recalibrate
from ranks import outcomes_of
from torch import distributed, nn
from torch.optim import swa_utils


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(54, 4),
        nn.BatchNorm1d(4),
    )  # fmt: skip


def samples(count=30, seed=1):
    """Each with a mean of its own, so that batches differ."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 5, 5, generator=generator) + 20 * torch.randn(count, 1, 1, 1, generator=generator)


def split(x, sizes):
    assert sum(sizes) == len(x)
    return list(x.split(sizes))


SPLITS = [[30], [10, 10, 10], [1, 2, 3, 24], [29, 1], [1] * 30]


def digest(model):
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def test_the_first_layer_is_exact_whatever_the_split():
    x = samples()
    found = set()
    for sizes in [sizes for sizes in SPLITS if 1 not in sizes]:
        model = network()
        result = recalibrate(model, split(x, sizes))
        assert result.norms["0"].count == 30 * 25
        found.add((tuple(model[0].running_mean.tolist()), tuple(model[0].running_var.tolist())))
        assert int(model[0].num_batches_tracked) == len(sizes)
    ((means, variances),) = found
    for channel in range(3):
        values = list(map(Fraction, x[:, channel].flatten().tolist()))
        mean = sum(values) / len(values)
        assert means[channel] == float(np.float32(float(mean)))
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        assert variances[channel] == pytest.approx(float(variance), rel=2.0**-23)


def test_layer_after_layer_no_split_or_order_matters():
    x = samples()
    models = []
    for sizes in SPLITS:
        for order in (1, -1):
            model = network()
            recalibrate(model, split(x, sizes)[::order], sequential=True)
            models.append(model)
    # What is between the layers need not give a sample the same bits in each batch.
    for model in models[1:]:
        for (name, value), expected in zip(model.state_dict().items(), models[0].state_dict().values(), strict=True):
            if "num_batches" not in name:
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    # By hand, in float64 and evaluation mode.
    reference = network().double().eval()
    values = x.double()
    with torch.no_grad():
        for layer in reference:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                axes = [0, *range(2, values.dim())]
                layer.running_mean.copy_(values.mean(axes))
                layer.running_var.copy_(values.var(axes))
            values = layer(values)
    for name, value in reference.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(models[0].get_buffer(name).double(), value, rtol=1e-5, atol=1e-6)


def test_one_pass_normalizes_by_batches_and_leaves_dropout_off():
    x = samples()
    model = network().train()
    recalibrate(model, split(x, [10, 20]))
    assert all(module.training for module in model.modules())
    inputs = []
    with torch.no_grad():
        for part in split(x.double(), [10, 20]):
            reference = network().double().train()
            reference[4].eval()
            inputs.append(reference[:7](part))
    joined = torch.cat(inputs)
    torch.testing.assert_close(model[7].running_mean.double(), joined.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[7].running_var.double(), joined.var(0), rtol=1e-4, atol=1e-5)


def test_beside_update_bn_of_pytorch():
    """Batches of 64, 64, 64 and 2 values with means 0, 5, -5 and 100: pooled, mean 1.05 and variance 121."""
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(n, 1, generator=generator) + mean for n, mean in ((64, 0), (64, 5), (64, -5), (2, 100))]
    theirs, ours = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    swa_utils.update_bn(batches, theirs)
    exactnorm.torch.update_bn(batches, ours)
    everything = torch.cat(batches).double()
    assert float(ours.running_mean) == pytest.approx(float(everything.mean()), rel=1e-7)
    assert float(ours.running_var) == pytest.approx(float(everything.var()), rel=1e-7)
    assert abs(float(theirs.running_mean) - float(everything.mean())) > 20 and float(theirs.running_var) < 1
    # Signature and use are the same, of averaged models, pairs and models without normalization.
    averaged = swa_utils.AveragedModel(network())
    exactnorm.torch.update_bn([(part, 0) for part in split(samples(), [10, 20])], averaged, "cpu")
    assert int(averaged.module[0].num_batches_tracked) == 2
    exactnorm.torch.update_bn([], nn.Linear(2, 2))


@pytest.mark.parametrize("sequential", [False, True])
def test_whatever_fails_the_model_stays(sequential):
    model = network().train()
    model[2].momentum = None
    before = copy.deepcopy(model.state_dict())

    def failing():
        yield samples(4)
        yield samples(4)
        raise OSError("no more")

    class Batches:
        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            return iter(self.batches()) if callable(self.batches) else iter(self.batches)

    nan = samples(4)
    nan[2, 1, 0, 0] = torch.nan
    cases = [
        (Batches(failing), OSError, "no more"),
        ([], ValueError, "loader: gives no batch; expected at least one"),
        ([torch.zeros(2, 5)], (ValueError, RuntimeError), None),
        ([nan], ValueError, "loader: makes 1 of 100 values not finite in channel 1 of 0"),
    ]
    if sequential:
        cases.append((iter([samples(4)]), ValueError, "loader: gives no batch; expected at least one, in each pass"))
    for loader, kind, words in cases:
        with pytest.raises(kind, match=words):
            recalibrate(model, loader, sequential=sequential)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(module.training for module in model.modules()) and model[2].momentum is None
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_single_value_of_a_channel():
    model = nn.BatchNorm1d(2).eval()
    with pytest.raises(ValueError, match="loader: gives the model 1 value for each channel; expected at least 2"):
        recalibrate(model, [torch.zeros(1, 2)], sequential=True)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.never = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x, y):
        try:
            return self.norm(x) + self.norm(y)
        except Exception:  # noqa: BLE001 - what models do
            return x


def test_layers_that_are_called_twice_or_never():
    model, x = Twice(), torch.randn(6, 2)
    result = recalibrate(model, [{"x": x, "y": x + 1}])
    assert result.norms["norm"].count == 12 and result.untouched == ["never"]
    torch.testing.assert_close(model.norm.running_mean, torch.cat([x, x + 1]).mean(0))
    assert torch.equal(model.never.running_var, torch.ones(2)) and int(model.never.num_batches_tracked) == 0
    assert "never called: never" in str(result)
    with pytest.raises(ValueError, match="sequential: is True, with norm called 2 times in a forward pass"):
        recalibrate(model, [(x, x)], sequential=True, forward=lambda model, pair: model(*pair))


def test_arguments():
    with pytest.raises(ValueError, match="model: has no batch normalization with running statistics"):
        recalibrate(nn.BatchNorm1d(2, track_running_stats=False), [torch.zeros(4, 2)])
    with pytest.raises(ValueError, match="batches: is 0; expected at least 1"):
        recalibrate(nn.BatchNorm1d(2), [torch.zeros(4, 2)], batches=0)
    model = nn.BatchNorm1d(2)
    parts = split(torch.randn(12, 2), [4, 4, 4])
    result = recalibrate(model, parts, batches=2, progress=True, device="cpu")
    assert result.norms[""].count == 8 and int(model.num_batches_tracked) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    x = (torch.randn(40, 3) * 3 + 7).to(dtype)
    model = exactnorm.torch.BatchNorm1d(3).to(torch.float64 if dtype == torch.float64 else torch.float32)
    recalibrate(model, split(x, [30, 10]))
    torch.testing.assert_close(model.running_mean.double(), x.double().mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(model.running_var.double(), x.double().var(0), rtol=1e-7, atol=0)


def test_results_merge_and_pickle():
    x = samples()
    whole, first, second = network(), network(), network()
    expected = recalibrate(whole, [x[:10], x[10:]])
    result = recalibrate(first, [x[:10]])
    other: Recalibration = pickle.loads(pickle.dumps(recalibrate(second, [x[10:]])))
    result.merge(other).apply(first)
    assert digest(first) == digest(whole)
    norm = expected.norms["0"]
    drift = (x.double().mean((0, 2, 3)) / (1 + 1e-5) ** 0.5).numpy()
    np.testing.assert_allclose(norm.drift, drift, rtol=1e-6)
    np.testing.assert_allclose(norm.deviation_ratio**2, (x.double().var((0, 2, 3)).numpy() + 1e-5) / (1 + 1e-5), rtol=1e-6)
    assert str(expected).splitlines()[1].split()[:2] == ["0", "750"]
    with pytest.raises(ValueError, match="model: has no running statistics of 3 channels in 0; expected the model that was recalibrated"):
        result.apply(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="other: has 1 channels in 0; expected 3"):
        result.merge(recalibrate(nn.Sequential(nn.BatchNorm1d(1)), [torch.randn(4, 1)]))


def test_other_results_stay_and_wrong_models_do_too():
    x = samples()
    first, second, third = (recalibrate(network(), [part]) for part in split(x, [10, 10, 10]))
    first.merge(second).merge(third)
    assert (first.norms["0"].count, second.norms["0"].count) == (750, 250)
    model = network()
    model[7] = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="model: has no running statistics of 4 channels in 7"):
        first.apply(model)
    assert torch.equal(model[0].running_mean, torch.zeros(3))


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x):
        x = self.first(input=x)
        return self.second(x) if len(x) > 2 else x


class Named(NamedTuple):
    input: torch.Tensor
    target: int


def test_layers_that_some_batches_call():
    x = torch.randn(10, 2)
    batches = [Named(x[:2], 0), Named(x[2:], 1)]
    model = Sometimes()
    result = recalibrate(model, batches, sequential=True, device="cpu")
    assert result.norms["second"].count == 8 and not result.untouched

    class Changing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(batches if self.passes < 3 else batches[:1])

    with pytest.raises(ValueError, match="loader: calls second in one pass, and in the next one not"):
        recalibrate(model, Changing(), sequential=True)


def recalibrated_on(rank, size, sequential):
    model = network()
    x = samples()
    # The same batches on any number of ranks, dealt out in turn.
    recalibrate(model, split(x, [5] * 6)[rank::size], sequential=sequential, process_group=distributed.group.WORLD)
    return digest(model), int(model[0].num_batches_tracked)


@pytest.mark.parametrize("sequential", [False, True])
def test_ranks_give_the_bits_of_one_process(sequential):
    found = {outcome for size in (1, 2, 3) for outcome in outcomes_of(recalibrated_on, size, sequential)}
    alone = network()
    recalibrate(alone, split(samples(), [5] * 6), sequential=sequential)
    assert found == {(digest(alone), 6)}


def failing_on_one(rank, size):
    model = network()

    def batches():
        yield samples(4)
        if rank == 1:
            raise OSError("no more")

    before = digest(model)
    try:
        recalibrate(model, batches(), process_group=distributed.group.WORLD)
    except Exception as error:  # noqa: BLE001 - to be compared
        return type(error).__name__, str(error), digest(model) == before


def test_a_rank_that_fails_is_an_error_of_all():
    assert outcomes_of(failing_on_one, 2) == [
        ("RuntimeError", "recalibrate: rank 1 of 2 failed: OSError: no more", True),
        ("OSError", "no more", True),
    ]


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 1000.0), (torch.float32, 1e30)])
def test_statistics_beyond_the_dtype_are_an_error(dtype, value):
    model = nn.Sequential(nn.BatchNorm1d(2)).to(dtype)
    before = digest(model)
    with pytest.raises(ValueError, match="loader: makes the variance of channel 1 of 0 too large for torch.float"):
        recalibrate(model, [torch.tensor([[0.0, 0.0], [1.0, value]], dtype=dtype)])
    assert digest(model) == before


def test_a_tensor_is_no_loader():
    with pytest.raises(TypeError, match="loader: is a tensor; expected an iterable of batches"):
        recalibrate(network(), samples())
