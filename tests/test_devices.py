"""Training, sampling and scoring on another device than the CPU: the same numbers, nothing mixed.

Without a GPU a second device in name finds the tensors that were left on the CPU.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from analytic import Gaussian
from running import NETWORK, tree
from second_device import Elsewhere, second_device
from torch import Tensor, nn

from diffgen.commands.data_dependent import resolved
from diffgen.commands.train import Run
from diffgen.config.build import names
from diffgen.dataset.batches import Batches
from diffgen.dataset.pixels import RANGES
from diffgen.denoiser.base import NoisyClassifier
from diffgen.denoiser.noise_input import level
from diffgen.evaluation.random_network import RandomExtractor
from diffgen.guidance.classifier import ClassifierGuidance
from diffgen.sampler.noise import SeededNoise
from diffgen.sampler.rk45 import RK45
from diffgen.sampling.request import request_of
from diffgen.schedule.linear import Linear
from diffgen.schedule.spacing import times
from diffgen.task.colorize import grey_first, rotate
from diffgen.training.random_numbers import RandomNumbers

SMALL = ("network.width=24", "network.depth=1", "network.heads=2")
SONG = ("network=song_unet", "network.width=16", "network.multipliers=[1]", "network.attention=[]")
AUGMENTED = ("network.augment_dim=9", "augment=0.5")
TRAININGS = {
    "ddpm": (*NETWORK,),
    "ncsn": ("model=ncsn",),
    "ncsnv2": ("model=ncsnv2", *NETWORK),
    "edm, augmented": ("model=edm", *NETWORK, *AUGMENTED),
    "flow, optimal transport": ("model=flow", *NETWORK, "model.coupling=ot"),
    "jit": ("model=jit", *SMALL),
    "learned variance": ("model.variance=learned", *NETWORK),
    "bytes spread": ("+model.dequantise=true", *NETWORK),
    "song_unet, augmented": ("model=edm", *SONG, *AUGMENTED),
    "mp_unet, learned uncertainty": ("model=edm", "network=mp_unet", "network.width=16"),
    "classifier": ("model=classifier", "model.noise_conditional=true"),
    "classifier_unet": (
        *("model=classifier", "network=classifier_unet", "model.noise_conditional=true"),
        *("network.width=16", "network.multipliers=[1]"),
    ),
}
SAMPLINGS = {
    "guided": ("guidance.weight=2", "guidance.rescale=0.5", "guidance.interval=[0.1,10]"),
    "autoguidance": ("guidance=autoguidance", "guidance.checkpoint={run}"),
    "dynamic": ("clip=dynamic", "sampler.eta=1"),
    "churn": ("sampler=heun", "sampler.churn=2"),
    "shell": ("start=shell", "deterministic=true"),
    "inpaint": ("task=inpaint", "task.image=0:2", "task.mask=left"),
    "moments": ("task=inpaint", "task.image=0:2", "task.mask=left", "task.rule=moments"),
    "interpolate": ("task=interpolate", "task.image=0:2"),
    "variations": ("task=variations", "task.image=0:2"),
    "denoise": ("task=denoise", "task.image=0:2", "task.sigma=0.2", "sampler=ddpm"),
    "trajectory": ("task=trajectory", "num_samples=2"),
}


@pytest.mark.parametrize("words", TRAININGS.values(), ids=TRAININGS)
def test_a_training_step_is_the_same_on_another_device(words, monkeypatch, cache):
    monkeypatch.setattr(RandomNumbers, "seed_dropout", lambda *_: torch.manual_seed(0))
    settings = tree("train", "trainer.batch_size=4", "logger=none", *words)
    images = settings.dataset.build().split("train")
    module = Run(resolved(settings, images), Path()).module(images)
    module.trainer = SimpleNamespace(global_rank=0)  # pyright: ignore
    batch: Any = Batches(images, 4, 0)[0]
    here = module.training_step(batch, 0)
    with second_device(monkeypatch) as device:
        module.to(device)
        on_device = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        there = module.training_step(on_device, 0)  # pyright: ignore[reportArgumentType]
        there.backward()
        assert isinstance(there, Elsewhere)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all(isinstance(each, Elsewhere) for each in gradients)
        module.loss_by_time.means()
    torch.testing.assert_close(there.here.detach(), here.detach())


@pytest.mark.parametrize("name", [*(n for n in names("sampler") if n != "rk45"), *SAMPLINGS])
def test_images_are_the_same_on_another_device(name, ddpm, monkeypatch, cache):
    asked = SAMPLINGS.get(name, (f"sampler={name}",))
    words = [word.format(run=ddpm) for word in asked]
    request = request_of(
        tree("sample", "num_samples=2", "metrics=[]", "steps=3", f"checkpoint={ddpm}", *words)
    )
    task, _ = request.task(torch.device("cpu"))
    here = task(range(task.count), torch.device("cpu"))
    with second_device(monkeypatch) as device:
        task, _ = request.task(device)
        there = task(range(task.count), device)
        assert not isinstance(there, Elsewhere)  # they go to the disk
        task.files(there)
    assert (there.int() - here.int()).abs().max() <= 1


def test_an_adaptive_sampler_is_the_same_on_another_device(monkeypatch):
    schedule, noise = Linear(), torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    plain, ends = Gaussian(schedule, 0.5), times(schedule, "ends", None)
    here = RK45(tolerance=0.01)(plain, noise, ends, None, SeededNoise(0, range(2)))
    with second_device(monkeypatch) as device:
        there = RK45(tolerance=0.01)(plain, noise.to(device), ends, None, SeededNoise(0, range(2)))
    torch.testing.assert_close(there.here, here)


class Linear3(nn.Module):
    """Logits of three classes, the level beside the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(13, 3)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.layer(torch.cat([x.flatten(1), c_noise[:, None] / 1000], 1))


def test_classifier_guidance_is_the_same_on_another_device(monkeypatch):
    torch.manual_seed(0)
    schedule = Linear()
    classifier = NoisyClassifier(Linear3(), schedule, level)
    x, label = torch.randn(2, 3, 2, 2), torch.tensor([0, 2])
    t = torch.tensor(0.5, dtype=torch.float64)
    plain = Gaussian(schedule, 0.5)
    here = ClassifierGuidance(plain, classifier, null=3, weight=2.0)(x, t, label)
    with second_device(monkeypatch) as device:
        guided = ClassifierGuidance(plain, classifier.to(device), null=3, weight=2.0)
        there = guided(x.to(device), t, label.to(device))
    torch.testing.assert_close(there.here, here)


def test_features_and_colours_are_the_same_on_another_device(monkeypatch):
    torch.manual_seed(0)
    images, extractor = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8), RandomExtractor()
    here, axes = extractor(images).features, grey_first(3)
    turned = rotate(RANGES["symmetric"].to_model(images), axes)
    with second_device(monkeypatch) as device:
        extractor.module.to(device)
        found = extractor(images).features
        axes = axes.to(device, torch.float32)
        there = rotate(RANGES["symmetric"].to_model(images.to(device)), axes)
    torch.testing.assert_close(found, here)
    torch.testing.assert_close(there.here, turned)


def test_the_second_device_refuses_what_a_real_one_does(monkeypatch):
    with second_device(monkeypatch) as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        with pytest.raises(RuntimeError, match="on the CPU"):
            there + here
        with pytest.raises(RuntimeError, match="on the CPU"):
            here[torch.tensor([0, 1], device=device)]
        with pytest.raises(TypeError, match="another device"):
            there.numpy()
        assert float((there * torch.tensor(2.0))[[0, 1]].sum()) == 4
        assert (there + here.to(there)).device == there.device
