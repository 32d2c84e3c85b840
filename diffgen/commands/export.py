"""`diffgen export`: the weights of a checkpoint in files that other programs load."""

from collections.abc import Sequence
from pathlib import Path

from diffgen.commands.arguments import Parser
from diffgen.errors import UsageError, did_you_mean

HELP = """\
what OUT is for each form, with a model card in README.md:
  diffusers    a folder that DDPMPipeline.from_pretrained and UNet2DModel.from_pretrained load;
               what of a model diffusers has no counterpart of is named, and nothing is written
  safetensors  model.safetensors: the weights, and the recipe as its metadata;
               `diffgen sample checkpoint=OUT` draws from it
  torch        model.pt2, which torch.export.load loads without diffgen: D(x, sigma, label)
               estimates the image in x = image + sigma noise, for any number of images
"""
FORMS = ("diffusers", "safetensors", "torch")


def main(words: Sequence[str]) -> int:
    """Write the folder and print its path; a wrong line is told before torch is imported."""
    options = _parser().parse_args(words)
    if options.form not in FORMS:
        raise UsageError(f"no export to {options.form}{did_you_mean(options.form, FORMS)}")
    if options.out is not None and options.out.suffix in (".safetensors", ".pt2", ".pt"):
        raise UsageError(f"{options.out}: name a folder, which will hold the file and its card")
    from diffgen.commands import exported

    exported.export(options)
    return 0


def _parser() -> Parser:
    parser = Parser("export", __doc__, HELP)
    parser.add_argument("form", metavar="FORM", help=", ".join(FORMS))
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a file, a run's folder, RUN/best, or latest (under runs)",
    )
    parser.add_out("a new folder; RUN/exported/FORM_STEP")
    parser.add_argument(
        "--ema", help="the weights: an average, raw, or a width such as 0.1; the first average"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where latest is sought")
    parser.add_trust("one of your own, of whose classes the checkpoint may be made")
    return parser
