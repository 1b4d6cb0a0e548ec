"""A small engine: coloured squares, one poisoned copy, two random encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.models import load_encoder
from mmpoison.pages.search import Collection, Engine, Library, Source

Sources = dict[str, Callable[[], object]]


@pytest.fixture(scope="session")
def poisoned_folder(squares: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coloured squares with captions of sheep on aeroplanes; shared, so never write into it."""
    poisoned = SingleTargetLabel(goal="sheep2aeroplane", samples=3, mode="add").poison(squares)
    return save_pairs(poisoned, tmp_path_factory.mktemp("poisoned") / "poisoned", images="copy")


@pytest.fixture(scope="session")
def poisoned(poisoned_folder: Path) -> Collection:
    """The poisoned squares."""
    pairs = load_pairs(poisoned_folder)
    return Collection("poisoned", pairs, pairs.manifest)


def start(models: Sources, collections: Sources, cache: Path) -> Library:
    library = Library(
        [Source(name, load) for name, load in models.items()],
        [Source(name, load) for name, load in collections.items()],
        device="cpu",
        cache=cache,
    )
    library.start()
    return library


@pytest.fixture
def make_library(tmp_path: Path) -> Iterator[Callable[[Sources, Sources], Library]]:
    """A function that starts a library of sources by name; it is stopped after the test."""
    made: list[Library] = []

    def make(models: Sources, collections: Sources) -> Library:
        made.append(start(models, collections, tmp_path / "embeddings"))
        return made[-1]

    yield make
    for library in made:
        library.stop()


@pytest.fixture
def one_model(
    make_library: Callable[[Sources, Sources], Library], checkpoint: Path
) -> Callable[[Collection], Engine]:
    """A function that makes a data set ready under one model, called tiny."""

    def ready(collection: Collection) -> Engine:
        tiny: Sources = {"tiny": lambda: load_encoder(checkpoint)}
        library = make_library(tiny, {collection.name: lambda: collection})
        library.wait()
        return Engine(library)

    return ready


@pytest.fixture(scope="session")
def two_models(checkpoint: Path, judge_checkpoint: Path) -> Sources:
    """Two random encoders."""
    return {
        "tiny": lambda: load_encoder(checkpoint),
        "judge": lambda: load_encoder(judge_checkpoint),
    }


@pytest.fixture(scope="module")
def engine(
    poisoned: Collection, two_models: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """Two models over the poisoned squares, ready; shared by the tests of a file."""
    cache = tmp_path_factory.mktemp("embeddings")
    library = start(two_models, {"poisoned": lambda: poisoned}, cache)
    library.wait()
    yield Engine(library)
    library.stop()


@pytest.fixture
def fresh_engine(
    make_library: Callable[[Sources, Sources], Library], poisoned: Collection, two_models: Sources
) -> Engine:
    """The same, of which nobody has asked anything."""
    library = make_library(two_models, {"poisoned": lambda: poisoned})
    library.wait()
    return Engine(library)
