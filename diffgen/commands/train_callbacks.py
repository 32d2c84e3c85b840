"""What looks at the model while `diffgen train` trains it: previews and figures of quality."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as L
import torch
from torch import Tensor

from diffgen.config.parts import Named
from diffgen.config.recipe import DenoiserRecipe
from diffgen.config.schema import Train
from diffgen.dataset.images import Images, Source, numbered_as, shape_of
from diffgen.dataset.pixels import Range
from diffgen.denoiser import Denoiser
from diffgen.denoiser.base import Preconditioned
from diffgen.errors import UsageError
from diffgen.sampler import SeededNoise
from diffgen.sampling.plan import SamplingPlan, plan_of
from diffgen.training.ema import Ema
from diffgen.training.module import Module
from diffgen.training.preview import Preview
from diffgen.training.quality import HeldOutLoss, Measure, Quality

if TYPE_CHECKING:
    from diffgen.sampling.evaluator import Evaluator


@dataclass(frozen=True, kw_only=True)
class PreviewImages:
    """Draws the same images each time, from the same noise; `shape` (C, H, W) is one image's."""

    plan: SamplingPlan
    shape: tuple[int, int, int]
    labels: Tensor | None
    num_samples: int

    def __call__(
        self, denoiser: Denoiser, pixel_range: Range, device: torch.device, batch_size: int
    ) -> Tensor:
        """Images uint8 (num_samples, C, H, W) of the denoiser as it stands.

        `batch_size` of them are drawn at once.
        """
        denoiser = self.plan.clipped(denoiser, pixel_range)
        parts = torch.arange(self.num_samples).split(batch_size)
        return torch.cat([self._part(denoiser, pixel_range, device, part) for part in parts])

    def _part(
        self, denoiser: Denoiser, pixel_range: Range, device: torch.device, part: Tensor
    ) -> Tensor:
        """The images whose numbers are `part` (b,), the same in any batch."""
        plan, bounds = self.plan, (pixel_range.low, pixel_range.high)
        noise = SeededNoise(0, part.tolist())
        like = torch.empty(len(part), *self.shape, device=device)
        x = plan.start(denoiser.schedule, plan.times[0], like, noise, bounds)
        labels = None if self.labels is None else self.labels[part].to(device)
        return pixel_range.to_uint8(plan.sampler(denoiser, x, plan.times, labels, noise)).cpu()


@dataclass(frozen=True)
class SampleDistance:
    """The Fréchet distance of the same samples each time to the training set."""

    images: PreviewImages
    evaluator: "Evaluator"

    def __call__(self, module: Module) -> dict[str, float]:
        """{"fd": the distance}."""
        denoiser = module.denoiser
        assert isinstance(denoiser, Preconditioned)  # a classifier has no PreviewImages
        drawn = self.images(denoiser, module.pixel_range, module.device, module.batch_size)
        return {"fd": self.evaluator.row(drawn, self.images.labels, ["fid"])["fid"]}


@dataclass(frozen=True)
class Watched:
    """A training as its callbacks see it; `classes` are those that the model learns."""

    settings: Train
    folder: Path
    module: Module
    images: Images
    classes: tuple[str, ...]

    def samples(self, count: int, steps: int | None = None) -> PreviewImages | None:
        """What draws images by the preview's sampler; None where the model makes none."""
        recipe, chosen = self.settings.recipe, self.settings.preview.sampler
        if not isinstance(recipe, DenoiserRecipe) or not chosen or not count:
            return None
        schedule, number = self.module.denoiser.schedule, len(self.classes)
        return PreviewImages(
            plan=plan_of(
                chosen.build(),
                steps or chosen.steps,
                recipe.model,
                schedule,
                spacing=chosen.spacing,
            ),
            shape=shape_of(self.images),
            labels=torch.arange(count) % number if number else None,
            num_samples=count,
        )

    def previews(self, ema: Ema, stopping: Callable[[], bool]) -> list[L.Callback]:
        """The callback that draws sample grids; none of a classifier, or where every is 0."""
        preview = self.settings.preview
        drawn = self.samples(preview.num_samples) if preview.every else None
        if drawn is None:
            return []
        return [Preview(self.folder / "previews", ema, preview.every, drawn, stopping)]

    def quality(self, ema: Ema, source: Source, stopping: Callable[[], bool]) -> list[L.Callback]:
        """The callback that measures; none where every is 0."""
        asked = self.settings.evaluate
        if not asked.every:
            return []

        def measures(device: torch.device) -> list[Measure]:
            return self.measures(source.split("test"), device)

        folder = self.folder / "checkpoints"
        return [Quality(folder, ema, asked.every, measures, asked.best, stopping)]

    def measures(self, test: Images, device: torch.device) -> list[Measure]:
        """What the settings ask for: the distance of samples, and the held-out loss.

        UsageError where the figure that chooses the best checkpoint would not be measured.
        """
        from diffgen.sampling.evaluator import evaluator_on, features_name  # slow to import

        asked, found = self.settings.evaluate, dict[str, Measure]()
        test = numbered_as(test, self.classes)
        if samples := self.samples(asked.num_samples, asked.steps):
            features = features_name(Named(asked.features, {}), self.settings.dataset.name), ()
            cache = self.settings.cache
            evaluator = evaluator_on(self.images, test, features, cache, str(device))
            found["fd"] = SampleDistance(samples, evaluator.for_labels(samples.labels))
        if len(test):
            found["held_out_loss"] = HeldOutLoss(test, asked.held_out)
        if asked.best not in ("auto", *found):
            raise UsageError(
                f"evaluate.best={asked.best} is not measured: samples need a model that makes "
                f"images and evaluate.num_samples, the loss held-out images ({len(test)} here)",
                "set evaluate.best=auto",
            )
        return list(found.values())
