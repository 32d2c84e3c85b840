"""Many image files as one set: looked through, then decoded into memory or on access."""

import logging
from collections.abc import Callable, Sequence
from os import cpu_count
from threading import Event, Thread

import torch
from torch import Tensor

from diffgen.dataset.decode import Decoder, header, largest_value
from diffgen.dataset.images import Images, fingerprint_of, in_memory
from diffgen.dataset.store import Store
from diffgen.dataset.streamed import REMEDY, OnError, Streamed, size_text
from diffgen.errors import UsageError

GIB = 2**30
LOOKED_AT = 32  # images of a streamed set that tell how bright it is
DARK = 64  # a set without brighter bytes fills a quarter of the range
log = logging.getLogger(__name__)


def gather(
    store: Store,
    names: Sequence[str],
    decoder: Decoder,
    shape: tuple[int, int, int],
    name: str,
    memory_limit: float,
    labels: Tensor | None = None,
    classes: tuple[str, ...] = (),
    on_error: OnError = "fail",
) -> Images:
    """The images, each of `shape` (C, H, W), in memory or streamed.

    In memory where N*C*H*W bytes are at most `memory_limit` GiB. With `on_error` "skip" files
    that cannot be read are left out, or as Streamed says.
    """
    streamed = Streamed(store, names, decoder, (len(names), *shape), labels, on_error)
    if torch.Size(streamed.shape).numel() > memory_limit * GIB:
        images = Images(streamed, labels, classes, name, _fingerprint(streamed, labels))
    else:
        log.info("decoding %d images of %s into memory", len(names), name)
        pixels, kept = _decoded(streamed)
        found = None if labels is None else labels[kept]
        images = in_memory(pixels, found, classes, name)
    _tell_dark(images, streamed)
    return images


def _decoded(streamed: Streamed) -> tuple[Tensor, Tensor]:
    """The pixels of the images that can be read, and their numbers; at least one."""
    try:
        pixels = torch.empty(streamed.shape, dtype=torch.uint8)
    except RuntimeError as error:
        size = torch.Size(streamed.shape).numel() / GIB
        text = f"no memory for {size:.1f} GiB of images"
        raise UsageError(text, "lower dataset.memory_limit") from error
    damaged: dict[int, UsageError] = {}

    def read(number: int) -> None:
        try:
            streamed.read(number, pixels[number])
        except UsageError as error:
            if streamed.on_error == "fail":
                raise UsageError(error.what, error.remedy or REMEDY) from error
            damaged[number] = error

    in_threads(read, len(pixels))
    if not damaged:
        return pixels, torch.arange(len(pixels))
    kept = torch.tensor([n for n in range(len(pixels)) if n not in damaged], dtype=torch.long)
    tell_skipped(damaged, len(pixels))
    return pixels[kept], kept


def tell_skipped(damaged: dict[int, UsageError], count: int) -> None:
    """Counts the images that are left out in the log; UsageError where none is left."""
    first = damaged[min(damaged)]
    if len(damaged) == count:
        raise UsageError(
            f"none of {count} images can be read, the first: {first.what}", first.remedy
        )
    log.warning("%d of %d images are left out; the first: %s", len(damaged), count, first.what)


def survey(
    store: Store,
    names: Sequence[str],
    size: int | None,
    channels: int | None,
    on_error: OnError = "fail",
) -> tuple[list[str], tuple[int, int, int]]:
    """The names, and the (C, H, W) that all will have; headers are read for what is not given.

    Without `channels`, 3 where any file is in colour, else 1. UsageError, naming two files, where
    they differ in size and no `size` is given. With `on_error` "skip", files without a header
    that can be read are left out.
    """
    if size is not None and channels is not None:
        return list(names), (channels, size, size)
    found: dict[int, tuple[int, int, bool]] = {}
    damaged: dict[int, UsageError] = {}

    def read(number: int) -> None:
        try:
            found[number] = header(store, names[number])
        except UsageError as error:
            if on_error == "fail":
                raise UsageError(error.what, error.remedy or REMEDY) from error
            damaged[number] = error

    in_threads(read, len(names))
    if damaged:
        tell_skipped(damaged, len(names))
    names = [names[number] for number in sorted(found)]
    headers = [found[number] for number in sorted(found)]
    sizes = [(height, width) for height, width, _ in headers]
    if size is None and len(set(sizes)) > 1:
        other = next(number for number, each in enumerate(sizes) if each != sizes[0])
        raise UsageError(
            f"the images in {store.path} differ in size: {names[0]} is {size_text(*sizes[0])}, "
            f"{names[other]} is {size_text(*sizes[other])}",
            "set dataset.size=N to resize them",
        )
    channels = channels or (3 if any(colour for _, _, colour in headers) else 1)
    return names, ((channels, size, size) if size else (channels, *sizes[0]))


def _tell_dark(images: Images, streamed: Streamed) -> None:
    """Says in the log where bytes fill a corner of their range, with the key that scales them."""
    rows = torch.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).long()
    try:
        brightest = int(images.at(rows).max())
        if brightest >= DARK:
            return
        if isinstance(images.pixels, Tensor) and (brightest := int(images.pixels.max())) >= DARK:
            return
        names = [streamed.names[int(row)] for row in rows]
        highest = max(largest_value(streamed.store, name) for name in names)
    except UsageError:  # said where the image is wanted
        return
    remedy = "; rewrite the files so that their values fill the range"
    if streamed.decoder.window is None and highest:
        white = 2 ** highest.bit_length() - 1
        remedy = f"; dataset.window=[0,{white}] makes {white} white"
    text = "the images of %s are nearly black: no byte is above %d of 255%s"
    log.warning(text, images.name, brightest, remedy)


def _fingerprint(streamed: Streamed, labels: Tensor | None) -> str:
    numbers = None if labels is None else labels.tolist()
    window = [streamed.decoder.window] if streamed.decoder.window else []
    return fingerprint_of(
        repr((streamed.decoder, streamed.shape, streamed.stamps(), numbers, *window))
    )


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Calls `work` with 0 to count - 1 in a few threads; an error or a signal ends all of them.

    Pillow decodes outside the interpreter's lock. A pool has locks of its own, which a signal can
    leave taken; here the threads share nothing but the word that it is over.
    """
    workers, ended = min(count, (cpu_count() or 1) + 4, 32), Event()
    errors: dict[int, BaseException] = {}

    def share(first: int) -> None:
        try:
            for number in range(first, count, workers):
                if ended.is_set():
                    return
                work(number)
        except BaseException as error:
            errors[first] = error
            ended.set()

    threads = [Thread(target=share, args=(first,), daemon=True) for first in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        ended.set()
    if errors:
        raise errors[min(errors)]
