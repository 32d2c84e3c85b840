"""Sources against files made here, batches against their definition, resuming with Lightning."""

import hashlib
import io
import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from running import tree
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch.testing import assert_close
from torchvision import datasets as vision
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import crop

from diffgen.commands.data_dependent import resolved
from diffgen.config.build import build, find
from diffgen.dataset.batches import Batches
from diffgen.dataset.datamodule import DataModule, Loader
from diffgen.dataset.decode import Decoder
from diffgen.dataset.digits import Digits
from diffgen.dataset.folder import Folder
from diffgen.dataset.gather import in_threads
from diffgen.dataset.images import described, in_memory, numbered_as
from diffgen.dataset.photographs import Celeba, Ffhq, Lsun
from diffgen.dataset.random_choices import coins, holdout, permutation
from diffgen.dataset.torchvision_sets import Cifar10, Cifar100, FashionMnist, Mnist, Svhn
from diffgen.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"


# --- what is fixed for ever ---------------------------------------------------------------------


def test_the_draws_are_the_same_in_every_version():
    assert permutation(10, 1, 2).tolist() == [7, 1, 3, 0, 4, 8, 9, 2, 6, 5]
    assert coins(8, 3).astype(int).tolist() == [0, 0, 0, 1, 1, 1, 1, 0]


def test_digits_are_scikit_learns_split_once_and_for_all():
    train, test = Digits().split("train"), Digits().split("test")
    levels, labels = load_digits(return_X_y=True)
    grey = [int(255 * level / 16 + 0.5) for level in range(17)]
    expected = Counter(
        (label, bytes(grey[int(level)] for level in row))
        for row, label in zip(levels, labels, strict=True)
    )
    found = [
        (int(label), bytes(image.flatten().tolist()))
        for images in (train, test)
        for image, label in zip(images.pixels, images.labels, strict=True)
    ]
    assert Counter(found) == expected
    assert (len(train), len(test), train.pixels.shape[1:]) == (1438, 359, (1, 8, 8))
    share = test.labels.bincount() / torch.from_numpy(labels).bincount()
    assert_close(share, torch.full((10,), 0.2), atol=0.003, rtol=0)
    assert train.classes == tuple("0123456789")
    assert train.fingerprint == "918bf44a89f9044d9830e4153c077fd2"
    assert test.fingerprint == "03ed792d39c4ff60874960e9bb4471ea"


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(9, 0.2, 2), (1797, 0.2, 359), (4, 0.1, 0)]
)
def test_what_is_held_out_is_the_nearest_number(count, fraction, held):
    train, test = holdout(count, fraction)
    assert len(test) == held
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(count))


def test_every_class_keeps_an_image_to_train_on():
    """Of ten classes of one image, none may go to the test set; of pairs, one each at most."""
    assert [len(part) for part in holdout(10, 0.5, torch.arange(10))] == [10, 0]
    train, test = holdout(20, 0.9, torch.arange(10).repeat(2))
    assert (len(train), len(test)) == (10, 10)
    assert (train % 10).sort().values.tolist() == list(range(10))


def test_every_class_is_held_out_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.from_numpy(permutation(100, 1))]
    _, test = holdout(100, 0.2, labels)
    assert labels[test].bincount().tolist() == [12, 6, 2]


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "dataset").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_config_holds_all_settings_of_a_source(path):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = dict(compose(overrides=[f"+dataset={path.stem}"]).dataset)
    source = find("dataset", settings["name"])
    assert set(settings) - {"name"} == {field.name for field in fields(source)}
    built = build("dataset", settings)
    assert path.stem != settings["name"] or built == source()


# --- batches ------------------------------------------------------------------------------------


def numbered(count):
    """Images 1x1x2 that show their own number and 255, so that a mirrored one is recognised."""
    pixels = torch.stack([torch.arange(count), torch.full((count,), 255)], 1)
    return in_memory(pixels.to(torch.uint8).view(-1, 1, 1, 2), torch.arange(count), (), "numbered")


def read(batches, items):
    return [batches[item] for item in items]


@pytest.mark.parametrize("batch_size", [4, 10, 25])
def test_every_epoch_shows_every_image_once(batch_size):
    batches = Batches(numbered(10), batch_size, seed=1)
    order = torch.cat([batch["label"] for batch in read(batches, range(20))]).view(-1, 10)
    assert_close(order.sort(1).values, torch.arange(10).expand_as(order))
    assert len({tuple(epoch.tolist()) for epoch in order}) == len(order)
    other = torch.cat([batch["label"] for batch in read(Batches(numbered(10), 10, 2), range(8))])
    assert other.tolist() != order.flatten()[:80].tolist()


def test_epochs_behind_are_forgotten():
    batches = Batches(numbered(1000), 100, 0)
    read(batches, range(30))
    size = len(pickle.dumps(batches))
    read(batches, range(30, 100))
    assert len(pickle.dumps(batches)) < size + 100


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 3), (2, 3), (3, 2)])
def test_devices_and_accumulation_share_out_the_same_batch(world_size, accumulate):
    images, size, seed = numbered(50), 12, 7
    for step in (0, 3, 4, 100):
        whole = Batches(images, size, seed, flip=True)[step]
        parts = [
            Batches(images, size, seed, accumulate, rank, world_size, flip=True)[item]
            for rank in range(world_size)
            for item in range(step * accumulate, (step + 1) * accumulate)
        ]
        assert {part["step"] for part in parts} == {step}
        position = torch.cat([part["position"] for part in parts])
        assert sorted(position.tolist()) == list(range(size))
        for key in ("pixels", "label"):
            together = torch.cat([part[key] for part in parts])
            assert_close(together[position.argsort()], whole[key])


def test_a_batch_can_be_made_alone():
    walked = read(Batches(numbered(9), 4, 0, flip=True), range(30))[-1]
    alone = Batches(numbered(9), 4, 0, flip=True)[29]
    assert_close(alone["pixels"], walked["pixels"])


def test_half_of_the_images_are_mirrored_where_asked():
    batches = read(Batches(numbered(100), 100, 0, flip=True), range(40))
    pixels = torch.cat([batch["pixels"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    mirrored = pixels[:, 0, 0, 0] == 255
    assert_close(torch.where(mirrored, pixels[:, 0, 0, 1], pixels[:, 0, 0, 0]).long(), labels)
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / 4000**0.5
    assert len({tuple(flips.tolist()) for flips in mirrored.view(40, 100)}) == 40
    plain = torch.cat(
        [batch["pixels"] for batch in read(Batches(numbered(100), 100, 0), range(9))]
    )
    assert (plain[:, 0, 0, 1] == 255).all()


@pytest.mark.parametrize(("size", "accumulate", "world_size"), [(10, 3, 1), (10, 2, 4), (0, 1, 1)])
def test_a_batch_that_cannot_be_shared_out_is_refused(size, accumulate, world_size):
    with pytest.raises(UsageError, match=f"batch_size={size} .*{world_size} device"):
        Batches(numbered(5), size, 0, accumulate, 0, world_size)


def test_unlabelled_images_give_no_label():
    images = in_memory(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), None, (), "x")
    assert set(Batches(images, 2, 0)[0]) == {"pixels", "step", "position"}


# --- the trainer --------------------------------------------------------------------------------


class Witness(LightningModule):
    """Adds up what it sees; writes a checkpoint after the batch `save_after`."""

    def __init__(self, save_after=None, path=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.save_after, self.path = [], save_after, path

    def training_step(self, batch, index):
        self.seen.append((batch["step"], batch["position"].tolist(), batch["pixels"].tolist()))
        assert (batch["step"], index) == (self.global_step, self.trainer.fit_loop.batch_idx)
        return self.weight * batch["pixels"].double().mean()

    def on_train_batch_end(self, *args):
        if len(self.seen) == self.save_after:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(max_steps, accumulate, checkpoint=None, witness=None):
    witness = witness or Witness()
    trainer = Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = Batches(Digits().split("train"), 12, 5, accumulate, flip=True)
    data = DataModule(batches, max_steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*not resumable.*")
        warnings.filterwarnings("error", ".*many workers.*")
        trainer.fit(witness, datamodule=data, ckpt_path=checkpoint)
    return witness


@pytest.mark.parametrize(
    ("accumulate", "save_after", "first_length"),
    [(1, 4, 9), (2, 8, 9), (2, 7, 9), (3, 10, 9), (2, 8, 4)],
    ids=["plain", "accumulating", "between-micro-batches", "after-one-of-three", "extended"],
)
def test_resuming_sees_exactly_the_batches_of_an_unbroken_run(
    tmp_path, accumulate, save_after, first_length
):
    path = tmp_path / "last.ckpt"
    unbroken = fit(9, accumulate)
    fit(first_length, accumulate, witness=Witness(save_after, path))
    resumed = fit(9, accumulate, path)
    start = save_after // accumulate * accumulate
    assert resumed.seen == unbroken.seen[start:]
    assert len(unbroken.seen) == 9 * accumulate
    assert_close(resumed.weight, unbroken.weight, rtol=0, atol=0)


def test_the_trainer_gets_the_batches_of_its_images():
    images = Digits().split("train")
    expected = read(Batches(images, 12, 5, accumulate=2, flip=True), range(6))
    assert [rows for _, _, rows in fit(3, 2).seen] == [b["pixels"].tolist() for b in expected]


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (3, 2)])
def test_accumulation_may_change_on_resuming(tmp_path, before, after):
    path = tmp_path / "last.ckpt"
    unbroken = fit(8, 1)
    fit(5, before, witness=Witness(5 * before, path))
    resumed = fit(8, after, path)
    assert [step for step, _, _ in resumed.seen] == [5] * after + [6] * after + [7] * after
    assert [row for _, _, rows in resumed.seen for row in rows] == [
        row for _, _, rows in unbroken.seen[5:] for row in rows
    ]
    assert_close(resumed.weight, unbroken.weight)


def test_a_loader_is_as_long_as_the_run_wherever_it_starts():
    loader = Loader(Batches(numbered(6), 4, 0, accumulate=2), start_step=3, max_steps=5)
    assert len(loader) == 10
    assert [batch["step"] for batch in loader] == [3, 3, 4, 4]


# --- torchvision's sets -------------------------------------------------------------------------


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **options):
        raise URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", refuse)
    monkeypatch.setitem(sys.modules, "gdown", None)


def write_idx(folder, part, pixels, labels):
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">4I", 0x803, *pixels.shape)
    (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    header = struct.pack(">2I", 0x801, len(labels))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.mark.parametrize(
    ("source", "folder", "first"),
    [(Mnist, "MNIST", "0"), (FashionMnist, "FashionMNIST", "T-shirt/top")],
)
def test_idx_files(tmp_path, source, folder, first):
    made = {"train": noise(7, 28, 28), "t10k": noise(3, 28, 28, seed=1)}
    for part, pixels in made.items():
        write_idx(tmp_path / folder / "raw", part, pixels, np.arange(len(pixels), dtype=np.uint8))
    for which, part in (("train", "train"), ("test", "t10k")):
        images = source(str(tmp_path)).split(which)
        assert_close(images.pixels, torch.from_numpy(made[part])[:, None])
        assert images.labels.tolist() == list(range(len(made[part])))
        assert (images.classes[0], len(images.classes)) == (first, 10)


@pytest.mark.parametrize(
    ("source", "reader", "key"),
    [(Cifar10, vision.CIFAR10, "labels"), (Cifar100, vision.CIFAR100, "fine_labels")],
)
def test_cifar_pickles(tmp_path, monkeypatch, source, reader, key):
    def write(name, content):
        data = pickle.dumps(content)
        (tmp_path / reader.base_folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    (tmp_path / reader.base_folder).mkdir()
    for table in ("train_list", "test_list"):
        sums = []
        for number, (name, _) in enumerate(getattr(reader, table)):
            pixels = noise(2, 3072, seed=number)
            sums.append([name, write(name, {"data": pixels, key: [number, 9 - number]})])
        monkeypatch.setattr(reader, table, sums)
    names = [f"kind {number}" for number in range(10)]
    meta = write(reader.meta["filename"], {reader.meta["key"]: names})
    monkeypatch.setitem(reader.meta, "md5", meta)

    images = source(str(tmp_path)).split("train")
    parts = len(reader.train_list)
    stored = np.concatenate([noise(2, 3072, seed=number) for number in range(parts)])
    assert_close(images.pixels, torch.from_numpy(stored).view(-1, 3, 32, 32))
    assert images.labels.tolist() == [label for n in range(parts) for label in (n, 9 - n)]
    assert images.classes == tuple(names)
    assert len(source(str(tmp_path)).split("test")) == 2


@pytest.mark.parametrize("which", ["train", "test"])
def test_svhn_files(tmp_path, monkeypatch, which):
    pixels, labels = noise(32, 32, 3, 4), np.array([[10], [1], [9], [10]], np.uint8)
    url, name, _ = vision.SVHN.split_list[which]
    savemat(tmp_path / name, {"X": pixels, "y": labels})
    md5 = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    monkeypatch.setitem(vision.SVHN.split_list, which, [url, name, md5])
    images = Svhn(str(tmp_path)).split(which)
    assert_close(images.pixels, torch.from_numpy(pixels).permute(3, 2, 0, 1))
    assert [images.classes[label] for label in images.labels] == ["0", "1", "9", "0"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        (Mnist, "MNIST/raw/"),
        (FashionMnist, "FashionMNIST/raw/"),
        (Cifar10, "cifar-10-batches-py/"),
        (Cifar100, "cifar-100-python/"),
        (Svhn, "32x32.mat"),
        (Celeba, "img_align_celeba"),
        (Lsun, "lsun/church_outdoor_train"),
        (Ffhq, "ffhq.zip"),
        (Folder, "no images in"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, offline, source, files):
    with pytest.raises(UsageError) as caught:
        source(root=str(tmp_path)).split("train")
    message = str(caught.value)
    assert files in message
    assert str(tmp_path) in message
    assert "dataset.root" in message
    assert "\n" not in message


def test_a_truncated_mnist_is_said_in_one_line(tmp_path, offline):
    for part in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", part, noise(3, 28, 28), np.zeros(3, np.uint8))
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"^mnist can neither be read from [^\n]*$"):
        Mnist(str(tmp_path)).split("train")


# --- folders and zips ---------------------------------------------------------------------------


def picture(pixels, mode=None):
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)).save(
        file, "png"
    )
    return file.getvalue()


def write_files(root, files):
    """A directory at `root` and a zip beside it with the same files {name: bytes}."""
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
            archive.writestr(name, content)
    return [str(root), str(root.with_suffix(".zip"))]


def colours(count, height=6, width=5):
    return [noise(height, width, 3, seed=seed) for seed in range(count)]


def channels_first(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def pixels_of(images):
    return images.pixels[torch.arange(len(images))]


@pytest.mark.parametrize("memory_limit", [4.0, 0.0], ids=["in-memory", "streamed"])
@pytest.mark.parametrize("kind", [0, 1], ids=["directory", "zip"])
def test_a_folder_holds_its_pixels_and_sub_folders_name_the_classes(tmp_path, kind, memory_limit):
    made = colours(20)
    names = [f"all/{'dog' if n % 4 else 'cat'}/deep/{n:02d}.png" for n in range(20)]
    files = {name: picture(pixels) for name, pixels in zip(names, made, strict=True)}
    files |= {"all/notes.txt": b"no image", "__MACOSX/all/cat/00.png": b"no image"}
    root = write_files(tmp_path / "pets", files)[kind]
    source = Folder(root, memory_limit=memory_limit, test_fraction=0.2)
    train, test = source.split("train"), source.split("test")
    stored = {picture(pixels): (name, pixels) for name, pixels in zip(names, made, strict=True)}
    assert torch.is_tensor(train.pixels) == bool(memory_limit)
    assert train.pixels.shape == (16, 3, 6, 5)
    assert train.classes == test.classes == ("cat", "dog")
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([4, 12], [1, 3])
    found = []
    for images in (train, test):
        for pixels, label in zip(pixels_of(images), images.labels, strict=True):
            name, original = stored.pop(picture(pixels.permute(1, 2, 0).numpy()))
            assert_close(pixels, channels_first([original])[0])
            assert f"/{images.classes[label]}/" in name
            found.append(name)
    assert (sorted(found), train.name) == (sorted(names), "pets")
    again = Folder(root, memory_limit=memory_limit, test_fraction=0.2).split("test")
    assert again.fingerprint == test.fingerprint != train.fingerprint


def test_streamed_images_are_those_in_memory_in_any_order_and_process(tmp_path):
    files = {f"{n}.png": picture(pixels) for n, pixels in enumerate(colours(12))}
    for root in write_files(tmp_path / "set", files):
        held = Folder(root).split("train")
        streamed = Folder(root, memory_limit=0).split("train")
        index = torch.tensor([3, 0, 3, 9])
        assert_close(streamed.pixels[index], held.pixels[index])
        here = Loader(Batches(held, 4, 1, flip=True), 2, 9)
        state = torch.get_rng_state()
        there = Loader(Batches(streamed, 4, 1, flip=True), 2, 9, workers=2)
        for one, other in zip(here, there, strict=True):
            assert_close(one["pixels"], other["pixels"])
            assert one["step"] == other["step"]
        assert torch.equal(state, torch.get_rng_state())


def test_workers_do_not_disturb_each_others_place_in_a_zip(tmp_path):
    files = {f"{n}.png": picture(noise(48, 48, 3, seed=n)) for n in range(100)}
    root = write_files(tmp_path / "set", files)[1]
    held, streamed = (Folder(root, memory_limit=limit).split("train") for limit in (4.0, 0.0))
    loaders = [
        Loader(Batches(images, 20, 0), 0, 30, workers)
        for images, workers in ((held, 0), (streamed, 2))
    ]
    for one, other in zip(*loaders, strict=True):
        assert_close(one["pixels"], other["pixels"])


def test_memory_is_counted_before_anything_is_decoded(tmp_path):
    files = {f"{n}.png": b"not decoded" for n in range(4)}
    root = write_files(tmp_path / "set", files)[0]
    settings = {"root": root, "size": 8, "channels": 3, "test_root": root}
    streamed = Folder(**settings, memory_limit=(4 * 3 * 8 * 8 - 1) / 2**30).split("train")
    assert streamed.pixels.shape == (4, 3, 8, 8)
    with pytest.raises(UsageError, match=r"cannot read image 2.png in [^\n]*$"):
        streamed.pixels[torch.tensor([2])]
    with pytest.raises(UsageError, match=r"cannot read image 0.png"):
        Folder(**settings, memory_limit=4 * 3 * 8 * 8 / 2**30).split("train")


def test_edm_labels(tmp_path):
    made = colours(6)
    names = [f"0000{n % 2}/img{n}.png" for n in range(6)]
    files = {name: picture(pixels) for name, pixels in zip(names, made, strict=True)}
    listed = {"labels": [[name, 5 - n] for n, name in enumerate(names)]}
    for root in write_files(
        tmp_path / "edm", files | {"dataset.json": json.dumps(listed).encode()}
    ):
        images = Folder(root, test_fraction=0).split("train")
        order = [names.index(name) for name in sorted(names)]
        assert images.labels.tolist() == [5 - n for n in order]
        assert_close(images.pixels, channels_first([made[n] for n in order]))
        assert images.classes == tuple("012345")
    wrapped = {f"set/{name}": data for name, data in files.items()}
    wrapped["set/dataset.json"] = json.dumps(listed).encode()
    for root in write_files(tmp_path / "wrapped", wrapped):
        images = Folder(root, test_fraction=0).split("train")
        assert images.labels.tolist() == [5 - names.index(name) for name in sorted(names)]
    for text, problem in [
        ('{"labels": null}', None),
        ("{", "not readable"),
        ('{"labels": [["00000/img0.png", 1]]}', "img2.png the label None"),
        (json.dumps({"labels": [[name, -1] for name in names]}), "the label -1"),
    ]:
        (tmp_path / "edm" / "dataset.json").write_text(text)
        source = Folder(str(tmp_path / "edm"))
        if problem is None:
            assert (source.split("train").labels, source.split("train").classes) == (None, ())
        else:
            with pytest.raises(UsageError, match=problem):
                source.split("train")


def test_only_classes_with_images_count_and_are_called_by_their_number(tmp_path):
    """Labels from 1, with gaps, and one of a thousand million, which is one class more."""
    numbers = [1, 3, 10, 10**9, 1, 3]
    files = {f"{n}.png": picture(noise(4, 4)) for n in range(6)}
    listed = {"labels": [[f".\\{n}.png", number] for n, number in enumerate(numbers)]}
    files["dataset.json"] = json.dumps(listed).encode()
    for root in write_files(tmp_path / "set", files):
        images = Folder(root, test_fraction=0).split("train")
        assert images.classes == ("1", "3", "10", "1000000000")
        assert [int(images.classes[label]) for label in images.labels] == numbers


@pytest.mark.parametrize(
    "text",
    ['{"labels": [["a.png", 1e3]]}', '{"labels": [[[], 0]]}', '{"labels": [["a.png", %s]]}',
     "[" * 100_000, '{"labels": {"a": 1}}', "[]", '{"labels": 7}', " " * 2_000_000],
    ids=["float", "no-path", "digits", "depth", "object", "list", "number", "length"],
)  # fmt: skip
def test_a_listing_that_cannot_be_meant_is_said_in_one_line(tmp_path, text):
    text = text.replace("%s", "9" * 4000)
    root = write_files(
        tmp_path / "set", {"a.png": picture(noise(4, 4)), "dataset.json": text.encode()}
    )[0]
    with pytest.raises(
        UsageError, match=r"dataset\.json in [^\n]*it should read [^\n]*$"
    ) as caught:
        Folder(root, test_fraction=0).split("train")
    assert len(str(caught.value)) < 500 + len(root)


def test_numbers_in_names_of_classes_count_by_their_value(tmp_path):
    made = {f"{k}/x.png": picture(noise(4, 4)) for k in ("10", "2", "b12", "b3", "", "c")}
    files = {name.lstrip("/"): content for name, content in made.items() if name[0] != "/"}
    images = Folder(write_files(tmp_path / "set", files)[0], test_fraction=0).split("train")
    assert images.classes == ("2", "10", "b3", "b12", "c")


def test_labels_are_those_that_a_model_learned(tmp_path):
    """Where a set counts its classes in another order; another class is refused."""
    files = {f"{k}/x.png": picture(noise(4, 4)) for k in ("2", "10")}
    images = Folder(write_files(tmp_path / "set", files)[0], test_fraction=0).split("train")
    learned = numbered_as(images, ("10", "1", "2"))
    assert learned.classes == ("10", "1", "2")
    names = [images.classes[label] for label in images.labels]
    assert [learned.classes[label] for label in learned.labels] == names
    assert learned.fingerprint != images.fingerprint
    assert numbered_as(images, images.classes) is images
    with pytest.raises(UsageError, match="has images of 10, and the model learned 2, 3"):
        numbered_as(images, ("2", "3"))


@pytest.mark.parametrize("held", ["test", "Val"])
def test_folders_of_splits_are_the_splits(tmp_path, held):
    names = [f"set/Train/{c}/{n}.png" for c in ("cat", "dog") for n in range(2)]
    names += [f"set/{held}/{c}/{n}.png" for c in ("dog", "cat") for n in range(3)]
    files = {name: picture(noise(4, 4, seed=n)) for n, name in enumerate(names)}
    others = {"set/cover.png": picture(noise(4, 4))} | (
        {"set/validation/cat/x.png": picture(noise(4, 4))} if held == "test" else {}
    )
    for root in write_files(tmp_path / "set", files | others):
        train, test = (Folder(root).split(which) for which in ("train", "test"))
        assert train.classes == test.classes == ("cat", "dog")
        assert train.labels.tolist() == [0, 0, 1, 1]
        assert test.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert_close(train.pixels[0, 0], torch.from_numpy(noise(4, 4, seed=0)))


def test_a_flat_folder_of_test_images_has_no_labels(tmp_path):
    names = ["train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png"]
    files = {name: picture(noise(4, 4)) for name in names}
    source = Folder(write_files(tmp_path / "set", files)[0])
    assert source.split("train").labels.tolist() == [0, 1]
    assert source.split("test").labels is None


def test_classes_called_like_splits_are_classes(tmp_path):
    files = {f"{c}/{n}.png": picture(noise(4, 4)) for c in ("train", "car") for n in range(2)}
    images = Folder(write_files(tmp_path / "set-1.0", files)[0], test_fraction=0).split("train")
    assert images.classes == ("car", "train")
    assert images.name == "set-1.0"


def test_labels_are_left_out_where_there_are_none_or_none_are_wanted(tmp_path):
    flat = {f"{n}.png": picture(noise(4, 4)) for n in range(20)}
    mixed = {"a/1.png": picture(noise(4, 4)), **flat}
    for name, files in (("flat", flat), ("mixed", mixed)):
        assert Folder(write_files(tmp_path / name, files)[0]).split("train").labels is None
    split = {f"{n % 2}/{n}.png": picture(noise(4, 4)) for n in range(20)}
    root = write_files(tmp_path / "split", split)[0]
    assert Folder(root).split("train").labels is not None
    assert Folder(root, labels=False).split("train").labels is None


def test_a_test_set_of_its_own_has_the_training_sets_classes_and_shape(tmp_path):
    def make(name, *files):
        return write_files(tmp_path / name, {file: picture(noise(4, 4)) for file in files})[0]

    train = make("train", "a/1.png", "b/2.png", "c/3.png")
    test = make("test", "c/1.png", "c/2.png")
    other = make("other", "d/1.png")
    large = write_files(tmp_path / "large", {"a/1.png": picture(noise(9, 9))})[0]
    source = Folder(train, test_root=test)
    assert source.split("train").labels.tolist() == [0, 1, 2]
    assert source.split("test").labels.tolist() == [2, 2]
    assert source.split("test").classes == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"d/1.png .* no folder of a, b, c"):
        Folder(train, test_root=other).split("test")
    with pytest.raises(UsageError, match=r"9x9, those to train on 4x4; set dataset.size"):
        Folder(train, test_root=large).split("test")
    with pytest.raises(UsageError, match=r"set dataset.test_root"):
        Folder(train, test_fraction=0).split("test")


def test_links_do_not_go_round(tmp_path):
    """Links up, to one another and to the root of the file system: each folder is read once."""
    files = {f"{c}/{n}.png": picture(noise(4, 4)) for c in ("cat", "dog") for n in range(2)}
    root = Path(write_files(tmp_path / "set", files)[0])
    other = Path(write_files(tmp_path / "other", {"x/1.png": picture(noise(4, 4))})[0])
    for name, target in [("cat/up", ".."), ("dog/up", ".."), ("cat/dogs", "../dog"), ("all", "/")]:
        (root / name).symlink_to(target)
    (root / "owl").symlink_to(other / "x")
    images = Folder(str(root), test_fraction=0).split("train")
    assert images.labels.bincount().tolist() == [2, 2, 1]
    assert images.classes == ("cat", "dog", "owl")


def test_what_is_no_regular_file_is_left_out_and_counted(tmp_path, caplog):
    root = Path(write_files(tmp_path / "set", {"a.png": picture(noise(4, 4)), "b.heic": b""})[0])
    os.mkfifo(root / "pipe.png")
    (root / "zeros.png").symlink_to("/dev/zero")
    (root / "gone.png").symlink_to("nowhere")
    (root / "self.png").symlink_to("self.png")
    with caplog.at_level("INFO"):
        assert len(Folder(str(root), test_fraction=0).split("train")) == 1
    for counted in ("2 pipes, sockets or devices", "2 broken links", "1 .heic"):
        assert counted in caplog.text
    (root / "a.png").unlink()
    with pytest.raises(UsageError, match=r"no images in .*1 \.heic.* left out"):
        Folder(str(root)).split("train")


def test_a_file_that_becomes_a_pipe_is_said_at_once(tmp_path):
    root = Path(write_files(tmp_path / "set", {"a.png": picture(noise(4, 4))})[0])
    images = Folder(str(root), test_fraction=0, memory_limit=0).split("train")
    (root / "a.png").unlink()
    os.mkfifo(root / "a.png")
    with pytest.raises(UsageError, match="not a regular file"):
        images.at(torch.tensor([0]))


def member(name, **fields):
    info = zipfile.ZipInfo("x")
    info.filename = name
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def test_names_of_every_kind_in_a_zip(tmp_path, caplog):
    """From Windows, from a root or a drive; what leads out, links and doubles are left out."""
    link = {"create_system": 3, "external_attr": 0o120777 << 16}
    names = ["data\\cat\\1.png", "/data/dog/1.png", "C:\\data\\dog\\2.png", "./data/owl/1.png"]
    members = [
        member(name) for name in [*names, "../../x.png", "data/cat/../y.png", "data/cat/1.png"]
    ]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for info in [*members, member("data/cat/link.png", **link)]:
            archive.writestr(info, picture(noise(4, 4)))
        archive.writestr(member("data\\empty\\"), b"")
    with caplog.at_level("INFO"):
        images = Folder(str(tmp_path / "set.zip"), test_fraction=0).split("train")
    assert images.classes == ("cat", "dog", "owl")
    assert images.labels.tolist() == [0, 1, 1, 2]
    for counted in ("2 with names that lead out", "1 links", "1 of a name that comes again"):
        assert counted in caplog.text


def test_a_zip_with_a_password_or_a_huge_member_is_refused(tmp_path, monkeypatch):
    raw = bytearray(
        Path(write_files(tmp_path / "set", {"a.png": picture(noise(4, 4))})[1]).read_bytes()
    )
    raw[raw.index(b"PK\1\2") + 8] |= 1  # as written by an archiver with a password
    (tmp_path / "locked.zip").write_bytes(raw)
    with pytest.raises(UsageError, match=r"locked.zip is encrypted"):
        Folder(str(tmp_path / "locked.zip")).split("train")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
    monkeypatch.setattr("diffgen.dataset.store.LARGEST", 2**20 - 1)
    with pytest.raises(UsageError, match=r"a.png has 1048576 bytes"):
        Folder(str(tmp_path / "bomb.zip")).split("train")


def claiming(side):
    """A PNG whose header says that it has side x side pixels."""
    raw = bytearray(picture(noise(4, 4)))
    raw[16:24] = struct.pack(">II", side, side)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


def test_a_bomb_of_pixels_is_refused_before_it_is_decoded(tmp_path):
    thin = Image.new("L", (1, 170_000))
    files = (picture(thin), "1x170000, of which the middle"), (claiming(40_000), "exceeds limit")
    for file, reason in files:
        root = write_files(tmp_path / "set", {"a.png": picture(noise(4, 4)), "z.png": file})[0]
        with pytest.raises(UsageError, match=rf"z\.png .*{reason}.*on_error=skip"):
            Folder(root, size=256, test_fraction=0).split("train")
        assert len(Folder(root, size=256, test_fraction=0, on_error="skip").split("train")) == 1


def test_a_long_picture_is_cut_before_it_would_grow_long(monkeypatch):
    long = Image.fromarray(noise(4, 60))
    whole = Decoder(1, 32).pixels(long)
    monkeypatch.setattr("diffgen.dataset.decode.LONGEST", 1000)
    cut = Decoder(1, 32).pixels(long)
    assert cut.shape == whole.shape
    assert_close(cut[:, :, 4:-4], whole[:, :, 4:-4], rtol=0, atol=1)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("diffgen.dataset.decode.LARGE", 15)
    inside, most = [0], [0]

    def counted(self, image):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1
        return np.zeros((1, 4, 4), np.uint8)

    monkeypatch.setattr(Decoder, "pixels", counted)
    files = {f"{n}.png": picture(noise(4, 4)) for n in range(20)}
    Folder(write_files(tmp_path / "set", files)[0]).split("train")
    assert most == [1]


@pytest.mark.parametrize("memory_limit", [4.0, 0.0], ids=["in-memory", "streamed"])
def test_damaged_files_are_left_out_where_that_is_wanted(tmp_path, memory_limit, caplog):
    """In memory they are not there; streamed, the next image of the same class stands for them."""
    made = [noise(32, 32, 3, seed=n) for n in range(8)]
    files = {f"{'ab'[n % 2]}/{n}.png": picture(pixels) for n, pixels in enumerate(made)}
    files["a/0.png"] = files["a/0.png"][:200]
    files["b/7.png"] = b"rubbish"
    root = write_files(tmp_path / "set", files)[0]
    settings = {"size": 32, "channels": 3, "test_fraction": 0, "memory_limit": memory_limit}
    images = Folder(root, **settings, on_error="skip").split("train")
    names = sorted(files)
    shown = [2, 2, 4, 6, 1, 3, 5, 1] if memory_limit == 0 else [2, 4, 6, 1, 3, 5]
    assert_close(pixels_of(images), channels_first([made[n] for n in shown]))
    assert images.labels.tolist() == [n % 2 for n in shown]
    assert names[0] in caplog.text
    with pytest.raises(UsageError, match=r"a/0.png .*; dataset.on_error=skip leaves such"):
        pixels_of(Folder(root, **settings).split("train"))


def test_a_set_of_which_nothing_can_be_read_is_refused(tmp_path):
    root = write_files(tmp_path / "set", {f"{n}.png": b"rubbish" for n in range(3)})[0]
    for settings in ({}, {"size": 4, "channels": 1}):
        with pytest.raises(UsageError, match=r"none of 3 images can be read, .* 0.png"):
            Folder(root, **settings, test_fraction=0, on_error="skip").split("train")
    streamed = Folder(root, 4, 1, memory_limit=0, test_fraction=0, on_error="skip")
    with pytest.raises(UsageError, match="nor any other"):
        streamed.split("train").at(torch.tensor([1]))


def test_an_error_ends_all_threads(tmp_path):
    done = []

    def work(number):
        if number == 3:
            raise UsageError("three")
        done.append(number)
        time.sleep(0.001)

    with pytest.raises(UsageError, match="three"):
        in_threads(work, 100_000)
    assert len(done) < 50_000


@pytest.mark.parametrize("delay", [0, 0.0005, 0.005, 0.05])
def test_a_signal_while_images_are_decoded_ends_the_run(delay):
    """Whenever it comes: each image once had a future, and a lock was left taken."""
    before = {*threading.enumerate()}
    clock = Timer(delay, os.kill, (os.getpid(), signal.SIGINT))

    def read() -> None:
        clock.start()
        in_threads(lambda number: time.sleep(0.0005), 100_000)

    with pytest.raises(KeyboardInterrupt):
        read()
    for _ in range(600):  # one may be about to start, and cannot be joined then
        if not any(thread.is_alive() for thread in {*threading.enumerate()} - before):
            break
        time.sleep(0.1)
    else:
        pytest.fail("threads that decode outlive the run")


def test_sizes_that_differ_are_named_with_the_remedy(tmp_path):
    wide, tall = noise(8, 20, 3), noise(30, 10, 3)
    root = write_files(tmp_path / "mixed", {"a.png": picture(wide), "b.png": picture(tall)})[0]
    with pytest.raises(UsageError, match=r"a.png is 20x8, b.png is 10x30; set dataset.size=N"):
        Folder(root).split("train")
    images = Folder(root, size=6, test_fraction=0).split("train")
    papers = Compose([Resize(6), CenterCrop(6)])
    expected = [np.asarray(papers(Image.fromarray(pixels))) for pixels in (wide, tall)]
    assert_close(images.pixels, channels_first(expected))


def only(tmp_path, image, **settings):
    root = write_files(
        tmp_path / "one", {"x.png": image if isinstance(image, bytes) else picture(image)}
    )
    return Folder(root[0], test_fraction=0, **settings).split("train").pixels[0]


def test_bit_depths_and_palettes(tmp_path):
    grey = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    deep = np.array([[0, 129, 65535]], np.uint16)  # 128.5 is where 1 begins
    assert_close(only(tmp_path, Image.fromarray(deep)), grey)
    bits = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
    assert only(tmp_path, bits).tolist() == [[[0, 255, 255]]]
    palette = Image.fromarray(np.array([[1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert only(tmp_path, palette)[:, 0].tolist() == [[200, 10], [100, 20], [50, 30]]
    luma = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in [(200, 100, 50), (10, 20, 30)]]
    assert only(tmp_path, palette, channels=1).tolist() == [[luma]]
    assert_close(
        only(tmp_path, noise(2, 3), channels=3), torch.from_numpy(noise(2, 3)).expand(3, 2, 3)
    )


@pytest.mark.parametrize("memory_limit", [4.0, 0.0], ids=["in-memory", "streamed"])
@pytest.mark.parametrize(
    ("white", "kind"), [(4095, np.uint16), (255, np.uint16), (255, np.int32), (1, np.uint8)]
)
def test_greys_in_a_corner_of_their_range_are_said_and_scaled(
    tmp_path, caplog, white, kind, memory_limit
):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    (tmp_path / "set").mkdir()
    Image.fromarray((white * ramp).astype(kind)).save(tmp_path / "set" / "a.tif")
    settings = {"root": str(tmp_path / "set"), "test_fraction": 0, "memory_limit": memory_limit}
    Folder(**settings).split("train")
    assert (
        f"nearly black: no byte is above {np.rint(white / 257):.0f}" in caplog.text or white == 1
    )
    assert f"dataset.window=[0,{white}] makes {white} white" in caplog.text
    caplog.clear()
    found = pixels_of(Folder(**settings, window=(0, white)).split("train"))
    assert (
        found.flatten().tolist()
        == np.rint((white * ramp).astype(kind) / white * 255).flatten().tolist()
    )
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def deep_png(path, values):
    """A PNG of 16 bits per channel, which Pillow does not write: uint16 (H, W, C)."""
    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    parts += (b"IDAT", zlib.compress(lines), b"IEND", b"")
    text = b"\x89PNG\r\n\x1a\n"
    for name, data in zip(parts[::2], parts[1::2], strict=True):
        check = struct.pack(">I", zlib.crc32(name + data))
        text += struct.pack(">I", len(data)) + name + data + check
    path.write_bytes(text)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colours_in_a_corner_of_their_range_are_said_and_scaled(tmp_path, caplog, channels):
    values = (4095 * noise(8, 8, channels).astype(float) / 255).astype(np.uint16)
    if channels % 2 == 0:
        values[..., -1] = np.where(values[..., -1] > 2000, 65535, 0)
    (tmp_path / "set").mkdir()
    deep_png(tmp_path / "set" / "a.png", values)
    wanted = 4 if channels % 2 == 0 else 3
    settings = {"root": str(tmp_path / "set"), "test_fraction": 0, "channels": wanted}
    if wanted == 3:  # else transparent pixels are white
        Folder(**settings).split("train")
        assert "nearly black: no byte is above 15" in caplog.text
        assert "dataset.window=[0,4095] makes 4095 white" in caplog.text
    found = pixels_of(Folder(**settings, window=(0, 4095)).split("train"))[0]
    right = np.rint(values / 4095 * 255)
    if channels % 2 == 0:
        right[..., -1] = values[..., -1] // 257
        right = right[..., [0, 0, 0, 1]] if channels == 2 else right
    assert_close(found, torch.from_numpy(right.transpose(2, 0, 1)).to(torch.uint8))


def test_a_window_scales_dark_colours_of_8_bits_and_leaves_one_bit(tmp_path, caplog):
    (tmp_path / "set").mkdir()
    Image.fromarray(noise(8, 8, 3) // 32).save(tmp_path / "set" / "a.png")
    settings = {"root": str(tmp_path / "set"), "test_fraction": 0}
    Folder(**settings).split("train")
    assert "dataset.window=[0,7] makes 7 white" in caplog.text
    Image.fromarray(noise(8, 8) > 99).save(tmp_path / "set" / "b.png")
    found = pixels_of(Folder(**settings, window=(0, 7)).split("train"))
    right = np.rint(noise(8, 8, 3) // 32 / 7 * 255).transpose(2, 0, 1)
    assert_close(found[0], torch.from_numpy(right).byte())
    assert_close(found[1][0] == 255, torch.from_numpy(noise(8, 8) > 99))


def test_a_window_opens_values_of_any_kind(tmp_path):
    """Floats and negative numbers, as of X-rays; without one they are refused with the remedy."""
    (tmp_path / "set").mkdir()
    values = np.array([[-1000, -300, 400]])
    for kind in (np.int32, np.float32):
        Image.fromarray(values.astype(kind)).save(tmp_path / "set" / "a.tif")
        with pytest.raises(UsageError, match=r"from -1000 to 400.*dataset.window=\[BLACK,WHITE\]"):
            Folder(str(tmp_path / "set"), test_fraction=0).split("train")
        scaled = Folder(str(tmp_path / "set"), window=(-300, 400), test_fraction=0)
        assert scaled.split("train").pixels.tolist() == [[[[0, 0, 255]]]]
    Image.fromarray(np.array([[np.nan]], np.float32)).save(tmp_path / "set" / "a.tif")
    with pytest.raises(UsageError, match="not finite"):
        Folder(str(tmp_path / "set"), window=(-300, 400), test_fraction=0).split("train")


def test_transparency_lies_over_white_unless_it_is_wanted(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert only(tmp_path, pixels)[:, 0].T.tolist() == [[10, 20, 30], [255] * 3, [204] * 3]
    assert_close(only(tmp_path, pixels, channels=4), channels_first([pixels])[0])
    grey = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert only(tmp_path, grey).tolist() == [[[204]]]


def test_a_camera_held_upright_is_turned(tmp_path):
    pixels = noise(2, 5, 3)
    image, file = Image.fromarray(pixels), io.BytesIO()
    tags = image.getexif()
    tags[0x0112] = 6
    image.save(file, "png", exif=tags)
    turned = np.rot90(pixels, -1)
    assert_close(only(tmp_path, file.getvalue()), channels_first([turned.copy()])[0])


def test_one_picture_in_colour_makes_the_set_colour(tmp_path):
    files = {"a.png": picture(noise(4, 4)), "b.png": picture(noise(4, 4, 3))}
    images = Folder(write_files(tmp_path / "set", files)[0], test_fraction=0).split("train")
    assert images.pixels.shape == (2, 3, 4, 4)
    assert_close(images.pixels[0], torch.from_numpy(noise(4, 4)).expand(3, 4, 4))


def damaged(name, content):
    """A stored (uncompressed) zip with one byte of that file changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    raw = bytearray(file.getvalue())
    raw[len(name) + 30 + len(content) - 2] ^= 255
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"rubbish", "neither a folder nor a readable zip"),
        (b"", "neither a folder nor a readable zip"),
        (damaged("a.png", picture(noise(4, 4, 3))), "cannot read image a.png in .*CRC"),
    ],
    ids=["rubbish", "empty", "one-byte"],
)
def test_a_damaged_zip_is_said_in_one_line(tmp_path, content, problem):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Folder(str(tmp_path / "set.zip"), test_fraction=0).split("train")
    assert caught.match(problem)
    assert caught.match("set.zip")
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_said_in_one_line_from_a_worker_too(tmp_path):
    whole = picture(noise(32, 32, 3))
    root = write_files(tmp_path / "set", {"a.png": whole, "b.png": whole[: len(whole) // 2]})[0]
    streamed = Folder(root, test_fraction=0, memory_limit=0).split("train")
    for workers in (0, 1):
        with pytest.raises(UsageError, match=r"^cannot read image b.png in [^\n]*$"):
            list(Loader(Batches(streamed, 2, 0), 0, 1, workers))


def test_a_streamed_fingerprint_follows_the_files_and_the_settings(tmp_path):
    root = write_files(tmp_path / "set", {f"{n}.png": picture(noise(4, 4)) for n in range(3)})[0]

    def fingerprint(**settings):
        source = Folder(root, test_fraction=0, memory_limit=0, **settings)
        return source.split("train").fingerprint

    first = fingerprint()
    assert first == fingerprint() != fingerprint(size=2)
    (tmp_path / "set" / "1.png").write_bytes(picture(noise(4, 4, seed=1)))
    assert fingerprint() != first


def test_a_fingerprint_in_memory_follows_pixels_shape_and_labels():
    pixels, labels = torch.from_numpy(noise(6, 1, 2, 3)), torch.arange(6)
    other = pixels.clone()
    other[5, 0, 1, 2] ^= 1
    made = [
        in_memory(pixels, labels, (), "x"),
        in_memory(other, labels, (), "x"),
        in_memory(pixels.view(6, 1, 3, 2), labels, (), "x"),
        in_memory(pixels, labels.flip(0), (), "x"),
        in_memory(pixels, None, (), "x"),
    ]
    assert len({images.fingerprint for images in made}) == 5
    assert in_memory(pixels.clone(), labels, (), "y").fingerprint == made[0].fingerprint


def test_a_test_set_that_does_not_fit_is_said_before_the_training(tmp_path):
    names = ["train/cat/1.png", "train/dog/1.png", "test/owl/1.png"]
    root = write_files(tmp_path / "set", {name: picture(noise(4, 4)) for name in names})[0]
    with pytest.raises(UsageError, match=r"test/owl/1.png .* lies in no folder of cat, dog"):
        Folder(root).split("train")
    with pytest.raises(UsageError, match=r"no folder or zip of images at .*away"):
        Folder(root, test_root=str(tmp_path / "away")).split("train")


def test_a_set_is_described_in_one_line(tmp_path):
    names = ["new\nline/1.png", "\udcff/1.png", "猫/1.png", "猫/2.png"]
    for name in names:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(noise(4, 4)))
    images = Folder(str(tmp_path / "set"), test_fraction=0).split("train")
    text = described(images)
    assert text == "4 images of 4x4, grey, in 3 classes: new\\nline (1), 猫 (2), \\udcff (1)"
    one = in_memory(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), None, (), "x")
    assert described(one) == "1 image of 2x2, in colour, without labels"
    many = in_memory(torch.zeros(99, 1, 2, 2), torch.arange(99), tuple(map(str, range(99))), "x")
    assert described(many).endswith("10 (1), 11 (1), ...")


def test_a_measure_that_images_cannot_give_is_refused(tmp_path):
    """Of one image there is no distance, and of one grey no deviation."""
    same = in_memory(torch.full((3, 1, 4, 4), 9, dtype=torch.uint8), None, (), "same")
    for words, problem in (
        (("model=ncsnv2",), "no two images of same differ"),
        (("model=edm",), "the images are all of one grey"),
    ):
        with pytest.raises(UsageError, match=problem):
            resolved(tree("train", *words, f"cache={tmp_path}"), same)


@pytest.mark.parametrize(
    "settings",
    [
        {"test_fraction": 1.0},
        {"test_fraction": -0.1},
        {"size": 0},
        {"size": 10**9},
        {"window": (255, 255)},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UsageError, match=f"dataset.{next(iter(settings))}="):
        Folder("data", **settings)


# --- the papers' crops and splits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "papers"),
    [
        ({"crop": "ncsn", "size": 32}, Compose([CenterCrop(140), Resize(32)])),
        ({"crop": "ncsn", "size": 64}, Compose([CenterCrop(140), Resize(64)])),
        ({}, Compose([lambda image: crop(image, 121 - 64, 89 - 64, 128, 128), Resize(64)])),
    ],
    ids=["ncsn", "ncsnv2", "ddim"],
)
def test_celeba_is_cut_as_the_papers_cut_it(tmp_path, settings, papers):
    made = [noise(218, 178, 3, seed=seed) for seed in range(4)]
    files = {f"img_align_celeba/{n}.jpg": picture(pixels) for n, pixels in enumerate(made)}
    files["list_eval_partition.txt"] = b"0.jpg 0\n1.jpg 1\n2.jpg 2\n3.jpg 0\n"
    write_files(tmp_path / "celeba", files)
    source = Celeba(str(tmp_path), **settings)
    for which, chosen in (("train", [0, 3]), ("test", [2])):
        expected = [np.asarray(papers(Image.fromarray(made[n]))) for n in chosen]
        assert_close(source.split(which).pixels, channels_first(expected))
    cuts = [
        Celeba(str(tmp_path), crop=crop, memory_limit=0).split("train")
        for crop in ("ncsn", "ddim")
    ]
    assert cuts[0].fingerprint != cuts[1].fingerprint


def test_ffhq_is_split_by_numpys_seed_2019(tmp_path):
    files = {f"0/{n:05d}.png": picture(np.full((4, 4, 3), n, np.uint8)) for n in range(24)}
    write_files(tmp_path / "ffhq", files)
    state = np.random.get_state()
    np.random.seed(2019)
    order = list(range(24))
    np.random.shuffle(order)
    np.random.set_state(state)
    source = Ffhq(str(tmp_path), size=4)
    assert source.split("train").pixels[:, 0, 0, 0].tolist() == order[:21]
    assert source.split("test").pixels[:, 0, 0, 0].tolist() == order[21:]


class FakeLmdb:
    """As much of lmdb as a reader needs, over a dictionary; refuses to be opened twice at once."""

    def __init__(self, content):
        self.content, self.is_open = content, False

    def open(self, path, readonly, lock, readahead):
        assert (Path(path).is_dir(), readonly, lock, self.is_open) == (True, True, False, False)
        self.is_open = True
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.is_open = False

    def begin(self):
        reading = SimpleNamespace(get=self.content.get, cursor=lambda: reading)
        reading.iternext = lambda keys, values: iter(sorted(self.content))
        return nullcontext(reading)


@pytest.mark.parametrize("memory_limit", [4.0, 0.0], ids=["in-memory", "streamed"])
def test_lsun_from_a_database_and_from_a_folder(tmp_path, monkeypatch, memory_limit):
    made = [noise(40, 30, 3), noise(20, 50, 3, seed=1)]
    papers = Compose([Resize(16), CenterCrop(16)])
    expected = channels_first([np.asarray(papers(Image.fromarray(pixels))) for pixels in made])
    source = Lsun(str(tmp_path), category="tower", size=16, memory_limit=memory_limit)

    write_files(
        tmp_path / "lsun" / "tower_val", {f"{n}.png": picture(p) for n, p in enumerate(made)}
    )
    assert_close(pixels_of(source.split("test")), expected)

    database = tmp_path / "lsun" / "tower_train_lmdb"
    database.mkdir()
    (database / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match=r"pip install 'diffgen\[lsun\]'"):
        source.split("train")
    content = {f"{n}f3a".encode(): picture(pixels) for n, pixels in enumerate(made)}
    monkeypatch.setitem(sys.modules, "lmdb", FakeLmdb(content))
    images = source.split("train")
    assert_close(pixels_of(images), expected)
    assert images.name == "lsun_tower"


@pytest.mark.parametrize("kind", ["EPS", "PDF"])
def test_a_file_that_a_program_would_have_to_run_for_is_no_picture(kind, tmp_path):
    """Pillow starts Ghostscript for EPS, whatever the file is called."""
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", format=kind)
    with pytest.raises(UsageError, match=r"cannot read image b\.png"):
        Folder(str(tmp_path), size=8, test_fraction=0.0).split("train")
