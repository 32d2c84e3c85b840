"""Work on many files in a few threads, which end together."""

from collections.abc import Callable
from os import cpu_count
from threading import Event, Thread


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
