"""Counter-based random choices: functions of integer keys, the same on every machine.

They read the raw words of the Philox counter generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"): NumPy keeps that stream fixed, which neither NumPy's nor PyTorch's
`permutation` and `randint` promise.
"""

import numpy as np
from numpy.typing import NDArray


def words(count: int, *key: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words of the key; a negative key counts from 2^64."""
    entropy = [int(part) % 2**64 for part in key]
    return np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """The numbers 0 to count - 1 in the order of the key."""
    return np.argsort(words(count, *key), kind="stable")


def coins(count: int, *key: int) -> NDArray[np.bool_]:
    """`count` fair coins of the key; the first k of them do not depend on `count`."""
    return (words(count, *key) >> np.uint64(63)).astype(bool)
