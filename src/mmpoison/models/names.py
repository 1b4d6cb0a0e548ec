"""Model names: one small grammar for the command line, recipes and Python.

clip-vit-b32                    a registered model
ViT-B-32-quickgelu:openai       an open_clip architecture with pre-trained weights by open_clip's tag
ViT-B-32-quickgelu@PATH         an open_clip architecture with weights from a file
ViT-B-32:random                 an open_clip architecture with random weights (random-7: of seed 7)
hf-hub:owner/name               a repository on the Hugging Face hub (hf-hub:owner/name@REVISION)
PATH                            a folder or a file on this machine
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpoison.errors import InputError

HUB_PREFIX = "hf-hub:"
LOCAL_PREFIX = "local-dir:"
_RANDOM = re.compile(r"random(?:-(\d+))?")

Kind = Literal["name", "tag", "file", "random", "hub", "path"]


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name.

    Attributes:
        kind: The line of the grammar that it matches.
        head: The registered name, the architecture, the repository, or the path.
        tail: The tag, the file or the revision.
        seed: Seed of random weights.
    """

    kind: Kind
    head: str
    tail: str = ""
    seed: int = 0


def parse_model_name(text: str) -> ModelName:
    """Split a model's name into its parts; only for paths it checks that they exist.

    >>> parse_model_name("ViT-B-32-quickgelu:openai")
    ModelName(kind='tag', head='ViT-B-32-quickgelu', tail='openai', seed=0)
    >>> parse_model_name("ViT-B-32:random-7").seed
    7
    >>> parse_model_name("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K").head
    'laion/CLIP-ViT-B-32-laion2B-s34B-b79K'

    Raises:
        InputError: If a part is missing.
    """
    if text.startswith(HUB_PREFIX):
        repository, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
            raise InputError(
                f"model {text!r}: {HUB_PREFIX} needs a repository, e.g. hf-hub:owner/name"
            )
        return ModelName("hub", repository, revision)
    if text.startswith(LOCAL_PREFIX):
        return ModelName("path", text.removeprefix(LOCAL_PREFIX))
    if Path(text).exists():
        return ModelName("path", text)
    architecture, at, file = text.partition("@")
    if at and "/" not in architecture:
        if not architecture or not file:
            raise InputError(f"model {text!r}: write ARCHITECTURE@FILE")
        return ModelName("file", architecture, file)
    if "/" in text or "\\" in text:
        return ModelName("path", text)
    architecture, colon, tag = text.partition(":")
    if colon:
        if not architecture or not tag:
            raise InputError(
                f"model {text!r}: write ARCHITECTURE:TAG, e.g. ViT-B-32-quickgelu:openai"
            )
        if match := _RANDOM.fullmatch(tag):
            return ModelName("random", architecture, tag, int(match[1] or 0))
        return ModelName("tag", architecture, tag)
    return ModelName("name", text)
