"""Hostile files: checkpoints, imports and caches made to run code, hang or take all memory.

    python scripts/hostile.py [--cases 800] [--seed 0] [KIND ...]

A tiny model is trained; its files are cut, flipped, forged with right hashes and replaced by known
bombs, and each is read in a process of its own, limited to 20 s and 2 GB. Printed is a table of
what became of them. tests/test_hostile.py reads fewer of the same.
"""

import argparse
import contextlib
import copy
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffgen.errors import UsageError
from diffgen.interop.convert import convert
from diffgen.interop.diffusers import to_diffusers
from diffgen.network.unet import UNet
from diffgen.runs import checkpoint
from diffgen.runs.checkpoint_format import seal

SECONDS, BYTES = 20, 2 * 2**30
TINY = (
    "trainer.max_steps=2 trainer.batch_size=8 preview.every=0 network.width=8 "
    "network.multipliers=[1] network.groups=4 network.blocks=1 network.attention=[]"
)
ODD = [None, True, -1, 0, 1, 10**6, 10**9, 2**63, 1e308, float("nan"), "", "x" * 1000, "os:system"]
ODD += [[], {}, [[]], {"name": "unet"}, [10**9], "../../etc/passwd", {"_target_": "os.system"}]

Case = tuple[str, Callable[[Path], object]]  # a name, and what writes the file


class Payload:
    """Makes a folder when it is unpickled by a reader that runs what a file says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def zipped(
    path: Path, data: bytes, members: dict[str, bytes] | None = None, kind: int = 0
) -> None:
    """A file of torch.save's layout with this pickle."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
        for name, content in (members or {}).items():
            archive.writestr(f"a/data/{name}", content)


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of one tensor over a storage of `count` floats, bare of any check."""
    kind = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage = f"{kind}X\x01\x00\x00\x000X\x03\x00\x00\x00cpu{integer(count)}tQ"
    sizes = "".join(map(integer, size)), "".join(map(integer, stride))
    rest = f"{integer(0)}({sizes[0]}t({sizes[1]}t\x89ccollections\nOrderedDict\n)RtR."
    return f"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n({storage}{rest}".encode("latin1")


def integer(value: int) -> str:
    """An integer as eight bytes of a pickle."""
    return "\x8a\x09" + value.to_bytes(9, "little", signed=True).decode("latin1")


def bombs() -> Iterator[Case]:
    """Files in torch.save's layout that take all of something, whatever they pretend to be."""
    array = b"\x80\x02c__builtin__\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x04tR."
    yield "a bytearray of 17 GB", lambda path: zipped(path, array)
    yield (
        "bytearray8 of 17 GB",
        lambda path: zipped(path, b"\x80\x05\x96" + (2**34).to_bytes(8, "little") + b"."),
    )
    yield (
        "a string of 2^62",
        lambda path: zipped(path, b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x."),
    )
    yield (
        "deflated zeros",
        lambda path: zipped(
            path, tensor(2**24, (2**24,), (1,)), {"0": bytes(2**26)}, zipfile.ZIP_DEFLATED
        ),
    )
    yield (
        "deflated pickle",
        lambda path: zipped(path, b"\x80\x02(" + b"]" * 10**7 + b"l.", None, zipfile.ZIP_DEFLATED),
    )
    yield "stride 0", lambda path: zipped(path, tensor(1, (2**20, 2**20), (0, 0)), {"0": bytes(4)})
    yield (
        "a storage that is not there",
        lambda path: zipped(path, tensor(2**40, (2**40,), (1,)), {"0": bytes(4)}),
    )
    yield (
        "65 dimensions",
        lambda path: zipped(path, tensor(1, (1,) * 65, (1,) * 65), {"0": bytes(4)}),
    )
    yield "nested keys", lambda path: zipped(path, b"\x80\x02}q\x00)" + b"2\x86" * 60 + b"K\x01s.")
    yield (
        "copies",
        lambda path: zipped(
            path,
            b"\x80\x02]("
            + b"K\x01" * 30000
            + b"eq\x00ccollections\nCounter\nq\x01(h\x00tR"
            + b"h\x01(h\x00tR" * 30000
            + b".",
        ),
    )
    yield (
        "nested lists",
        lambda path: zipped(
            path,
            b"\x80\x02]"
            + b"".join(
                b"q" + bytes([k]) + b"]" + b"(" + (b"h" + bytes([k])) * 10 + b"e"
                for k in range(30)
            )
            + b".",
        ),
    )
    yield "a list inside itself", lambda path: zipped(path, b"\x80\x02]q\x00h\x00a.")
    yield (
        "deep lists",
        lambda path: zipped(path, b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    )
    yield (
        "a million memos",
        lambda path: zipped(path, b"\x80\x02N" + b"r\xff\xff\xff\x7f" * 10**5 + b"."),
    )
    yield (
        "one text many times",
        lambda path: zipped(
            path,
            b"\x80\x02]q\x00(X"
            + (10**5).to_bytes(4, "little")
            + b"x" * 10**5
            + b"q\x01"
            + b"h\x01" * 10**5
            + b"e.",
        ),
    )
    yield "one tensor many times", many_tensors
    yield (
        "a long integer",
        lambda path: zipped(
            path, b"\x80\x02\x8b" + (10**5).to_bytes(4, "little") + b"\x7f" * 10**5 + b"."
        ),
    )
    yield "overlapping members", overlapping
    yield "legacy storage of 2^40", legacy
    yield (
        "20,000 members",
        lambda path: zipped(path, b"\x80\x02N.", {str(k): b"" for k in range(20000)}),
    )
    yield "no pickle", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(1000))
    yield "empty", lambda path: path.write_bytes(b"")
    yield "a link to /dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "a named pipe", os.mkfifo
    yield "a folder", lambda path: path.mkdir()


def many_tensors(path: Path) -> None:
    """A tensor of 100 kB under 50,000 names, each of which would be hashed."""
    one = tensor(25000, (25000,), (1,))[2:-1]
    head = b"\x80\x02}(X\x01\x00\x00\x00x" + one + b"q\x01"
    names = (b"X\x05\x00\x00\x00" + b"%05d" % k + b"h\x01" for k in range(50000))
    zipped(path, head + b"".join(names) + b"u.", {"0": bytes(100000)})


def overlapping(path: Path) -> None:
    """An archive whose directory names one member a thousand times, each under another name."""
    zipped(path, b"\x80\x02N.", {"0": bytes(10**5)})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("a/data/0")
        for k in range(1000):
            other = copy.copy(first)
            other.filename = f"a/data/{k:08d}"[: len(first.filename) + 7]
            archive.filelist.append(other)
        archive._didModify = True  # type: ignore[attr-defined]


def legacy(path: Path) -> None:
    """The layout before torch 1.6 with a storage that is much larger than the file."""
    parts = [
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    parts += [tensor(2**40, (2**40,), (1,)), pickle.dumps(["0"], 2), (2**40).to_bytes(8, "little")]
    path.write_bytes(b"".join(parts))


def trained(folder: Path) -> Path:
    """The checkpoint of a tiny model of digits."""
    words = [sys.executable, "-m", "diffgen", "train", f"runs={folder}/runs", *TINY.split()]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next(folder.rglob("last.ckpt"))


def damaged(good: bytes, rng: random.Random) -> Callable[[Path], object]:
    """The bytes of a file, flipped, cut, zeroed, doubled or spliced."""
    broken, at = bytearray(good), rng.randrange(len(good))
    match rng.randrange(5):
        case 0:
            for _ in range(rng.choice([1, 5, 50])):
                broken[rng.randrange(len(good))] ^= rng.randrange(1, 256)
        case 1:
            del broken[at:]
        case 2:
            broken[at : at + 1000] = bytes(1000)
        case 3:
            broken[at:at] = broken[:at]
        case _:
            broken[at : at + 100] = broken[at // 2 : at // 2 + 100]
    return lambda path: path.write_bytes(broken)


def forged(good: dict[str, Any], rng: random.Random) -> Callable[[Path], object]:
    """A checkpoint of which one value is odd, its hashes right again."""
    data = copy.deepcopy(good)
    node, way = data["diffgen"], rng.choice(["header", "recipe", "recipe", "recipe", "state"])
    if way == "state":
        node = rng.choice([data, data["state_dict"], data["ema"]["average"], data["ema"]])
    while way == "recipe" and isinstance(node, dict) and rng.random() < 0.8:
        inside = [v for v in node.values() if isinstance(v, dict)]
        node = rng.choice(inside) if inside else node
        if not inside:
            break
    node[rng.choice(list(node))] = rng.choice(ODD)
    with contextlib.suppress(Exception):  # then with the old hash
        seal(data)
    return lambda path: torch.save(data, path)


def recipes(good: dict[str, Any]) -> Iterator[Case]:
    """Checkpoints with right hashes whose recipes ask for too much."""
    wishes: list[tuple[str, str, Any]] = [
        ("network", "width", 20000),
        ("network", "width", 2 * 999983),
        ("network", "blocks", 10**7),
        ("network", "multipliers", [1] * 10**5),
        ("network", "multipliers", []),
        ("network", "groups", 10**18),
        ("network", "attention", list(range(10**5))),
        ("schedule", "levels", 10**9),
        ("schedule", "levels", 10**30),
        ("sampler", "steps", 10**9),
        ("trainer", "batch_size", 10**9),
        ("trainer", "workers", 10**6),
        ("preview", "num_samples", 10**9),
        ("network", "name", "mp_unet" * 10**4),
    ]
    for group, key, value in wishes:
        data = copy.deepcopy(good)
        data["diffgen"]["recipe"][group][key] = value
        yield f"{group}.{key}={str(value)[:20]}", sealed(data)
    networks: list[dict[str, Any]] = [
        {"name": "dit", "width": 4, "heads": 1, "depth": 10**6},
        {"name": "dit", "width": 2**18, "patch": 1, "heads": 1, "depth": 1},
        {"name": "dit", "width": 4, "mlp": 1e300, "heads": 1},
        {"name": "dilated", "width": 4, "groups": 1, "dilations": [1] * 10**5},
        {"name": "song_unet", "width": 2**20, "blocks": 128, "taps": [1] * 32},
        {"name": "song_unet", "taps": [1] * 10**5},
        {"name": "mp_unet", "width": 64, "blocks": 10**6},
    ]
    for network in networks:
        data = copy.deepcopy(good)
        data["diffgen"]["recipe"]["network"] = network
        yield f"network={str(network)[10:50]}", sealed(data)
    headers = {
        "shape": [1, 10**6, 10**6],
        "classes": ["x"] * 10**5,
        "recipe": None,
        "range": {"shift": 0, "scale": float("nan")},
    }
    for key, value in headers.items():
        data = copy.deepcopy(good)
        data["diffgen"][key] = value
        yield f"{key}={str(value)[:20]}", sealed(data)
    laughs = ["lol"] * 10
    for _ in range(12):
        laughs = [laughs] * 10
    data = copy.deepcopy(good)
    data["diffgen"]["recipe"]["x"] = laughs
    yield "nested lists in the recipe", lambda path: torch.save(data, path)


def sealed(data: dict[str, Any]) -> Callable[[Path], object]:
    """Writes the data with right hashes."""
    seal(data)
    return lambda path: torch.save(data, path)


def code(folder: Path) -> Iterator[Case]:
    """Files that run something where it is let."""
    payload = Payload(folder / "ran")
    yield "plain pickle", lambda path: path.write_bytes(pickle.dumps(payload))
    yield "torch file", lambda path: torch.save({"diffgen": payload}, path)
    yield (
        "legacy torch file",
        lambda path: torch.save([payload], path, _use_new_zipfile_serialization=False),
    )


def checkpoints(
    folder: Path, cases: int, rng: random.Random, path: Path | None = None
) -> Iterator[Case]:
    """All hostile checkpoints, and as many damaged and forged from that at `path` as asked for."""
    path = path or trained(folder)
    good, data = path.read_bytes(), torch.load(path, weights_only=True)
    yield from bombs()
    yield from code(folder)
    yield from recipes(data)
    for k in range(cases):
        yield f"case {k}", damaged(good, rng) if k % 2 else forged(data, rng)


def read_checkpoint(path: Path) -> None:
    """What `diffgen sample` does with a file before it draws."""
    found = checkpoint.load(path)
    found.denoiser()


SETTINGS = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "norm_num_groups": 2,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
GROWING = {
    "block_out_channels": [8] * 10**5,
    "layers_per_block": 10**9,
    "norm_num_groups": 10**12,
    "sample_size": 10**9,
    "in_channels": 10**9,
    "num_class_embeds": 10**12,
    "attention_head_dim": 10**18,
    "norm_eps": 10**400,
}


def imports(folder: Path, cases: int, rng: random.Random, _: Path | None = None) -> Iterator[Case]:
    """Hostile weights and configurations of other programs; SETTINGS stand beside each."""
    shape = {"width": 8, "multipliers": (1, 1), "blocks": 1, "groups": 2, "attention": ()}
    network = UNet(channels=1, size=16, **shape)
    state, good = to_diffusers(network.state_dict()), folder / "good.bin"
    torch.save(state, good)
    data = good.read_bytes()

    def configured(settings: dict[str, Any], write: Callable[[Path], object]) -> Any:
        def case(path: Path) -> None:
            (folder / "config.json").write_text(json.dumps(settings))
            write(path)

        return case

    yield "sound", configured(SETTINGS, partial(torch.save, state))
    for name, write in [*bombs(), *code(folder)]:
        yield name, configured(SETTINGS, write)
    whole = partial(torch.save, state)
    for key, value in GROWING.items():
        yield f"{key}={str(value)[:20]}", configured(SETTINGS | {key: value}, whole)
    for k in range(cases):
        odd = {rng.choice(list(SETTINGS)): rng.choice(ODD)}
        case = damaged(data, rng) if k % 2 else whole
        yield f"case {k}", configured(SETTINGS if k % 2 else SETTINGS | odd, case)


def read_import(path: Path) -> None:
    """What `diffgen import` does with a file before it writes."""
    for kind in ("ncsn", "ncsnv2", "ddim"):
        with contextlib.suppress(UsageError):
            convert(kind, path, 16)
    convert("ddpm-diffusers", path)


KINDS: dict[str, tuple[Callable[..., Iterator[Case]], Callable[[Path], None]]] = {
    "checkpoint": (checkpoints, read_checkpoint),
    "import": (imports, read_import),
}


def outcome(read: Callable[[Path], None], path: Path) -> tuple[str, float, float]:
    """What became of reading a file in a process of its own, its seconds and its MB more."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_read_here(read, path))
    while not (found := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() - start > SECONDS:
            os.kill(child, 9)
            os.wait4(child, 0)
            return "HUNG", SECONDS, 0.0
        time.sleep(0.002)
    _, status, usage = found
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize() / 1024
    name = {0: "read", 2: "refused", 3: "OUT OF MEMORY"}.get(
        os.waitstatus_to_exitcode(status), "EXCEPTION"
    )
    return name, time.monotonic() - start, max(0, usage.ru_maxrss - before) / 1024


def _read_here(read: Callable[[Path], None], path: Path) -> int:
    base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + BYTES, base + BYTES))
    try:
        read(path)
    except UsageError as error:
        return 2 if "\n" not in str(error) and "memory than there is" not in str(error) else 1
    except MemoryError:
        return 3
    except BaseException as error:
        print(f"{type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Read all cases of the kinds asked for and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in options.kinds:
        folder = Path(tempfile.mkdtemp())
        make, read = KINDS[kind]
        counts, slowest, largest = Counter[str](), 0.0, 0.0
        for k, (name, write) in enumerate(
            make(folder, options.cases, random.Random(options.seed))
        ):
            path = folder / f"{k}.ckpt"
            write(path)
            what, seconds, megabytes = outcome(read, path)
            counts[what] += 1
            slowest, largest = max(slowest, seconds), max(largest, megabytes)
            named = what == "read" and not name.startswith("case")
            if named or what not in ("read", "refused") or seconds > 5:
                print(f"{kind}: {name}: {what}, {seconds:.1f} s", flush=True)
            if path.is_file() and not path.is_symlink():
                path.unlink()
        ran = "RAN CODE" if (folder / "ran").exists() else "nothing ran"
        told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        print(f"{kind}: {told}; {ran}; slowest {slowest:.1f} s, at most {largest:.0f} MB more")


if __name__ == "__main__":
    main()
