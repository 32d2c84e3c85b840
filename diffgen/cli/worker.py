"""The command line of another process of the same job."""

import re
import sys
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig

OWN = re.compile(
    r"^[+~]*hydra(\.(mode|run|sweep|launcher|sweeper|output_subdir|job\.name)|/(launcher|sweeper))"
)


@dataclass(frozen=True)
class Child:
    """Called with a local rank, the words and the folder that start this job's process there.

    It runs exactly this job of a sweep, in the job's own output folder.
    """

    command: str
    flags: list[str]

    def __call__(self, local_rank: int) -> tuple[list[str], str]:
        job = HydraConfig.get()
        folder = job.runtime.output_dir.replace("\\", "\\\\").replace("'", "\\'")
        return [
            *(sys.executable, "-m", "diffgen", self.command, *self.flags),
            *job.overrides.task,
            *(override for override in job.overrides.hydra if not OWN.match(override)),
            f"hydra.run.dir='{folder}'",
            f"hydra.job.name={job.job.name}-rank{local_rank}",
            "hydra.output_subdir=null",
        ], job.runtime.cwd
