"""What `recalibrate` has found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from exactnorm import Moments
from exactnorm._drift import deviation_ratio, drift
from exactnorm._surds import Float64
from exactnorm._tables import aligned, text_of_largest, text_of_range


@dataclass
class RecalibratedNorm:
    """One normalization: its exact sums, and the running statistics of before."""

    name: str
    moments: Moments
    old_mean: Tensor
    old_variance: Tensor
    epsilon: float

    @property
    def count(self) -> int:
        """Values per channel."""
        return self.moments.count

    @property
    def mean(self) -> Float64:
        return np.asarray(self.moments.statistics().mean)

    @property
    def variance(self) -> Float64:
        """With n - 1."""
        return np.asarray(self.moments.statistics().variance) * (self.count / (self.count - 1))

    @property
    def drift(self) -> Float64:
        """How far each channel's mean is from the old one, in old deviations, sqrt(variance + epsilon)."""
        return drift(self.mean, _float64(self.old_mean), _float64(self.old_variance), self.epsilon)

    @property
    def deviation_ratio(self) -> Float64:
        """Each channel's deviation by its old one, both with epsilon."""
        return deviation_ratio(self.variance, _float64(self.old_variance), self.epsilon)


def _float64(values: Tensor) -> Float64:
    return np.asarray(values.detach().cpu().double().numpy())


@dataclass
class Recalibration:
    """All of a model's normalizations by name; `print` shows a table. A value: it may be pickled, and results of other data, of
    another machine for example, may be merged into it.

    norms
        In the order in which they are called.
    untouched
        Those that no forward pass has called.
    """

    norms: dict[str, RecalibratedNorm]
    untouched: list[str] = field(default_factory=list)

    def merge(self, other: Recalibration) -> Recalibration:
        """Adds the values that another result is of, of the same model; returns itself. `apply` makes use of it.

        Deeper layers' sums are of one distribution where both had the same statistics before them: in one pass each machine's
        batches had their own.
        """
        for name, norm in other.norms.items():
            if name in self.norms:
                channels = self.norms[name].moments.channels
                if norm.moments.channels != channels:
                    raise ValueError(f"other: has {norm.moments.channels} channels in {name}; expected {channels}")
        for name, norm in other.norms.items():
            if name in self.norms:
                self.norms[name].moments.merge(norm.moments)
            else:
                self.norms[name] = replace(norm, moments=norm.moments.copy())
        self.untouched = [name for name in self.untouched if name not in self.norms]
        return self

    def apply(self, model: nn.Module) -> None:
        """Sets a model's running statistics to these."""
        modules = dict(model.named_modules())
        for name, norm in self.norms.items():
            module = modules.get(name)
            mean = getattr(module, "running_mean", None)
            if mean is None or mean.shape != (norm.moments.channels,):
                raise ValueError(
                    f"model: has no running statistics of {norm.moments.channels} channels in {name or 'itself'}; expected the "
                    "model that was recalibrated"
                )
        for name, norm in self.norms.items():
            set_statistics(modules[name], name, norm.moments)

    def __str__(self) -> str:
        rows = [("normalization", "values", "drift at most", "deviation by the old one")]
        for norm in self.norms.values():
            rows.append((norm.name, str(norm.count), text_of_largest(norm.drift), text_of_range(norm.deviation_ratio)))
        lines = aligned(rows)
        if self.untouched:
            lines += ["", f"never called: {', '.join(self.untouched)}"]
        return "\n".join(lines)


def set_statistics(norm: nn.Module, name: str, moments: Moments) -> None:
    """Raises ValueError, and changes nothing, where there are none."""
    if moments.count < 2:
        raise ValueError(f"loader: gives {name or 'the model'} {moments.count} value for each channel; expected at least 2")
    for channel in range(moments.channels):
        bad = moments.nonfinite_count(channel)
        if bad:
            raise ValueError(f"loader: makes {bad} of {moments.count} values not finite in channel {channel} of {name or 'the model'}")
    statistics = moments.statistics()
    old_mean: Tensor = norm.running_mean  # type: ignore[assignment]
    old_variance: Tensor = norm.running_var  # type: ignore[assignment]
    mean = torch.tensor(statistics.mean).to(old_mean)
    variance = torch.tensor(statistics.variance * (moments.count / (moments.count - 1))).to(old_variance)
    for what, values in (("mean", mean), ("variance", variance)):
        if not values.isfinite().all():
            channel = int((~values.isfinite()).nonzero()[0])
            raise ValueError(f"loader: makes the {what} of channel {channel} of {name or 'the model'} too large for {values.dtype}")
    with torch.no_grad():
        old_mean.copy_(mean)
        old_variance.copy_(variance)
