"""The Fréchet distance between Gaussians fitted to two sets of features.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
(2017), equation 6. It is biased upward by about 1 / n: only equal n compare.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from diffgen.errors import UsageError


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Statistics of features (N, d): their sum (d,), the sum of outer products (d, d), and N."""

    total: Tensor
    second: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStats":
        return cls(features.sum(0), features.T @ features, len(features))


class AsGiven(nn.Module):
    """The extractor of a metric that is handed features instead of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(features: Tensor, reference: FeatureStats) -> float:
    """The distance of features (N, d) float64 to the reference, at least 0; both of 2 or more."""
    if min(len(features), reference.count) < 2:
        raise UsageError("a Fréchet distance needs at least 2 images on either side")
    if not bool(features.isfinite().all()):
        raise FloatingPointError("features of the images are not finite: no Fréchet distance")
    metric = FrechetInceptionDistance(AsGiven(features.shape[1]), sync_on_compute=False)
    metric.real_features_sum = reference.total
    metric.real_features_cov_sum = reference.second
    metric.real_features_num_samples += reference.count
    metric.update(features, real=False)
    return max(0.0, metric.compute().item())
