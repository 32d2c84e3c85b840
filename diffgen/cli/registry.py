"""The commands of diffgen, all in one place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from diffgen.errors import UsageError, one_line


@dataclass(frozen=True)
class Command:
    """What a first word stands for.

    `task`, `preflight` and `finish` are "module:function", imported when they are called. A
    composed task is called with the config that Hydra made of `configs/<name>.yaml`, any other
    with the list of words after its name. `begin` is what a single job says at once, before its
    seconds of imports: a format of the config. Of a sweep, `preflight` is called with the settings
    of each job before the first one starts, `kept` with those and the job's folder, which it fills
    and returns true where the job's work is done already, and `finish` with the sweep's folder
    when it has ended, also if jobs of it failed. `pins` are the keys of checkpoints whose content
    must stay the same throughout a job or a sweep; `apart` is the key of a path below which each
    job of a sweep has one of its own.

    Remedies name keys of `diffgen train`. `keys` maps those that this command writes otherwise to
    its own words, and `instead` has a remedy for each group that it does not have.
    """

    name: str
    summary: str
    task: str
    composed: bool = True
    preflight: str | None = None
    begin: str | None = None
    finish: str | None = None
    kept: str | None = None
    pins: tuple[str, ...] = ()
    apart: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)

    def message(self, error: UsageError) -> str:
        """The line of an error, its remedy as one that can be typed in this command."""
        remedy = error.remedy
        for theirs, ours in self.keys.items():
            remedy = re.sub(rf"(?<![\w.]){re.escape(theirs)}", ours, remedy)
        for group, ours in self.instead.items():
            if re.search(rf"(?<![\w.]){group}[.=]", remedy):
                remedy = ours
        return one_line(str(UsageError(error.what, remedy)))


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train a model",
            "diffgen.commands.train:train",
            finish="diffgen.commands.table:finish_training_sweep",
            begin="training {0.model.name} on {0.dataset.name}: {0.trainer.max_steps} steps of "
            "{0.trainer.batch_size} images, {threads} threads, results in {0.hydra.run.dir}",
            keys={"steps=": "preview.sampler.steps="},
            instead={"spacing": "take fewer steps: preview.sampler.steps=N"},
        ),
        Command(
            "explain",
            "show what a training would be: levels, steps, parameters, warnings, costs",
            "diffgen.commands.explain.command:explain",
            keys={"steps=": "sampler.steps="},
            instead={"spacing": "take fewer steps: sampler.steps=N"},
        ),
        Command(
            "sample",
            "sample from a checkpoint and measure the images; -m sweeps into a table",
            "diffgen.commands.sample:sample",
            preflight="diffgen.commands.sample:preflight",
            finish="diffgen.commands.sample:finish_sweep",
            kept="diffgen.commands.sample:kept",
            apart="out",
            begin="sampling {0.num_samples} images of checkpoint={0.checkpoint} by "
            "{0.hydra.runtime.choices.sampler}, accelerator={0.accelerator}, results in "
            "{0.hydra.run.dir}",
            pins=("checkpoint", "guidance.checkpoint"),
            keys={"dataset.root=": "root="},
            instead={
                "dataset": "the data set is the checkpoint's: root=FOLDER takes its images from "
                "elsewhere, metrics=[] scores none"
            },
        ),
        Command(
            "tune",
            "find the times at which so many steps of a sampler err least, for spacing=tuned",
            "diffgen.commands.tune:tune",
            preflight="diffgen.commands.tune:preflight",
            pins=("checkpoint", "guidance.checkpoint"),
        ),
        Command(
            "import",
            "turn a released checkpoint of another program into one of diffgen",
            "diffgen.commands.import_:main",
            composed=False,
            keys={"size=": "--size ", "trust=": "--trust "},
        ),
        Command(
            "export",
            "write a checkpoint's weights for diffusers, as safetensors, or as a program of torch",
            "diffgen.commands.export:main",
            composed=False,
            keys={"ema=": "--ema ", "trust=": "--trust "},
        ),
        Command(
            "evaluate",
            "measure images of any program against a data set, images or statistics",
            "diffgen.commands.evaluate:main",
            composed=False,
            keys={"dataset.size=": "size=", "dataset.root=": "root="},
            instead={"dataset": "write its images anew as 8-bit PNGs, or leave the file out"},
        ),
        Command(
            "table",
            "gather trainings and the cells of runs and sweeps into tables",
            "diffgen.commands.table:main",
            composed=False,
        ),
        Command(
            "report",
            "the tables, figures and images of runs and sweeps as one HTML file",
            "diffgen.commands.report:main",
            composed=False,
        ),
    )
}


def usage() -> str:
    """The help text of `diffgen` alone."""
    width = max(map(len, COMMANDS))
    rows = (f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return "\n".join(
        [
            "usage: diffgen COMMAND [key=value ...] [flags]",
            "",
            *rows,
            "",
            "diffgen COMMAND --help      its choices and its keys, each explained",
            "diffgen COMMAND --cfg job   the config that these words would run",
            "diffgen COMMAND -m k=a,b    a sweep over all combinations",
            "diffgen --version",
            'eval "$(diffgen -sc install=bash)"   completion (bash, zsh, fish)',
        ]
    )
