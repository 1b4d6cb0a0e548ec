"""A small engine: coloured squares, one poisoned copy, two random encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.models import load_encoder
from mmpoison.search import Collection, Engine, Library, Source

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


@pytest.fixture
def make_library(tmp_path: Path) -> Iterator[Callable[..., Library]]:
    """A function that starts a library of sources by name; it is stopped after the test."""
    made: list[Library] = []

    def make(models: Sources, collections: Sources, *, cache: Path | None = None) -> Library:
        library = Library(
            [Source(name, load) for name, load in models.items()],
            [Source(name, load) for name, load in collections.items()],
            device="cpu",
            cache=cache or tmp_path / "embeddings",
        )
        made.append(library)
        library.start()
        return library

    yield make
    for library in made:
        library.stop()


@pytest.fixture
def engine(
    make_library: Callable[..., Library],
    poisoned: Collection,
    checkpoint: Path,
    judge_checkpoint: Path,
) -> Engine:
    """Two random models over the poisoned squares; ready."""
    library = make_library(
        {
            "tiny": lambda: load_encoder(checkpoint),
            "judge": lambda: load_encoder(judge_checkpoint),
        },
        {"poisoned": lambda: poisoned},
    )
    library.wait()
    return Engine(library)
