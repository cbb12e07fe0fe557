"""SyncBatchNorm over processes of this machine, against one process that holds the whole batch."""

from __future__ import annotations

import copy
import pickle

import exactnorm.torch
import pytest
import torch
from ranks import batch, outcomes_of, results_of
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

SIZES = [1, 2, 3, 4]


def cuts_of(samples, size, seed):
    """Where a batch is cut: uneven, with ranks that hold nothing."""
    inner = torch.randint(0, samples + 1, (size - 1,), generator=torch.Generator().manual_seed(seed))
    return [0, *sorted(inner.tolist()), samples]


def layer_with_parameters(make, channels, dtype, options):
    layer = make(channels, **{"dtype": dtype, **options})
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(batch(seed + 50, parameter.shape, parameter.dtype) - 1000)
    return layer


def train(layer, parts, gradients):
    """Three steps; the outputs, the input's gradients, the parameters' gradients and the buffers."""
    outputs = []
    for x, dy in zip(parts, gradients, strict=True):
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        y.backward(dy)
        outputs += [y.detach(), leaf.grad]
    return outputs, [p.grad for p in layer.parameters()], list(layer.buffers())


CASES = [
    ((7, 3, 4, 5), torch.float32, torch.channels_last, {}),
    ((6, 5, 3, 3), torch.float64, torch.contiguous_format, {"momentum": None}),
    ((9, 4), torch.float32, torch.contiguous_format, {"affine": False}),
    ((5, 2, 3), torch.float32, torch.contiguous_format, {"affine": False, "track_running_stats": False}),
    ((7, 3, 4, 5), torch.bfloat16, torch.channels_last, {"dtype": torch.float32}),
    ((9, 4), torch.float16, torch.contiguous_format, {}),
    ((5, 2, 3), torch.bfloat16, torch.contiguous_format, {"affine": False, "track_running_stats": False}),
]
MODULES = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}


def data_of(shape, dtype, memory_format):
    xs = [batch(seed, shape, dtype).to(memory_format=memory_format) for seed in range(3)]
    dys = [(batch(seed + 10, shape, dtype) - 1000).to(memory_format=memory_format) for seed in range(3)]
    return xs, dys


def train_part(rank, size, cases):
    results = []
    for seed, (shape, dtype, memory_format, options) in enumerate(cases):
        layer = layer_with_parameters(exactnorm.torch.SyncBatchNorm, shape[1], dtype, options)
        xs, dys = data_of(shape, dtype, memory_format)
        cuts = cuts_of(shape[0], size, seed)
        mine = slice(cuts[rank], cuts[rank + 1])
        results.append(train(layer, [x[mine] for x in xs], [dy[mine] for dy in dys]))
    return results


@pytest.mark.parametrize("size", SIZES)
def test_ranks_give_the_bits_of_one_process(size):
    of_ranks = results_of(train_part, size, CASES)
    for case, (shape, dtype, memory_format, options) in enumerate(CASES):
        alone = exactnorm.torch.convert(layer_with_parameters(MODULES[len(shape)], shape[1], dtype, options))
        outputs, shares, buffers = train(alone, *data_of(shape, dtype, memory_format))
        parts = [results[case] for results in of_ranks]
        for i, output in enumerate(outputs):
            assert torch.equal(torch.cat([part[0][i] for part in parts]), output)
        for part in parts:
            assert all(torch.equal(mine, other) for mine, other in zip(part[2], buffers, strict=True))
        for i, total in enumerate(shares):
            # Each rank's share is rounded by itself.
            sum_of_shares = sum(part[1][i].double() for part in parts)
            rtol = 1e-5 if total.dtype in (torch.float32, torch.float64) else 1e-2
            torch.testing.assert_close(sum_of_shares, total.double(), rtol=rtol, atol=100 * rtol)


class SmallNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 10),
        )

    def forward(self, x):
        return self.layers(x)


STEPS = 50
BATCH = 24  # divides by 1, 2, 3 and 4, as DistributedDataParallel averages gradients of ranks without weights


def training_data():
    generator = torch.Generator().manual_seed(3)
    centers = torch.randn(10, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (STEPS, BATCH), generator=generator)
    return centers[labels] + 0.5 * torch.randn(STEPS, BATCH, 1, 8, 8, generator=generator), labels


def train_network(rank, size):
    """Losses of all steps, the normalized layers' inputs and outputs in the first, running statistics after it and at the end."""
    torch.manual_seed(1)
    model = SmallNetwork()
    if size > 1:
        model = exactnorm.torch.convert_sync_batchnorm(model)
        trained = DistributedDataParallel(model)
    else:
        trained = model = exactnorm.torch.convert(model)
    seen = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0].detach(), output.detach())))
        for layer in (model.layers[1], model.layers[4])
    ]
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    images, labels = training_data()
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    losses, running = [], []
    for step in range(STEPS):
        loss = nn.functional.cross_entropy(trained(images[step, part]), labels[step, part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if size > 1:
            distributed.all_reduce(total)
        losses.append(float(total) / size)
        if step in (0, STEPS - 1):
            running.append([buffer.clone() for buffer in model.buffers()])
        for hook in hooks:
            hook.remove()
    return losses, seen, running


@pytest.fixture(scope="module")
def network_alone():
    return train_network(0, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_network_trains_as_in_one_process(size, network_alone):
    """The first step's normalizations are the same bits. Convolutions, losses and the averages of gradients round in the
    order of their own sums, which depends on the batch that a rank holds: from there on, all differs in its last digits."""
    losses, seen, running = network_alone
    of_ranks = results_of(train_network, size)
    first_layer_inputs = torch.cat([of_rank[1][0][0] for of_rank in of_ranks])
    for layer, (inputs, outputs) in enumerate(seen):
        rank_inputs = torch.cat([of_rank[1][layer][0] for of_rank in of_ranks])
        rank_outputs = torch.cat([of_rank[1][layer][1] for of_rank in of_ranks])
        if torch.equal(rank_inputs, inputs):
            assert torch.equal(rank_outputs, outputs)
        torch.testing.assert_close(rank_outputs, outputs)
    assert torch.equal(first_layer_inputs, seen[0][0])
    # Mean and variance of the first layer, whose inputs are the same bits.
    for of_rank in of_ranks:
        assert all(torch.equal(of_rank[2][0][i], running[0][i]) for i in range(3))
    # All ranks know the same to the last bit, always.
    for of_rank in of_ranks[1:]:
        for mine, first in zip(of_rank[2][1], of_ranks[0][2][1], strict=True):
            assert torch.equal(mine, first)
    of_group = of_ranks[0][0]
    assert abs(of_group[0] - losses[0]) <= 1e-6 * losses[0]
    assert of_group[-1] < 0.5 * of_group[0] and losses[-1] < 0.5 * losses[0]
    assert max(abs(a - b) for a, b in zip(of_group[:10], losses[:10], strict=True)) < 1e-3


def train_in_subgroups(rank, size):
    groups = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
    layer = exactnorm.torch.SyncBatchNorm(3, process_group=groups[rank // 2])
    return layer(batch(rank, (4, 3))).detach()


def test_process_groups_are_kept_apart():
    outputs = results_of(train_in_subgroups, 4)
    for group in (0, 1):
        both = torch.cat([batch(rank, (4, 3)) for rank in (2 * group, 2 * group + 1)])
        expected = exactnorm.torch.BatchNorm1d(3)(both)
        assert torch.equal(torch.cat(outputs[2 * group : 2 * group + 2]), expected)


def only_parameters_have_gradients(rank, size):
    layer = exactnorm.torch.SyncBatchNorm(3, dtype=torch.float64)
    x = batch(rank, (4, 3), torch.float64)
    y = layer(x)
    # One rank alone: nothing is exchanged where the input needs no gradient.
    if rank == 0:
        y.backward(x)
    copied = copy.deepcopy(layer)
    again = copied(x)
    clone = pickle.loads(pickle.dumps(layer))
    return torch.equal(again, y) and torch.equal(clone(x), y), layer.weight.grad, layer.bias.grad


def test_parameters_alone_and_copies():
    outcomes = results_of(only_parameters_have_gradients, 2)
    assert all(outcome[0] for outcome in outcomes)
    whole = torch.cat([batch(rank, (4, 3), torch.float64) for rank in (0, 1)])
    normalized = (whole - whole.mean(0)) / (whole.var(0, correction=0) + 1e-5).sqrt()
    own = batch(0, (4, 3), torch.float64)
    torch.testing.assert_close(outcomes[0][1], (own * normalized[:4]).sum(0))
    torch.testing.assert_close(outcomes[0][2], own.sum(0))
    assert outcomes[1][1] is None


def second_derivative(rank, size):
    layer = exactnorm.torch.SyncBatchNorm(3, dtype=torch.float64)
    x = batch(rank, (4, 3), torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad((layer(x) ** 3).sum(), x, create_graph=True)
    gradient.sum().backward()


def test_second_derivatives_are_refused():
    for outcome in outcomes_of(second_derivative, 2):
        assert isinstance(outcome, RuntimeError)
        assert "once_differentiable" in str(outcome)


def compiled(rank, size):
    layer = exactnorm.torch.SyncBatchNorm(3)
    model = nn.Sequential(nn.Linear(3, 3), layer, nn.ReLU())
    x = batch(rank, (4, 3)) - 1000
    expected = model(x)
    layer.reset_running_stats()
    return torch.allclose(torch.compile(model, backend="eager")(x), expected)


def test_compilers_step_over_it():
    assert results_of(compiled, 2) == [True, True]


def test_it_is_a_plain_batch_norm_without_others():
    x = batch(1, (6, 3, 4, 4))
    ours = exactnorm.torch.SyncBatchNorm(3)
    plain = exactnorm.torch.BatchNorm2d(3)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.running_var, plain.running_var)
    assert torch.equal(ours.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="expected at least 2D input"):
        ours(x[0, 0, 0])
    assert list(ours.state_dict()) == list(nn.SyncBatchNorm(3).state_dict())
    assert repr(ours) == repr(nn.SyncBatchNorm(3))
    nn.SyncBatchNorm(3).load_state_dict(ours.state_dict())


@pytest.mark.parametrize("affine", [True, False])
def test_conversion_keeps_parameters_buffers_hooks_and_mode(affine):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, eps=1e-3, momentum=None, affine=affine),
        nn.Sequential(exactnorm.torch.BatchNorm2d(3), nn.SyncBatchNorm(3)),
    ).eval()
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    parameters, buffers, keys = list(model.parameters()), list(model.buffers()), list(model.state_dict())
    x = batch(1, (2, 1, 5, 5))
    before = model(x)
    converted = exactnorm.torch.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert [type(m) for m in (model[1], *model[2])] == [exactnorm.torch.SyncBatchNorm] * 3
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))
    assert list(model.state_dict()) == keys
    assert not any(module.training for module in model.modules())
    assert (model[1].eps, model[1].momentum, model[1].affine) == (1e-3, None, affine)
    torch.testing.assert_close(model(x), before)
    assert len(calls) == 2
    single = exactnorm.torch.convert_sync_batchnorm(nn.BatchNorm1d(2))
    assert isinstance(single, exactnorm.torch.SyncBatchNorm)


def test_lazy_modules_are_not_converted_before_they_know_their_size():
    with pytest.raises(ValueError, match="LazyBatchNorm1d has not seen an input"):
        exactnorm.torch.convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm1d()))


def group_of_one(rank, size):
    assert distributed.get_world_size() == 1
    x = batch(1, (4, 3))
    return torch.equal(exactnorm.torch.SyncBatchNorm(3)(x), exactnorm.torch.BatchNorm1d(3)(x))


def test_a_group_of_one_exchanges_nothing():
    assert results_of(group_of_one, 1) == [True]
