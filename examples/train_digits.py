#!/usr/bin/env python3
"""Trains a small CNN on handwritten digits: with torch.nn's batch normalization, with exactnorm's, and with none.

Writes a figure of test accuracy against steps, and of how the input of one sigmoid is distributed over the training, after
figure 1 of S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift" (2015), arXiv:1502.03167. Takes less than a minute; needs torch, matplotlib and tqdm.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import exactnorm.torch
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import tqdm
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
SEED = 2015
BATCH = 60
TEST_IMAGES = 397
WATCHED_UNIT = 7


@dataclasses.dataclass
class History:
    """What is written down every few steps."""

    steps: list[int] = dataclasses.field(default_factory=list)
    test_accuracy: list[float] = dataclasses.field(default_factory=list)
    percentiles: list[np.ndarray] = dataclasses.field(default_factory=list)


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    images = np.load(ROOT / "data" / "digits.npy").astype(np.float32) / 16
    labels = np.load(ROOT / "data" / "digits_labels.npy").astype(np.int64)
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels)


def make_network(normalized: bool) -> nn.Sequential:
    """Sigmoids throughout, as in the paper's experiment; the last one's input is watched."""

    def norm(layer: type[nn.Module], channels: int) -> nn.Module:
        return layer(channels) if normalized else nn.Identity()

    torch.manual_seed(SEED)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        norm(nn.BatchNorm2d, 16),
        nn.Sigmoid(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        norm(nn.BatchNorm2d, 32),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 100),
        norm(nn.BatchNorm1d, 100),
        nn.Sigmoid(),
        nn.Linear(100, 10),
    )
    for parameter in network.parameters():
        if parameter.dim() > 1:
            # A sigmoid's slope is 1/4 at most: without this, nothing is learned without normalization.
            nn.init.xavier_normal_(parameter, gain=4)
    return network


def train(name: str, network: nn.Sequential, steps: int) -> History:
    images, labels = load_digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    test, training = order[:TEST_IMAGES], order[TEST_IMAGES:]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batches = torch.Generator().manual_seed(SEED)
    history = History()
    for step in tqdm.trange(steps + 1, desc=f"{name:>9}", unit="step"):
        if step % 10 == 0:
            network.eval()
            with torch.no_grad():
                watched = network[:9](images[test])
                predicted = network[9:](watched).argmax(1)
            history.steps.append(step)
            history.test_accuracy.append(float((predicted == labels[test]).double().mean()))
            history.percentiles.append(np.percentile(watched[:, WATCHED_UNIT].numpy(), [15, 50, 85]))
        network.train()
        chosen = training[torch.randint(len(training), (BATCH,), generator=batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return history


def draw(histories: dict[str, History], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=[1.35, 1, 1], layout="constrained")
    styles = {"none": ("tab:gray", "-", 1.5), "torch.nn": ("tab:orange", "-", 4), "exactnorm": ("tab:blue", "--", 1.5)}
    for name, history in histories.items():
        color, line, width = styles[name]
        label = "without batch normalization" if name == "none" else f"with {name}'s"
        axes[0].plot(history.steps, history.test_accuracy, line, color=color, linewidth=width, label=label)
    axes[0].set(title="Test accuracy", xlabel="training steps", ylim=(0, 1.02))
    axes[0].legend(loc="lower right", frameon=False)
    for axis, name, title in ((axes[1], "none", "without"), (axes[2], "exactnorm", "with exactnorm's")):
        history = histories[name]
        for values, percent, shade in zip(
            np.transpose(history.percentiles), (15, 50, 85), ("#9ecae1", "#08519c", "#9ecae1"), strict=True
        ):
            axis.plot(history.steps, values, color=shade)
            axis.annotate(
                f"{percent} %", (history.steps[-1], values[-1]), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
        axis.set(title=f"Input of one sigmoid, {title}", xlabel="training steps")
        axis.margins(x=0.12)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each network (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "train_digits.png", help="where the figure goes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps: is {arguments.steps}; expected 1 or more")
    networks = {
        "none": make_network(normalized=False),
        "torch.nn": make_network(normalized=True),
        "exactnorm": exactnorm.torch.convert(make_network(normalized=True)),
    }
    histories = {name: train(name, network, arguments.steps) for name, network in networks.items()}
    draw(histories, arguments.output)
    for name, history in histories.items():
        reached = next((s for s, a in zip(history.steps, history.test_accuracy, strict=True) if a >= 0.95), None)
        when = "never" if reached is None else f"after {reached} steps"
        print(f"{name:>9}: test accuracy {history.test_accuracy[-1]:.3f} at the end; 95 % {when}")
    print(f"figure: {arguments.output}")


if __name__ == "__main__":
    main()
