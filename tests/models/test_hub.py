"""Repositories of the hub, from a cache that looks as huggingface_hub leaves it; the network is never reached."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.conftest import QUICK, TINY
from torch import Tensor

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, export_model, hub, load_encoder
from mmpoison.models.architectures import MODELS
from mmpoison.models.open_clip_build import resolve_text_model

Embed = Callable[[DualEncoder], Tensor]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], Path]:
    """A function that puts a folder into the cache as a repository."""
    from huggingface_hub import constants

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)

    def put(repository: str, folder: Path) -> Path:
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(COMMIT)
        return Path(shutil.copytree(folder, home / "snapshots" / COMMIT))

    return put


@pytest.mark.parametrize(
    "name", ["clip-vit-b32", "hf-hub:owner/tiny", "ViT-B-32:laion2b_s34b_b79k"]
)
def test_without_a_network_it_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """huggingface_hub would try each file six times: a minute, and twenty lines."""
    from huggingface_hub import constants

    tries: list[object] = []

    def no_network(*arguments: Any, **__: Any) -> None:
        tries.append(arguments)
        raise OSError("no network")

    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    hub._is_reached.cache_clear()
    try:
        with pytest.raises(
            InputError, match="is not on this machine and cannot be downloaded"
        ) as error:
            load_encoder(name)
    finally:
        hub._is_reached.cache_clear()
    assert "no connection to huggingface.co" in str(error.value)
    assert len(tries) == 1
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.parametrize("format", ["open-clip", "transformers"])
def test_repositories_of_both_kinds(
    cache: Callable[[str, Path], Path],
    quick: DualEncoder,
    embed: Embed,
    tmp_path: Path,
    format: Any,
) -> None:
    cache("owner/tiny", export_model(quick, tmp_path / "out", format))
    for name in ("hf-hub:owner/tiny", f"hf-hub:owner/tiny@{COMMIT}", "hf-hub:owner/tiny@main"):
        encoder = load_encoder(name)
        torch.testing.assert_close(embed(encoder), embed(quick), atol=1e-5, rtol=0)
        assert encoder.name == "hf-hub:owner/tiny"


def test_what_is_not_in_the_cache(cache: Callable[[str, Path], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^'owner/none' is not on this machine and cannot be"):
        load_encoder("hf-hub:owner/none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    cache("owner/empty", tmp_path / "empty")
    with pytest.raises(InputError, match=r"^'owner/empty' is not on this machine and cannot be"):
        load_encoder("hf-hub:owner/empty")


def test_the_papers_models_are_found_in_the_cache(
    cache: Callable[[str, Path], Path],
    quick: DualEncoder,
    embed: Embed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`clip-vit-b32` is OpenAI's weights in the architecture with QuickGELU."""
    from open_clip import factory

    source = MODELS["clip-vit-b32"]
    assert not source.is_here()
    repository = source.origin.removeprefix("https://huggingface.co/")
    # the tiny model plays ViT-B-32
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", factory._MODEL_CONFIGS[QUICK])
    folder = cache(repository, export_model(quick, tmp_path / "out", "open-clip"))
    assert source.is_here()
    encoder = load_encoder("clip-vit-b32")
    assert torch.equal(embed(encoder), embed(quick))
    assert encoder.name == "clip-vit-b32"
    assert encoder.config["mmpoison"]["source"] == "ViT-B-32-quickgelu:openai"
    # a file in the cache is known by its repository, wherever the name is put
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-32", factory._MODEL_CONFIGS[TINY])
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(InputError, match=r"use ViT-B-32-quickgelu$"):
        load_encoder(f"ViT-B-32@{folder / 'open_clip_model.safetensors'}")


@pytest.mark.parametrize("name", ["clip-vit-b32", "clip-vit-b16", "clip-vit-l14"])
def test_the_papers_models_use_quick_gelu(name: str) -> None:
    from open_clip import pretrained

    from mmpoison.models.architectures import architecture_config

    architecture = MODELS[name].summary.split("; ")[1].removesuffix(":openai")
    assert architecture_config(architecture)["quick_gelu"] is True
    tag = pretrained.get_pretrained_cfg(architecture, "openai")
    assert tag["quick_gelu"] is True
    assert MODELS[name].origin == f"https://huggingface.co/{tag['hf_hub'].strip('/')}"


def test_text_models_in_the_cache(cache: Callable[[str, Path], Path], tmp_path: Path) -> None:
    """A checkpoint fetches nothing, but takes what is there."""
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    folder = cache("owner/bert", tmp_path / "bert")
    for fetch in (True, False):
        assert resolve_text_model("owner/bert", fetch=fetch) == folder
    with pytest.raises(InputError, match="cannot be downloaded"):
        resolve_text_model("owner/none", fetch=True)
    with pytest.raises(InputError, match="a checkpoint may not download anything"):
        resolve_text_model("owner/none")
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "code.Model"}}')
    with pytest.raises(InputError, match="names code to run"):
        resolve_text_model("owner/bert", fetch=True)
