"""`diffgen import`: a released checkpoint of another program in, one of diffgen out."""

from collections.abc import Sequence
from pathlib import Path

from diffgen.commands.arguments import Parser
from diffgen.errors import UsageError, did_you_mean
from diffgen.interop.rules import RULES
from diffgen.interop.settings import read_settings

HELP = """\
what PATH is for each kind:
  ncsn, ncsnv2    checkpoint_*.pth of the authors' code; config.yml beside it is read if there
  ddim            ckpt.pth or converted weights of DDIM's code; likewise
  ddpm-diffusers  the folder of a UNet2DModel or of its pipeline, or the weights in it
  edm, edm2       a pickle of NVlabs' programs; the source in it is not run;
                  of edm2 also a folder of snapshots (NAME-0134217-0.050.pkl), for any ema=0.15
  score_sde       checkpoint_*.pth of NCSN++ or DDPM++ on continuous times
  adm, improved-diffusion
                  *.pt of OpenAI's programs; flags in config.yml beside it are read;
                  of adm also classifiers of noisy images, for guidance=classifier
  dit             a DiT's *.pt; num_heads in config.yml where its width is no published one

`diffgen sample checkpoint=OUT` then draws from it. Files are read as data; nothing in them runs.
A file of `diffgen export safetensors` needs no import: it is a checkpoint.
"""


def main(words: Sequence[str]) -> int:
    """Write the checkpoint and print the folder that holds it.

    What its configuration says and diffgen's networks are not is told before torch is imported.
    """
    options = _parser().parse_args(words)
    if options.kind not in RULES:
        raise UsageError(f"no import of {options.kind}{did_you_mean(options.kind, RULES)}")
    if options.size is not None and options.size < 1:
        raise UsageError(f"--size {options.size}: take 1 or more")
    config = read_settings(options.kind, options.path, options.config)
    from diffgen.commands import imported

    imported.convert_files(options, config)
    return 0


def _parser() -> Parser:
    parser = Parser("import", __doc__, HELP)
    parser.add_argument("kind", metavar="KIND", help=", ".join(RULES))
    parser.add_argument("path", metavar="PATH", type=Path, help="what was released")
    parser.add_out("a run's folder or *.ckpt")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="its configuration, where it has another name"
    )
    parser.add_argument("--size", type=int, help="of the images, where no file tells it")
    parser.add_argument("--dataset", help="what it learned, where no file tells it")
    parser.add_trust("one of your own, of whose classes --dataset may name one")
    return parser
