"""Options as people give them: text is what the data set wants it to be, and nonsense is one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import pytest

from mmpoison.datasets import DATASETS
from mmpoison.datasets.catalogue import Count, fit_options, fitted_options, option_kinds
from mmpoison.errors import InputError


def load(  # type: ignore[no-untyped-def]
    root: Path,
    *,
    year: int | str | None = None,
    label_seed: Count = 0,
    kind: Literal["a", "b"] | None = None,
    share: float = 0.5,
    images: bool = True,
    column: str | None = None,
    folder: str | Path | None = None,
    names: str | Sequence[str] = (),
    free=None,
) -> None:
    """A data set's function, annotated as they are."""


def fit(**given: Any) -> dict[str, Any]:
    return fit_options(given, load, "it")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("column", "", ""),
        ("column", "on", "on"),
        ("column", "1", "1"),
        ("column", "null", None),
        # as a recipe has it
        ("column", 1, "1"),
        ("folder", "~/data", "~/data"),
        ("label_seed", "7", 7),
        ("year", "2017", 2017),
        ("year", "both", "both"),
        ("share", "0.25", 0.25),
        ("images", "no", False),
        ("images", "on", True),
        ("names", "a photo of a {}.; a {}", "a photo of a {}.; a {}"),
        ("names", "[a, b c]", ["a", "b c"]),
        ("names", "[{}", "[{}"),
        ("free", "anything", "anything"),
    ],
)
def test_text_is_what_the_option_wants(option: str, text: str, value: Any) -> None:
    got = fit(**{option: text})[option]
    assert got == value
    assert type(got) is type(value)


def test_options_that_a_loader_shares_with_others() -> None:
    class Shared(TypedDict, total=False):
        year: int

    def load_shared(root: Path, *, strict: bool = True, **options: Unpack[Shared]) -> None:
        """A loader."""

    # as where annotations are not evaluated when they are read
    load_shared.__annotations__["options"] = Unpack[Shared]
    assert fit_options({"year": "7", "strict": "no"}, load_shared, "it") == {
        "year": 7,
        "strict": False,
    }
    with pytest.raises(InputError, match="it has strict, year"):
        fit_options({"years": 7}, load_shared, "it")


def test_options_that_a_loader_does_not_name() -> None:
    def load_any(root: Path, **options: object) -> None:
        """A loader of somebody else."""

    assert fit_options({"a": "1"}, load_any, "it", ["a"]) == {"a": "1"}
    with pytest.raises(InputError, match="it has no option 'b'"):
        fit_options({"b": "1"}, load_any, "it", ["a"])


@pytest.mark.parametrize(
    ("data_set", "option", "value"),
    [
        ("coco", "test_per_class", 0),
        ("coco", "labels", "first"),
        ("coco", "splits", "mine"),
        ("coco", "parts", "test"),
        ("coco", "drop_classes", 3.5),
        ("flickr-pascal-b", "split_seed", "x"),
        ("rsicd", "missing", "maybe"),
        ("visual-genome", "match", "some"),
        ("coco-paper-vg", "shared", "some"),
    ],
)
def test_what_a_data_set_does_not_take(data_set: str, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^data set '{data_set}', option {option}={value}: must"):
        fitted_options(DATASETS[data_set], {option: value})


LOADERS = {
    **{name: DATASETS[name].load for name in DATASETS},
    **{f"build {name}": source.build for name, source in DATASETS.items() if source.build},
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_option_has_a_type(name: str) -> None:
    """Without one, `no` would be taken for a text, which is true."""
    assert Any not in option_kinds(LOADERS[name]).values()
