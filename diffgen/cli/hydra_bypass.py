"""A way past Hydra for errors."""

from collections.abc import Iterator
from contextlib import contextmanager


class Past(BaseException):
    """Carries its cause out of Hydra, which makes a warning of an Exception in a callback and
    announces one of a single job in words of its own."""


@contextmanager
def past() -> Iterator[None]:
    """Lets every error through Hydra."""
    try:
        yield
    except Exception as error:
        raise Past from error
