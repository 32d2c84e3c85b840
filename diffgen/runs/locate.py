"""Which checkpoint a name means, and which runs there are under a folder."""

from pathlib import Path

from diffgen.errors import UsageError

EXPORTED = "model.safetensors"


def newest_first(runs: Path) -> list[Path]:
    """The last.ckpt of each run under `runs`, also of those of sweeps; UsageError without any."""
    patterns = (f"{depth}checkpoints/last.ckpt" for depth in ("*/", "*/*/", "*/*/*/"))
    found = [path for pattern in patterns for path in runs.glob(pattern)]
    if not found:
        raise UsageError(f"no checkpoint under {runs}/: train one with `diffgen train` first")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def locate(name: str, runs: Path) -> Path:
    """The file meant by `checkpoint=`: a path, a run or its checkpoints/, RUN/best, or `latest`.

    In a folder that `diffgen export safetensors` wrote it is model.safetensors.
    """
    if "://" in name:
        raise UsageError(f"{name} is an address: download the file, and name it")
    if name == "latest":
        return newest_first(runs)[0]
    path = Path(name)
    if (path / EXPORTED).is_file():
        return path / EXPORTED
    if path.is_dir():
        inside = path / "checkpoints"
        return (path if path.name == inside.name and not inside.is_dir() else inside) / "last.ckpt"
    if path.name == "best" and not path.exists():
        kept = path.parent / "checkpoints"
        if kept.is_dir() and not (kept / "best.ckpt").is_file():
            names = ", ".join(sorted(each.name for each in kept.glob("[!.]*.ckpt")))
            raise UsageError(
                f"no best.ckpt in {kept}, where evaluate.every=N in a training keeps it; there is "
                f"{names or 'none'}"
            )
        return kept / "best.ckpt"
    return path


def name_under(run: Path, runs: Path) -> str:
    """A run's path under the folder of all runs, the whole path where it stands elsewhere."""
    found, above = run.resolve(), runs.resolve()
    return (found.relative_to(above) if found.is_relative_to(above) else found).as_posix()
