"""The model card of an exported checkpoint, README.md beside its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from diffgen import __version__
from diffgen.commands.explain.report import part_text
from diffgen.denoiser.base import Preconditioned
from diffgen.evaluation.rows import FLOOR, Row, blocks
from diffgen.evaluation.table import parts
from diffgen.evaluation.table_formats import as_markdown, formatted
from diffgen.interop.program import largest, smallest
from diffgen.runs.checkpoint import Checkpoint
from diffgen.runs.result_file import collect
from diffgen.sampling.publishing import cells_of

PARTS = ("model", "schedule", "prediction", "network", "sampler", "optimizer")

# What a card says of its use, by form and by whether there are classes.
DIFFUSERS = """\
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")
pipeline(batch_size=4, num_inference_steps={steps}).images[0].save("image.png")
"""
DIFFUSERS_LABELS = """\
import torch
from diffusers import {scheduler}, UNet2DModel

unet = UNet2DModel.from_pretrained(".", subfolder="unet")
scheduler = {scheduler}.from_pretrained(".", subfolder="scheduler")
scheduler.set_timesteps({steps})
x, label = torch.randn(4, {shape}), torch.tensor([0, 0, 1, 1])
for t in scheduler.timesteps:
    with torch.no_grad():
        output = unet(x, t, class_labels=label).sample
    x = scheduler.step(output, t, x).prev_sample
"""
SAFETENSORS = """\
import diffgen

denoiser, schedule, pixel_range = diffgen.load(".")  # x_t, t, label -> x0
"""
TORCH = """\
from itertools import pairwise

import torch

denoiser = torch.export.load("model.pt2").module()  # x = x0 + sigma eps -> x0
ends = torch.tensor([{largest:.6g}, {smallest:.6g}]) ** (1 / 7)
sigmas = [*torch.lerp(*ends, torch.linspace(0, 1, {steps})) ** 7, torch.tensor(0.0)]
x = sigmas[0] * torch.randn(4, {shape})
{label}for sigma, next_sigma in pairwise(sigmas):  # Euler's steps (Karras et al. 2022)
    with torch.no_grad():
        x0 = denoiser(x, sigma.expand(4){argument}){clip}
    x = x0 + next_sigma / sigma * (x - x0)
"""
STEPS = 50


@dataclass(frozen=True)
class Subject:
    """What is exported: a checkpoint, its denoiser with the weights `ema`, and their recipe."""

    found: Checkpoint
    denoiser: Preconditioned
    ema: str
    recipe: dict[str, Any]


def card(form: str, subject: Subject) -> str:
    """The text of the card, Markdown with the front matter that model hubs read."""
    recipe = subject.recipe
    data = recipe.get("dataset", {}).get("name", "unknown images")
    library = {"diffusers": "diffusers", "torch": "pytorch"}.get(form, "diffgen")
    task = "unconditional-image-generation"
    return "\n".join(
        [
            f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags: [diffusion, diffgen]\n---",
            f"# {recipe['model']['name']} on {data}\n",
            *_facts(subject, data),
            f"\n## How to load it\n\n```python\n{_code(form, subject)}```\n",
            *_notes(form, subject),
            f"\n## Figures\n\n{_figures(subject)}",
            "## Recipe\n\nThe settings of `diffgen train`:\n",
            f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```\n",
        ]
    )


def _facts(subject: Subject, data: str) -> Iterator[str]:
    found, recipe = subject.found, subject.recipe
    count = sum(value.numel() for value in subject.denoiser.network.parameters())
    average = recipe["ema"].get(subject.ema)
    profile = f" ({', '.join(f'{k} {v}' for k, v in average.items() if v)})" if average else ""
    shape = " x ".join(map(str, found.shape))
    classes = f", classes {', '.join(found.classes)}" if found.classes else ""
    yield "| | |\n|---|---|"
    yield f"| data set | {as_markdown(f'{data}, {shape}{classes}')} |"
    yield f"| step | {found.step:,} |"
    yield f"| parameters | {count:,} |"
    yield f"| weights | {subject.ema}{profile} |"
    for key in PARTS:
        if part := recipe.get(key):
            yield f"| {key} | {as_markdown(part_text(part))} |"
    yield f"| pixels | (byte / 255 - {found.range.shift:.6g}) / {found.range.scale:.6g} |"
    yield f"| made by | diffgen {__version__}, checkpoint {found.hash[:16]} |"


def _code(form: str, subject: Subject) -> str:
    found, schedule = subject.found, subject.denoiser.schedule
    steps = min(STEPS, schedule.levels or STEPS)
    shape = ", ".join(map(str, found.shape))
    if form == "safetensors":
        return SAFETENSORS
    if form == "torch":
        label = "label = torch.tensor([0, 0, 1, 1])\n" if found.classes else ""
        argument = ", label" if found.classes else ""
        low, high = found.range.low, found.range.high
        clip = (
            f".clamp({low:.4g}, {high:.4g})" if subject.recipe["model"].get("clip", True) else ""
        )
        ends = {"largest": largest(subject.denoiser), "smallest": smallest(subject.denoiser)}
        return TORCH.format(
            shape=shape, steps=steps, label=label, argument=argument, clip=clip, **ends
        )
    betas = "DDPMScheduler" if schedule.levels else "FlowMatchEulerDiscreteScheduler"
    code = DIFFUSERS_LABELS if found.classes else DIFFUSERS
    return code.format(steps=steps, shape=shape, scheduler=betas)


def _notes(form: str, subject: Subject) -> Iterator[str]:
    count, dropout = len(subject.found.classes), subject.recipe["model"].get("label_dropout", 0.1)
    if form == "safetensors":
        yield "`diffgen sample checkpoint=FOLDER` draws from it, with the folder of this file."
    if form == "torch":
        yield (
            "On a GPU, hand what `torch.export.load` gives to "
            "`torch.export.passes.move_to_device_pass(program, 'cuda')` first. "
        )
    if count and form != "safetensors":
        null = f"; {count} means no label" if dropout else ""
        yield f"Labels number the classes above from 0{null}. "
    if count and form == "diffusers":
        yield "DDPMPipeline itself passes no labels, so that it loads the model but cannot draw."


def _figures(subject: Subject) -> str:
    found = subject.found
    rows = [row for row in collect(cells_of(found.run)) if _is_of(row, subject)]
    mine = [block for block in (blocks(rows) if rows else []) if block.rows]
    return formatted("md", parts(mine)) if mine else "None were measured of these weights.\n"


def _is_of(row: Row, subject: Subject) -> bool:
    step, ema = row.get("step"), row.get("ema")
    mine = step == subject.found.step and f"{ema}" == subject.ema.removeprefix("width_")
    return "n" in row and (row["sampler"] == FLOOR or mine)
