"""Ends, doubles and starves trainings at random moments, and counts what is lost.

    python scripts/injected_faults.py [--tries 5] [--only kill,disk] [--seed 0]

Each row of the table that it prints is a fault: how often it was injected, how often steps, rows
of metrics.csv or a checkpoint were lost or doubled, and how often a traceback was shown. A full
disk is a small tmpfs, which needs root; without it the size of files is limited instead.
"""

import argparse
import csv
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

STEPS = 60
SMALL = (
    *("network.width=8", "network.groups=4", "network.multipliers=[1]", "network.blocks=1"),
    *("network.attention=[]", "trainer.batch_size=8", "trainer.accelerator=cpu"),
    *("preview.every=0", "optimizer.decay=constant", "optimizer.warmup=5"),
    *("trainer.save_every=5", "trainer.log_every=1", "resume=auto"),
)


@dataclass
class Ended:
    """How a process ended: its status (-9 where it was killed) and what it said."""

    status: int
    said: str


@dataclass
class Counts:
    """What came of one kind of fault."""

    tries: int = 0
    tracebacks: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, wrong: str, *ended: Ended) -> None:
        """Count one try; `wrong` says what was lost, or nothing."""
        self.tries += 1
        self.tracebacks += any("Traceback" in each.said for each in ended)
        if wrong:
            self.lost.append(wrong)


def start(folder: Path, *words: str, steps: int = STEPS) -> "subprocess.Popen[str]":
    """A training in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "diffgen", "train", *SMALL, f"trainer.max_steps={steps}", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a process; one that has not ended after ten minutes is killed: status -9."""
    try:
        said, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    return Ended(process.returncode, said)


def until_rows(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Wait until metrics.csv has so many lines, or the process has ended."""
    while process.poll() is None:
        found = list(folder.glob("runs/*/*/metrics.csv"))
        if found and found[0].read_text().count("\n") > count:
            return
        time.sleep(0.02)


def wrong_in(folder: Path, unbroken: Path | None = None, steps: int = STEPS) -> str:
    """What is missing or doubled in the one run of a folder, compared with an unbroken one."""
    runs = [path.parent for path in folder.glob("runs/*/*/checkpoints")]
    if len(runs) != 1:
        return f"{len(runs)} runs"
    with (runs[0] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    if [row["step"] for row in rows] != [str(step) for step in range(1, steps + 1)]:
        return f"rows of steps {[row['step'] for row in rows]}"
    if list(runs[0].rglob("*.partial")):
        return "a partial file is left"
    mine = torch.load(runs[0] / "checkpoints/last.ckpt", weights_only=True)
    if mine["global_step"] != steps:
        return f"step {mine['global_step']}"
    if unbroken:
        theirs = torch.load(
            next(unbroken.glob("runs/*/*/checkpoints/last.ckpt")), weights_only=True
        )
        if any(not torch.equal(w, theirs["state_dict"][k]) for k, w in mine["state_dict"].items()):
            return "other weights"
    return ""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one try."""
    with tempfile.TemporaryDirectory(prefix="diffgen-faults") as folder:
        yield Path(folder)


def kills(counts: Counts, tries: int, unbroken: Path) -> None:
    """kill -9 while it trains, and again in the run that goes on."""
    for _ in range(tries):
        with scratch() as folder:
            for _ in range(2):
                process = start(folder)
                until_rows(process, folder, random.randint(2, STEPS - 10))
                time.sleep(random.random() / 10)
                os.killpg(process.pid, signal.SIGKILL)
                end(process)
            last = end(start(folder))
            counts.add(wrong_in(folder, unbroken), last)


def signals(counts: Counts, tries: int, unbroken: Path) -> None:
    """TERM, INT or HUP while it trains: saved at once, with a line, and gone on with."""
    for k in range(tries):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[k % 3]
        with scratch() as folder:
            process = start(folder)
            until_rows(process, folder, random.randint(2, STEPS - 20))
            process.send_signal(number)
            first = end(process)
            told = "go on with: diffgen train resume=" in first.said
            wrong = "" if told and first.status == 128 + number else f"{number}: {first}"
            last = end(start(folder))
            counts.add(wrong or wrong_in(folder, unbroken), first, last)


def early_signals(counts: Counts, tries: int, unbroken: Path) -> None:
    """INT in the first seconds, most of which are imports: a word, status 130."""
    for _ in range(2 * tries):
        with scratch() as folder:
            process = start(folder)
            assert process.stdout
            first = process.stdout.readline()
            time.sleep(random.uniform(0, 5))
            process.send_signal(signal.SIGINT)
            ended = end(process)
            # Python may end by the signal itself, which a shell shows as 130.
            heard = ended.status in (130, -2) and "diffgen: stopped by" in ended.said
            counts.add("" if heard and first else f"{ended}", ended)


def two_at_once(counts: Counts, tries: int, unbroken: Path) -> None:
    """Two commands that go on with the same run: one does, the other is told who."""
    for _ in range(tries):
        with scratch() as folder:
            end(start(folder, steps=5))
            both = [start(folder), start(folder)]
            ended = [end(process) for process in both]
            refused = [e for e in ended if e.status == 2 and "is being trained by" in e.said]
            late = [e for e in ended if "is finished" in e.said]  # it began when the first ended
            wrong = "" if len(refused) + len(late) == 1 else f"{ended}"
            counts.add(wrong or wrong_in(folder, unbroken), *ended)


def readers(counts: Counts, tries: int, unbroken: Path) -> None:
    """Who reads the progress goes away: the training ends as it would have."""
    for _ in range(tries):
        with scratch() as folder:
            process = start(folder)
            assert process.stdout
            process.stdout.readline()
            process.stdout.close()
            process.wait(600)
            status = process.returncode
            counts.add(wrong_in(folder, unbroken) or (f"exit {status}" if status else ""))


def disks(counts: Counts, tries: int, unbroken: Path) -> None:
    """The disk fills up at some step: one line that names it, the old checkpoint whole."""
    for _ in range(tries):
        with scratch() as folder, small_disk(folder, random.randint(40, 400)) as limit:
            process = start(folder, *limit)
            ended = end(process)
            lines = [x for x in ended.said.splitlines() if x.startswith("diffgen: ")]
            wrong = ""
            if ended.status and not (len(lines) == 1 and "cannot write" in lines[0]):
                wrong = f"exit {ended.status}: {ended.said}"
            for path in folder.rglob("last.ckpt"):
                torch.load(path, weights_only=True)
            if list(folder.rglob("*.partial")):
                wrong = "a partial file is left"
            counts.add(wrong, ended)


def full_for_a_while(counts: Counts, tries: int, unbroken: Path) -> None:
    """The disk is full for a while: the run, or the one that goes on, has every row of the log."""
    for _ in range(tries):
        with scratch() as folder, small_disk(folder, 3000):
            process = start(folder)
            until_rows(process, folder, random.randint(2, STEPS - 20))
            filler = folder / "runs/filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            time.sleep(random.uniform(0, 0.5))
            filler.unlink()
            first = end(process)
            last = end(start(folder)) if first.status else first
            counts.add(wrong_in(folder, unbroken), first, last)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[tuple[str, ...]]:
    """`runs` on a disk of so many kB, or where none can be mounted, short files."""
    runs = folder / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(runs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 256, before[1]))
        yield ()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    try:
        yield ()
    finally:
        subprocess.run(["umount", str(runs)], check=False)


FAULTS: dict[str, Callable[[Counts, int, Path], None]] = {
    "kill": kills,
    "signal": signals,
    "early": early_signals,
    "two": two_at_once,
    "reader": readers,
    "disk": disks,
    "while": full_for_a_while,
}


def main() -> None:
    """Inject the faults asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--only", default=",".join(FAULTS), help="which faults, with commas")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    with scratch() as unbroken:
        end(start(unbroken))
        print("| fault | tries | lost | traceback |\n|---|---|---|---|")
        for name in asked.only.split(","):
            counts = Counts()
            FAULTS[name](counts, asked.tries, unbroken)
            title = (FAULTS[name].__doc__ or "").rstrip(".")
            print(
                f"| {title} | {counts.tries} | {len(counts.lost)} | {counts.tracebacks} |",
                flush=True,
            )
            for wrong in counts.lost:
                print(f"  {name}: {wrong}", file=sys.stderr)


if __name__ == "__main__":
    main()
