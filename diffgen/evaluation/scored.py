"""Images with what metrics need of their features, taken in one pass over them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffgen.dataset.images import Pixels
from diffgen.dataset.random_choices import subset
from diffgen.evaluation.features import Features, joined
from diffgen.evaluation.frechet import FeatureStats

SOME = 5000  # images whose features are kept for the interval of a distance


@dataclass(frozen=True, eq=False)
class Scored:
    """Images uint8 (N, C, H, W), what is kept of their features, and the labels asked for.

    stats: sums over the features of all images, which a Fréchet distance takes; some: the features
    (S, d) of the images `numbers` (S,), at most 5000; kept: those of all images, (N, d), and
    logits (N, K), None where no metric needs them; labels: (N,) int64 or None; knows_labels:
    whether the logits are for the classes of the labels; near: the distances to the nearest
    images, as far as a metric found them.
    """

    images: Pixels
    stats: FeatureStats
    numbers: Tensor
    some: Tensor
    kept: Tensor | None
    logits: Tensor | None
    labels: Tensor | None
    knows_labels: bool = True
    near: dict[tuple[str, str], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        images: Pixels,
        parts: Iterable[Features],
        labels: Tensor | None,
        knows_labels: bool = True,
        *,
        keep: bool = True,
        logits: bool = True,
    ) -> "Scored":
        """Those of images whose features come in parts, in order; kept where it is asked for."""
        numbers = subset(images.shape[0], SOME)
        chosen = torch.zeros(images.shape[0], dtype=torch.bool)
        chosen[numbers] = True
        some, rest = [], []

        def seen() -> Iterable[Tensor]:
            at = 0
            for part in parts:
                some.append(part.features[chosen[at : at + len(part)]])
                features = part.features if keep else part.features.new_zeros(0, 0)
                rest.append(Features(features, part.logits if logits else None))
                at += len(part)
                yield part.features

        stats, whole = FeatureStats.over(seen()), joined(rest)
        kept = whole.features if keep else None
        known = kept, whole.logits, labels, knows_labels
        return cls(images, stats, numbers, torch.cat(some), *known)

    def __len__(self) -> int:
        return self.stats.count

    @property
    def features(self) -> Tensor:
        """The features of all images, (N, d)."""
        if self.kept is None:
            raise ValueError("these features were not kept: no metric that was asked for has them")
        return self.kept
