"""Work on many files in a few threads, which end together."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from threading import Event


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Calls `work` with 0 to count - 1 in a few threads; an error or a signal ends all of them.

    Pillow decodes outside the interpreter's lock. A future for each image would be thousands of
    places at which a signal can leave the pool locked.
    """
    workers, ended = min(count, (cpu_count() or 1) + 4, 32), Event()

    def share(first: int) -> None:
        try:
            for number in range(first, count, workers):
                if ended.is_set():
                    return
                work(number)
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(share, first) for first in range(workers)]:
                future.result()
        finally:
            ended.set()
