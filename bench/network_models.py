"""The networks that bench/networks.py trains: torchvision's, and three that it does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vision import torchvision


class UNet(nn.Module):
    """Ronneberger, Fischer and Brox (2015), with batch normalization and half as many channels."""

    def __init__(self) -> None:
        super().__init__()
        channels = [32, 64, 128, 256]
        self.down = nn.ModuleList([_double(a, b) for a, b in zip([3, *channels], channels, strict=False)])
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(channels[::-1], channels[-2::-1], strict=False))
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs])
        self.joined = nn.ModuleList([_double(2 * b, b) for _, b in pairs])
        self.last = nn.Conv2d(channels[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else self.pool(x))
            kept.append(x)
        for up, block in zip(self.up, self.joined, strict=True):
            kept.pop()
            x = block(torch.cat([up(x), kept[-1]], 1))
        return self.last(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class _Speech(nn.Module):
    """A block of QuartzNet (Kriman and others, 2020): separable convolutions over time, and a residual."""

    def __init__(self, channels: int, width: int, repeats: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for repeat in range(repeats):
            layers += [
                nn.Conv1d(channels, channels, width, padding=width // 2, groups=channels, bias=False),
                nn.Conv1d(channels, channels, 1, bias=False),
                nn.BatchNorm1d(channels),
            ]
            if repeat + 1 < repeats:
                layers.append(nn.ReLU())
        *before, self.norm = layers
        self.before = nn.Sequential(*before)
        self.residual = nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.before(x)) + self.residual(x))


def _speech() -> nn.Module:
    first = [nn.Conv1d(64, 128, 33, stride=2, padding=16, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*first, *[_Speech(128, width, 3) for width in (33, 39, 51)], nn.Conv1d(128, 29, 1))


def _perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (128, 256, 256):
        layers += [nn.Linear(inputs, 256), nn.BatchNorm1d(256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = getattr(torchvision().models, name)(num_classes=100)
        return model

    return make


@dataclass(frozen=True)
class Network:
    """A model, and the shape of a batch for it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    @property
    def has_formats(self) -> bool:
        return len(self.shape) == 4


NETWORKS = {
    "ResNet-18": Network(_torchvision("resnet18"), (16, 3, 112, 112)),
    "ResNet-50": Network(_torchvision("resnet50"), (16, 3, 112, 112)),
    "MobileNetV2": Network(_torchvision("mobilenet_v2"), (16, 3, 112, 112)),
    "DenseNet-121": Network(_torchvision("densenet121"), (16, 3, 112, 112)),
    "U-Net": Network(UNet, (8, 3, 64, 64)),
    "speech": Network(_speech, (16, 64, 400)),
    "MLP, 64": Network(_perceptron, (64, 128)),
    "MLP, 1024": Network(_perceptron, (1024, 128)),
}
