"""What the keys of cached results depend on: code, libraries, device and threads, by one function."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import squares_recipe

from mmpoison.base.content_cache import ContentCache, code_version, digest_of
from mmpoison.base.progress import SilentProgress
from mmpoison.datasets import PairDataset
from mmpoison.defenses.scan.read import embed as embed_source
from mmpoison.evaluation import TestSet
from mmpoison.evaluation.measure import embeddings_key
from mmpoison.models import (
    DualEncoder,
    compute_environment,
    prepare_features,
    prepare_pixels,
    save_checkpoint,
)
from mmpoison.pages.search import library as search
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_stages import stage_keys
from mmpoison.training import feed

STAGES = ("clean_model", "poisoned", "filter", "filtered", "sterilized")

Keys = Callable[[], dict[str, str]]


def keys_of(data: Path, model: Path, **groups: Any) -> Keys:
    """A function that gives the digest of every stage of a run."""
    training = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    repair = {"training": training, "curve": True}
    groups = {"training": training, "sterilize": repair, **groups}
    recipe = parse_recipe(squares_recipe(data, model, **groups), "test")
    run_cache = RunCache()
    run = prepare_run(recipe, run_cache, SilentProgress(), torch.device("cpu"))
    return lambda: {name: key.digest for name, key in stage_keys(run, run_cache).items()}


@pytest.fixture
def keys(square_folder: Path, checkpoint: Path, judge_checkpoint: Path) -> Keys:
    judge = {"method": "suspicious-groups", "encoder": str(judge_checkpoint)}
    make = keys_of(square_folder, checkpoint, filter=judge)
    assert tuple(make()) == STAGES
    return make


@pytest.fixture
def bump(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that pretends another version of a distribution is installed."""
    known = metadata.version

    def pretend(distribution: str) -> None:
        monkeypatch.setattr(
            metadata, "version", lambda name: known(name) + ".1" * (name == distribution)
        )
        code_version.cache_clear()

    yield pretend
    code_version.cache_clear()


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("library", ["torch", "open-clip-torch", "numpy", "scikit-learn"])
def test_another_version_of_a_library_makes_all_stages_anew(
    library: str, keys: Keys, bump: Callable[[str], None]
) -> None:
    before = keys()
    bump(library)
    assert changed(before, keys()) == set(STAGES)


def test_another_number_of_threads_makes_all_stages_anew(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert changed(before, keys()) == set(STAGES)


def test_another_start_or_image_makes_all_stages_anew(
    own_square_folder: Path, make_encoder: Callable[..., DualEncoder], tmp_path: Path
) -> None:
    """Nor are the same weights the same start when they are shown the images in another way."""
    start, found = tmp_path / "start", []
    for seed, interpolation in ((0, "bicubic"), (1, "bicubic"), (1, "bilinear")):
        encoder = make_encoder(seed)
        encoder.config["preprocess_cfg"]["interpolation"] = interpolation
        shutil.rmtree(start, ignore_errors=True)
        found.append(keys_of(own_square_folder, save_checkpoint(encoder, start, card=""))())
    shutil.copyfile(own_square_folder / "bird/00.png", own_square_folder / "sofa/00.png")
    found.append(keys_of(own_square_folder, start)())
    for before, after in itertools.pairwise(found):
        assert changed(before, after) == set(before)


def test_every_cache_of_outputs_knows_threads_device_and_code(
    squares: PairDataset, make_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: DualEncoder = make_encoder()
    inputs, test = prepare_pixels(encoder, squares), TestSet.of(squares)
    rows = test.gallery.astype("int64")[:3]
    few = squares.where(squares.image < 2)

    def feature_keys() -> dict[str, str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        prepare_features(encoder, few, cache=folder)
        entries = ContentCache(folder).entries("features")
        return {str(entry.about["name"]): entry.path.name for entry in entries}

    def digests() -> dict[str, str]:
        return {
            "pairs": digest_of(embed_source._Writer(tmp_path, encoder, joint=True)._identity),
            "embeddings": embeddings_key(encoder, inputs, test).digest,
            **feature_keys(),
            "frozen": feed._key(encoder, inputs, rows, "image", False).digest,
            "search": search.search_key(encoder, "images", "content").digest,
        }

    before = digests()
    assert len(set(before.values())) == len(before) == 6
    for owner, name, other in (
        (torch, "get_num_threads", lambda: 99),
        (compute_environment, "cpu_kind", lambda: "another CPU"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, other)
            assert changed(before, digests()) == set(before)
    assert digests() == before
    version = code_version("json")
    with monkeypatch.context() as patch:
        # what another version of the code gives
        patch.setattr(compute_environment, "code_version", lambda *made_by: version)
        assert changed(before, digests()) == set(before)
