"""The command line as a person meets it: answers, refusals, exit statuses, sweeps, children."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf
from running import here

from diffgen.cli import registry
from diffgen.cli.argv import parse, quoted
from diffgen.cli.job import PastHydra, WorkerCommand, with_pins
from diffgen.cli.main import complete, main
from diffgen.cli.output import complain
from diffgen.errors import UsageError
from diffgen.runtime.launch import RANKS, isolated, relaunch, run_id

SEEN = []  # what the stand-in task was called with, and what else was called


class Seed(IntEnum):
    """What the stand-in task does for `seed=`; any other seed just ends well."""

    FAIL = 1
    MISUSE = 2
    CTRL_C = 3
    SIGTERM = 4
    CTRL_C_AS_LIGHTNING = 5
    START_WORKER = 6
    REFUSED = 99  # by the preflight, before any job


def task(config):
    """Stands in for a real task: notes the config, and does what the seed stands for."""
    job = HydraConfig.get()
    SEEN.append((config.plain, job.runtime.output_dir))
    Path(job.runtime.output_dir, "seen.json").write_text(json.dumps(config.seed))
    match config.seed:
        case Seed.FAIL:
            raise RuntimeError("the sky fell\non line two")
        case Seed.MISUSE:
            raise UsageError("two is not done; use three")
        case Seed.CTRL_C:
            raise KeyboardInterrupt
        case Seed.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        case Seed.CTRL_C_AS_LIGHTNING:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                sys.exit(1)
        case Seed.START_WORKER:
            SEEN.append(WorkerCommand(job.job.name, [])(1))


def preflight(config):
    if config.seed == 99:
        raise UsageError("nobody counts to 99")


def finish(folder):
    SEEN.append(("finished", folder))


def files(words):
    SEEN.append(words)
    if words == ["bad"]:
        raise UsageError("no folder 'bad'")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    """Every command runs the tasks above, in an empty folder."""
    for name, command in list(registry.COMMANDS.items()):
        finisher = command.finish and "test_cli:finish"
        parts = {"task": "test_cli:task", "preflight": "test_cli:preflight", "finish": finisher}
        stand_in = replace(command, **parts, kept=None, pins=())
        monkeypatch.setitem(registry.COMMANDS, name, stand_in)
    reader = registry.Command("gather", "reads files", "test_cli:files", composed=False)
    monkeypatch.setitem(registry.COMMANDS, "gather", reader)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    SEEN.clear()


def fresh(code, **environment):
    """What a new interpreter prints for a piece of code."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]], ids=str)
def test_answers_without_waiting(words):
    heavy = "{'torch', 'lightning', 'hydra', 'pydantic', 'numpy'}"
    code = f"import sys, time; from diffgen.cli.main import main; main({words}); \
        print({heavy} & set(sys.modules), time.process_time() < 0.5)"
    assert fresh(code).endswith("set() True\n")


def test_a_mistake_is_told_before_torch_is_imported():
    code = "import sys; from diffgen.cli.main import main; \
        print([main(['sample', w]) for w in ('steps=0', '+typo=1')], 'torch' in sys.modules)"
    assert fresh(code).endswith("\n[2, 2] False\n")


def test_the_module_passes_its_exit_status_on():
    done = subprocess.run([sys.executable, "-m", "diffgen", "trian"], capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"diffgen: no command 'trian'; did you mean train?\n"


MISTAKES = [
    ("smaple", "no command 'smaple'; did you mean sample?"),
    ("train trainer.max_stpes=3", "no key 'trainer.max_stpes'; did you mean trainer.max_steps?"),
    ("train max_steps=3", "no key 'max_steps'; did you mean trainer.max_steps?"),
    ("train +sede=1", "no key 'sede'; did you mean seed?"),
    ("train model=dpm", "no model 'dpm'; did you mean ddpm?"),
    ("train recipe=ddpm_mnsit", "no recipe 'ddpm_mnsit'; did you mean ddpm_mnist"),
    ("train -m model=ddpm,ncsn hydra.sweeper._target_=x.Other", "this sweeper gives its jobs one"),
    ("train averages=edm", "averages= is now called ema="),
    ("train --help smapler", "no group 'smapler'; did you mean sampler?"),
    ("train seed", "'seed' sets nothing; write seed=VALUE"),
    ("train mnist", "'mnist' sets nothing; write dataset=mnist"),
    (
        "train photos.zip",
        "'photos.zip' sets nothing; write dataset=folder dataset.root=photos.zip",
    ),
    ("sample latest", "'latest' sets nothing; write checkpoint=latest"),
    ("sample stesp", "'stesp' sets nothing; did you mean steps"),
    ("sample steps=1,2", "steps=1,2: Input should be a valid integer; -m steps=1,2 runs each"),
    ("sample sampler=ddim,heun", "sampler= takes one choice; -m sampler=ddim,heun runs each"),
    ("train model.name=edm", "model.name=edm would change the name alone; write model=edm"),
    ("sample runs=", "runs= names nothing; leave it out, or write runs=. for this folder"),
    ("train seed=1.5", "seed=1.5: Input should be a valid integer"),
    ("train --seed=1", "no flag '--seed=1'; keys are set without dashes; write seed=1"),
    ("train --cfg", "argument --cfg/-c: expected one argument"),
    ("train --config-dir nowhere", "no folder nowhere for --config-dir"),
    ("train --resolve", "The --resolve flag can only be used in conjunction with"),
    ("train seed=${oc.env:NOWHERE}", "KeyError raised while resolving interpolation"),
    ("train seed=[1", "cannot read 'seed=[1':"),
    ("train ~compile", "compile is missing"),
    ("sample sampler=ddmi", "no sampler 'ddmi'; did you mean"),
    (
        "sample dataset.test_fraction=0.5",
        "no key 'dataset.test_fraction'; the data set is the checkpoint's: root=FOLDER takes its "
        "images from elsewhere, metrics=[] scores none",
    ),
    ("sample sampler.stpes=5", "no key 'sampler.stpes'; did you mean sampler.steps"),
    ("sample steps=0", "steps=0: Input should be greater than or equal to 1"),
    ("sample steps=1.5", "steps=1.5: Input should be a valid integer"),
    ("sample guidance.weight=abc", "guidance.weight=abc: input should be a valid number"),
    ("sample clip=rnage", "clip=rnage: Input should be 'auto', 'none', 'range' or 'dynamic'"),
    ("sample devices=two", "devices=two: Input should be 'auto' or -1 or Input should be a valid"),
    ("sample devices=0", "devices=0: Input should be 'auto' or -1 or Input should be greater"),
    ("sample devices=[]", "devices=[]: Input should be 'auto' or -1 or"),
    ("train seed=99999999999999999999", "seed=99999999999999999999: Input should be less than 9"),
    ("train runs=/proc/nope", "cannot write runs=/proc/nope (No such file or directory);"),
    ("sample runs=/etc/passwd", "cannot write runs=/etc/passwd (Not a directory); set runs="),
    ("sample -m seed=0,8 runs=/etc/passwd", "cannot write runs=/etc/passwd (Not a directory);"),
    ("sample -m sampler=ddim,ddpm seed=0,7,x", "seed=x: Input should be a valid integer"),
    ("sample -m sampler=ddim,dpdm", "no sampler 'dpdm'; did you mean"),
    ("sample -m sampler=ddim,heun sampler.eta=1", "no key 'sampler.eta' in some jobs of this"),
    ("sample -m sampler=ddim,ddpm seed=0,8,99", "nobody counts to 99"),
    ("train trainer.foo=1", "no key 'trainer.foo'; there is trainer.accelerator, trainer.acc"),
    ("train logger=[csv,wandb]", "logger= takes one choice; -m logger=A,B runs both"),
    ("train --config-name nowhere", "no config 'nowhere'"),
    ("train =5", "'=5' names no key; write KEY=VALUE"),
    (
        "sample dataset=mnist",
        "diffgen sample takes no dataset=, which belongs to diffgen",
    ),
    # words of other programs
    ("train epochs=10", "no key 'epochs'; write trainer.max_steps=4000 (a training is counted"),
    ("train gpus=1", "no key 'gpus'; write trainer.devices=1"),
    ("train gpus=[0,1]", "no key 'gpus'; write trainer.devices=2"),
    ("sample gpus=2", "no key 'gpus'; write devices=2"),
    ("sample trajectory=8", "no key 'trajectory'; write task=trajectory task.frames=8"),
    ("sample inpainting=left", "no key 'inpainting'; write task=inpaint task.mask=left"),
    ("train --batch-size 64", "no flag '--batch-size'; keys are set without dashes; write"),
    (
        "train --fp16",
        "no flag '--fp16'; keys are set without dashes; write trainer.p",
    ),
    ("train dataset=./data", "no dataset './data'; write dataset=folder dataset.root=./data"),
    ("sample dataset=./data", "diffgen sample takes no dataset=; write root=./data"),
    ("train dataset=CIFAR-10", "no dataset 'CIFAR-10'; write dataset=cifar10"),
    (
        "train image_size=64",
        "no key 'image_size'; write dataset=folder dataset.root=FO",
    ),
    ("train dataset=folder image_size=64", "no key 'image_size'; write dataset.size=64"),
    ("train resume_from_checkpoint=latest", "no key 'resume_from_checkpoint'; write resume=auto"),
    ("sample resume=a.ckpt", "no key 'resume'; write checkpoint=a.ckpt"),
    ("sample guidance=3", "no guidance '3'; write guidance.weight=3"),
    ("sample -m guidance=1,2", "no guidance '1,2'; write guidance.weight=1,2"),
    (
        "sample cfg_scale=7.5",
        "no key 'cfg_scale'; write guidance.weight=6.5 (a scale",
    ),
    ("sample sampler=heun eta=1", "no key 'eta'; write sampler=ddim sampler.eta=1"),
    ("sample eta=1", "no key 'eta'; write sampler.eta=1"),
    ("sample scheduler=DPMSolverMultistepScheduler", "no key 'scheduler'; write sampler=dpmpp_2m"),
    ("train prediction_type=epsilon", "no key 'prediction_type'; write prediction=eps"),
    ("train mixed_precision=no", "no key 'mixed_precision'; write trainer.precision=32-true"),
    ("train wandb=true", "no key 'wandb'; write logger=wandb"),
    ("train logger=false", "no logger 'false'; write logger=none"),
    ("train device=cuda:0", "no key 'device'; write trainer.accelerator=gpu"),
    ("train dim_mults=1,2", "no key 'dim_mults'; write 'network.multipliers=[1,2]'"),
    ("sample resolution=64", "no key 'resolution'\n"),
]


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_runs_nothing(line, answer, capsys, tmp_path):
    assert main(line.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"diffgen: {answer}")
    assert told.count("\n") == 1
    assert not SEEN
    assert not list(tmp_path.rglob("*.log"))


def helped(capsys, *words):
    assert main([*words]) == 0
    assert not SEEN
    return capsys.readouterr().out


def test_help_lists_what_this_command_reads_and_nothing_else(capsys):
    sample = helped(capsys, "sample", "--help", "sampler=heun")
    assert "ddim" in sample
    assert "[heun]" in sample
    assert "checkpoint=latest  " in sample
    assert "dataset" not in sample
    train = helped(capsys, "train", "--help")
    assert all(f"\n  {group}" in train for group in ("dataset", "schedule", "network", "trainer"))


@pytest.mark.parametrize("command", ["train", "explain", "sample", "tune"])
def test_help_of_a_command_fits_on_two_screens_and_that_of_all_has_the_rest(command, capsys):
    first = helped(capsys, command, "--help").splitlines()
    assert len(first) <= 90
    assert max(map(len, first)) <= 99
    every = helped(capsys, command, "--help", "all")
    assert "sampler.steps" in every
    assert "sampler.steps" not in "\n".join(first)
    assert "langevin_cifar10" in every


def test_help_of_a_group_has_a_line_for_each_choice_and_key(capsys):
    page = helped(capsys, "train", "model=ncsnv2", "dataset=mnist", "--help", "network")
    assert "[unet_mnist_wide]" in page
    assert "unet_256            DDPM's network for 256 pixels." in page
    assert "network.blocks=1              residual blocks at each resolution" in page
    assert "trainer" not in page


def test_help_needs_no_torch():
    code = "import sys; from diffgen.cli.main import main; \
        main(['train', '--help', 'all']); print('torch' in sys.modules)"
    assert fresh(code).endswith("False\n")


def test_a_reader_that_leaves_is_no_failure():
    line = f"set -o pipefail; {sys.executable} -m diffgen train --cfg job | true"
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""


@pytest.mark.parametrize("error", [RecursionError("deep"), MemoryError(), UnicodeError("é\nx")])
def test_any_exception_of_a_plain_command_is_one_line(error, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "files", Mock(side_effect=error))
    assert main(["gather"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"diffgen: {type(error).__name__}: ")
    assert told.count("\n") == 1


def test_ctrl_c_in_a_plain_command_is_130(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "files", Mock(side_effect=KeyboardInterrupt))
    assert main(["gather"]) == 130


def test_a_line_of_complaint_is_one_short_line_without_control_characters(capsys):
    complain("a\nb\x1b[31m \udcff 猫" + "c" * 5000 + "; take less")
    told = capsys.readouterr().err
    assert told.startswith(r"diffgen: a\nb\x1b[31m \udcff 猫ccc")
    assert told.endswith("ccc; take less\n")
    assert len(told) < 1000


def test_a_command_needs_a_working_folder(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (["train", "--cfg", "job"], ["gather"]):
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("diffgen: no working folder (No such file")
    assert main(["--version"]) == 0


SURROUNDINGS = {  # of `python -m diffgen`: status, and what it prints in all
    "closed streams": ("--version <&- >&- 2>&-", 0, ""),
    "a full disk behind standard error": ("trian 2> /dev/full", 2, ""),
    "a full disk behind standard output": (
        "--version 2>&1 > /dev/full",
        1,
        "diffgen: OSError: [Errno 28] No space left on device\n",
    ),
    "an encoding without cats": (
        "猫 2>&1",
        2,
        "diffgen: no command '\\u732b'; there is ",
    ),
}


@pytest.mark.parametrize(("line", "status", "printed"), SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_odd_surroundings_end_in_a_line_or_in_nothing(line, status, printed):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m diffgen {line}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert done.stdout.startswith(printed)
    assert "Traceback" not in done.stdout + done.stderr


def test_flags_stand_anywhere_and_paths_need_no_quotes(tmp_path):
    Path("a (1), b").touch()
    _, words = parse(["-m", "checkpoint=e=1.ckpt,e=2.ckpt", "--config-dir", ".", "seed=1,2"])
    assert words == ["-m", "--config-dir", ".", "checkpoint='e=1.ckpt','e=2.ckpt'", "seed=1,2"]
    _, words = parse(["dataset.root=a (1), b", "--cfg", "job", "resume='e=1'"])
    assert words == ["--cfg", "job", "dataset.root='a (1), b'", "resume='e=1'"]
    for kept in ("seed=range(start=1,stop=3)", "labels=[1,2]", "runs=${oc.env:A,b=c}", "~seed"):
        assert parse([kept])[1] == [kept]


NAMES = ["bücher", "猫 و", "a=b", "a,b", "a (1)", "[x]", "{y}", "it's", 'q"q', "a#b", "$HOME"]
NAMES += ["a;b", "a&b", "a\\b", "ends\\", "1e5", "2026", "true", " lead", "tail ", "a!b*", "%20"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["checkpoint", "runs", "dataset.root"])
def test_a_name_of_any_letters_arrives_whole(key, name, tmp_path):
    Path(name).mkdir()
    (_, words), parser = parse([f"{key}={name}"]), OverridesParser.create()
    value = parser.parse_override(words[0]).value()
    assert (value.text if isinstance(value, QuotedString) else value) == name


def test_a_checkpoint_path_with_an_equals_sign_arrives_whole():
    assert main(["sample", "checkpoint=runs/it's/epoch=1-step=2.ckpt", "seed=9"]) == 0
    assert SEEN[0][0]["checkpoint"] == "runs/it's/epoch=1-step=2.ckpt"


def test_each_sampler_brings_its_steps_and_the_command_line_wins():
    for words in (["sampler=ddim"], ["sampler=heun"], ["sampler=heun", "steps=7"]):
        assert main(["sample", *words]) == 0
    assert [seen["sampler"]["steps"] for seen, _ in SEEN] == [50, 18, 7]


def test_run_folders_are_named_by_what_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFGEN_RUN_ID", "monday")
    assert main(["train"]) == main(["sample", "runs=elsewhere"]) == 0
    folders = [Path(folder).relative_to(tmp_path) for _, folder in SEEN]
    assert folders == [Path("runs/digits_ddpm/monday"), Path("elsewhere/samples/monday")]


def test_a_failure_is_one_line_with_its_traceback_in_the_log(capsys):
    assert main(["train", f"seed={Seed.FAIL}"]) == 1
    log = Path(SEEN[0][1], "train.log")
    out, err = capsys.readouterr()
    assert err == f"diffgen: RuntimeError: the sky fell (traceback in {log})\n"
    assert "Traceback" not in out
    assert "RuntimeError: the sky fell\non line two" in log.read_text()


def test_a_mistake_found_by_the_task_is_one_line(capsys):
    assert main(["train", f"seed={Seed.MISUSE}"]) == 2
    assert capsys.readouterr().err == "diffgen: two is not done; use three\n"
    assert Path(SEEN[0][1], "seen.json").is_file()  # what the job did before is kept


def test_a_full_traceback_on_request(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(PastHydra) as caught:
        main(["train", f"seed={Seed.FAIL}"])
    chain = [caught.value]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    assert isinstance(chain[-1], RuntimeError)
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize("seed", [Seed.CTRL_C, Seed.CTRL_C_AS_LIGHTNING])
def test_ctrl_c_is_130_also_where_lightning_turns_it_into_1(seed):
    assert main(["train", f"seed={seed}"]) == 130


def test_sigterm_is_143_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(["train", f"seed={Seed.SIGTERM}"])
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sweep_goes_on_past_a_failed_job_and_is_finished(capsys, tmp_path):
    assert main(["sample", "-m", f"seed=0,{Seed.FAIL},{Seed.MISUSE},8", "runs=r"]) == 1
    *jobs, last = SEEN
    assert [config["seed"] for config, _ in jobs] == [0, 1, 2, 8]
    folder = Path(jobs[0][1]).parent
    assert [Path(out) for _, out in jobs] == [folder / str(n) for n in range(4)]
    assert folder.parent == tmp_path / "r/samples"
    assert last == ("finished", folder)
    err = capsys.readouterr().err
    assert "diffgen: job 1: RuntimeError: the sky fell" in err
    assert "diffgen: job 2: two is not done; use three\n" in err


def test_the_weights_of_a_checkpoint_are_no_choice_of_the_group_ema():
    assert main(["sample", "-m", "ema=raw,average"]) == 0
    assert [config["ema"] for config, _ in SEEN[:2]] == ["raw", "average"]
    SEEN.clear()
    assert main(["train", "-m", "ema=none,edm"]) == 0
    assert [set(config["ema"]) for config, _ in SEEN[:2]] == [set(), {"average"}]


def recipes_of_jobs():
    """The recipe among the choices of each job that ran, before the sweep was finished."""
    files = [Path(folder, ".hydra/hydra.yaml") for _, folder in SEEN[:-1]]
    return [OmegaConf.load(file).hydra.runtime.choices.recipe for file in files]


SWEEPS = {
    "pairs": (
        "model=ddpm,ncsnv2 dataset=digits,mnist",
        ["ddpm_digits", "ddpm_mnist", "ncsnv2_digits", "ncsnv2_mnist"],
    ),
    "one pair": ("dataset=mnist seed=8,9", ["ddpm_mnist"] * 2),
    "categories": (
        "dataset=lsun dataset.category=bedroom,tower,kitchen model=ncsnv2",
        ["ncsnv2_lsun_bedroom", "ncsnv2_lsun_tower", "none"],
    ),
    "none": ("model=ddpm,ncsnv2 recipe=none", ["none"] * 2),
    "named": ("dataset=svhn recipe=none,ddpm_cifar10", ["none", "ddpm_cifar10"]),
}


@pytest.mark.parametrize(("line", "answer"), SWEEPS.values(), ids=SWEEPS)
def test_each_job_of_a_sweep_takes_the_recipe_of_its_own_pair(line, answer):
    assert main(["train", "-m", *line.split()]) == 0
    assert recipes_of_jobs() == answer


def test_sampling_says_first_what_it_begins(capsys):
    assert main(["sample", "sampler=heun", "num_samples=7.0", "checkpoint=mine", "runs=r"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("sampling 7 images of checkpoint=mine by heun, accelerator=auto")
    assert "results in r/samples/" in first


def test_a_sweep_says_how_many_of_its_jobs_failed(capsys):
    assert main(["sample", "-m", f"seed=0,{Seed.MISUSE},{Seed.FAIL}", "hydra.sweep.dir=s"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "diffgen: 2 of 3 jobs failed, the first one with: two is not done; use three; "
        "the same command does them again"
    )
    note = json.loads(Path("s/1/failed.json").read_text())
    assert note == {"settings": f"seed={int(Seed.MISUSE)}", "reason": "two is not done; use three"}
    assert main(["sample", "-m", "seed=0,8,8", "hydra.sweep.dir=s"]) == 0
    assert not Path("s/1/failed.json").exists()


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_NTASKS"])
def test_a_variable_that_is_no_number_is_named(name, capsys, monkeypatch):
    monkeypatch.setenv(name, "two")
    assert main(["train"]) == 2
    told = f"diffgen: {name}='two' of the environment is no number: `unset {name}`\n"
    assert capsys.readouterr().err == told


def test_a_name_of_a_run_leads_out_of_no_folder(capsys, monkeypatch):
    monkeypatch.setenv("DIFFGEN_RUN_ID", "../other")
    assert main(["train"]) == 2
    told = "diffgen: DIFFGEN_RUN_ID=../other of the environment is no folder's own name\n"
    assert capsys.readouterr().err == told


def test_an_empty_name_of_the_cache_is_none(monkeypatch):
    monkeypatch.setenv("DIFFGEN_CACHE", "")
    assert main(["train"]) == 0
    assert SEEN[-1][0]["cache"] == "~/.cache/diffgen"


def test_a_sweep_of_trainings_goes_on_in_its_own_folder(capsys):
    """The same words alone would begin it anew in another one."""
    assert main(["train", "-m", f"seed=0,{Seed.FAIL}", "runs=a b"]) == 1
    (folder,) = Path("a b/sweeps").iterdir()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"; the same command with 'hydra.sweep.dir={folder}' does them again")
    assert main(["train", "-m", f"seed=0,{Seed.CTRL_C}", "runs=b"]) == 130
    (folder,) = Path("b/sweeps").iterdir()
    assert f" hydra.sweep.dir={folder.resolve()}\n" in capsys.readouterr().err


def test_all_batches_of_a_sweep_are_launched_though_a_job_fails():
    words = [f"seed=0,{Seed.FAIL},8,9", "hydra.sweeper.max_batch_size=2"]
    assert main(["sample", "-m", *words]) == 1
    assert [config["seed"] for config, _ in SEEN[:-1]] == [0, 1, 8, 9]


def test_an_interrupted_sweep_is_finished(capsys):
    assert main(["sample", "-m", f"seed=0,{Seed.CTRL_C},8"]) == 130
    assert f"go on with: diffgen sample -m seed=0,{Seed.CTRL_C},8" in capsys.readouterr().err
    assert [config["seed"] for config, _ in SEEN[:-1]] == [0, 3]
    assert SEEN[-1][0] == "finished"


def test_what_failed_goes_before_what_could_not_be_collected(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "finish", lambda folder: 1 / 0)
    assert main(["sample", "-m", f"seed=0,{Seed.MISUSE}"]) == 1
    assert "nothing collected of the sweep: division by zero" in capsys.readouterr().err
    assert main(["sample", "-m", "seed=0,8"]) == 1


def test_only_one_rank_finishes_a_sweep(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert main(["sample", "-m", "seed=0,8"]) == 0
    assert len(SEEN) == 2


@pytest.mark.command
def test_jobs_of_other_processes_keep_folder_and_status(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.verbose=false"]
    assert main(["sample", "-m", f"seed=0,{Seed.MISUSE}", *words]) == 1
    [(_, folder)] = SEEN
    assert sorted(folder.glob("*/seen.json")) == [folder / "0/seen.json", folder / "1/seen.json"]
    assert "two is not done" in capsys.readouterr().err


def test_a_child_process_runs_this_job_of_the_sweep_in_its_folder():
    assert (
        main(
            ["sample", "-m", f"seed={Seed.START_WORKER},7", "sampler=ddim,heun", "checkpoint=a=b"]
        )
        == 0
    )
    (config, folder), (words, cwd) = SEEN[:2]
    SEEN.clear()
    assert words[:4] == [sys.executable, "-m", "diffgen", "sample"]
    assert cwd == str(Path.cwd())
    assert main([word.replace(f"seed={Seed.START_WORKER}", "seed=8") for word in words[3:]]) == 0
    (replayed,) = SEEN
    assert replayed == ({**config, "seed": 8}, folder)
    assert (Path(folder) / "sample-rank1.log").exists()


def test_all_processes_of_a_job_read_one_content_of_a_checkpoint():
    words = ["seed=1", "checkpoint=latest", "+guidance.checkpoint=b"]
    pins = {"checkpoint": "r/a,b.ckpt@0123456789ab"}
    assert with_pins(words, pins) == [words[0], words[2], "checkpoint='r/a,b.ckpt@0123456789ab'"]
    assert with_pins(words, {}) == words


def test_lightning_starts_its_processes_by_our_command():
    from lightning.fabric.strategies.launchers import subprocess_script as fabric
    from lightning.pytorch.strategies.launchers import subprocess_script as pytorch

    child, before = WorkerCommand("train", []), pytorch._hydra_subprocess_cmd
    relaunch(child)
    assert fabric._hydra_subprocess_cmd is pytorch._hydra_subprocess_cmd is child
    relaunch(before)


def test_nothing_of_a_jobs_processes_is_left_to_the_next(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1234")
    with isolated():
        os.environ.update(dict.fromkeys(RANKS, "5"))
    assert {name: os.environ.get(name) for name in RANKS} == {
        **dict.fromkeys(RANKS),
        "MASTER_PORT": "1234",
    }


def test_all_ranks_agree_on_the_run_id(monkeypatch):
    assert run_id() != run_id()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert run_id() == "17.0"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert run_id() == "17.0"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "elastic")
    assert run_id() == "elastic"
    monkeypatch.setenv("DIFFGEN_RUN_ID", "named")
    assert run_id() == "named"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("diffgen ", {*registry.COMMANDS, "gather"}),
        ("diffgen trai", {"train"}),
        ("diffgen sample sampler=dd", {"sampler=ddim", "sampler=ddpm", "sampler=ddpm_large"}),
        ("diffgen train trainer.max_s", {"trainer.max_steps="}),
    ],
)
def test_completion(line, answer, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert complete(["query=bash"]) == 0
    assert set(capsys.readouterr().out.split()) == answer


def test_a_command_over_files_reads_its_own_words(capsys):
    assert main(["gather", "a", "--b"]) == 0
    assert SEEN == [["a", "--b"]]
    assert main(["gather", "bad"]) == 2
    assert capsys.readouterr().err == "diffgen: no folder 'bad'\n"


# A value as a shell hands it over, and as Hydra's lexer reads it back.
TYPED = {
    "dataset.root=~/photos": "/home/me/photos",
    "dataset.root=bücher": "bücher",
    "labels=猫": "猫",
    "runs=a b(c)": "a b(c)",
    "checkpoint=lr=1e-3/last.ckpt": "lr=1e-3/last.ckpt",
    "task.image=[0001.png,é.png]": ["0001.png", "é.png"],
    "guidance.interval=[0.1,10]": [0.1, 10],
    "labels=[cat,3]": ["cat", 3],
    "steps=5": 5,
    "resume=null": None,
}


@pytest.mark.parametrize(("word", "value"), TYPED.items(), ids=TYPED)
def test_what_is_typed_arrives_in_any_script(word, value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (override,) = OverridesParser.create().parse_overrides([quoted(word, multirun=False)])
    found = override.value()
    plain = found.text if isinstance(found, QuotedString) else found
    if isinstance(plain, list):
        plain = [each.text if isinstance(each, QuotedString) else each for each in plain]
    assert plain == value


def test_a_misspelt_key_beside_an_odd_value_gets_its_one_line(tmp_path):
    done = here(tmp_path, "sample", "labels=猫=b", "stpes=2")
    assert (done.status, done.line()) == (2, "no key 'stpes'; did you mean steps?")


@pytest.mark.parametrize("words", [("import", "ncsn", "checkpoint.pth"), ("table", "runs")])
def test_no_command_ends_in_a_traceback(words, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("no such\nthing")

    monkeypatch.setattr("diffgen.cli.main.resolve_name", lambda _: broken)
    done = here(tmp_path, *words)
    assert (done.status, done.line()) == (1, r"KeyError: 'no such\nthing'")


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_threads_share_processors_unless_the_user_says_otherwise(name, tmp_path, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    here(tmp_path, "--version")
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv(name, "7")
    here(tmp_path, "--version")
    assert os.environ[name] == "7"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name == "GOMP_SPINCOUNT")
