"""Small trained runs, made once for all tests that sample or read checkpoints."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The user's cache folder of the whole session, in place of the real one."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFGEN_CACHE", str(folder))
        yield folder


def trained(folder: Path, *words: str) -> Path:
    from running import TINY, here, worked

    steps = ("trainer.max_steps=40", "trainer.log_every=5", "optimizer.warmup=5")
    done = worked(here(folder, "train", *TINY, *steps, "optimizer.lr=5e-3", *words))
    return folder / done.folder


@pytest.fixture(scope="session")
def ddpm(tmp_path_factory, cache):
    """The folder of a run of model=ddpm on digits, with two averages."""
    averages = ("ema.average.decay=0.9", "+ema.quick={decay: 0.5}")
    return trained(tmp_path_factory.mktemp("ddpm"), *averages)


@pytest.fixture(scope="session")
def ncsnv2(tmp_path_factory, cache):
    """The folder of a run of model=ncsnv2 on digits, with a ladder of 10 levels."""
    ladder = ("schedule=geometric", "schedule.sigma_max=5", "schedule.levels=10")
    return trained(tmp_path_factory.mktemp("ncsnv2"), "model=ncsnv2", *ladder)


@pytest.fixture(scope="session")
def flow(tmp_path_factory, cache):
    """The folder of a run of model=flow on digits."""
    return trained(tmp_path_factory.mktemp("flow"), "model=flow")


@pytest.fixture(scope="session")
def jit(tmp_path_factory, cache):
    """The folder of a run of model=jit, a transformer that gives the image, on digits."""
    from running import here, worked

    folder = tmp_path_factory.mktemp("jit")
    words = ("model=jit", "network.width=24", "network.depth=2", "trainer.accelerator=cpu")
    words += ("trainer.batch_size=16", "trainer.max_steps=20", "preview.every=0")
    done = worked(here(folder, "train", *words, "optimizer.warmup=5", "logger=none"))
    return folder / done.folder


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory, cache):
    """The folder of a run that learned no labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    return trained(folder, "model.labels=false", "trainer.max_steps=2")
