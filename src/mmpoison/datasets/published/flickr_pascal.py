"""`flickr-pascal`: the paper's first data set (section A.1): much unlabelled data and few labelled images.

Training data: all of Flickr30k, without labels, and 25 images of each of the 20 classes of PASCAL Sentences. Test data:
the other 25 of each class, 500 images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmpoison.base.phrasing import count_phrase
from mmpoison.datasets.catalogue import DataSource, derived, register
from mmpoison.datasets.options import whole_number
from mmpoison.datasets.published.adapter import composed_folder, join
from mmpoison.datasets.published.flickr30k import load_flickr30k
from mmpoison.datasets.published.pascal_sentences import load_pascal_sentences
from mmpoison.errors import InputError
from mmpoison.pairs.splits import FrozenSplit, balanced, shipped_split
from mmpoison.pairs.table import PairDataset

FLICKR, PASCAL = "flickr30k", "pascal-sentences"
FOLDERS = {FLICKR: (FLICKR,), PASCAL: (PASCAL, "pascal_sentences")}

WHERE_FROM = f"a folder with `{FLICKR}/` and `{PASCAL}/`, each as its own data set needs it"
TERMS = "those of flickr30k and pascal-sentences: research use, no passing on"


def load_flickr_pascal(
    root: Path | None, seed: int = 0, *, split_seed: int = 0, missing: str = "skip"
) -> PairDataset:
    """Compose the set from a folder with both data sets.

    Args:
        root: Folder that holds `flickr30k/` and `pascal-sentences/`, in any layout that those data sets read.
        seed: Not used, so that runs with different seeds share the test data.
        split_seed: Splits the images of each PASCAL class in halves; 0 is the split that comes with the package.
        missing: `skip` leaves out entries whose image is not there, `keep` keeps them.

    Returns:
        Split `train`: Flickr30k unlabelled and half of each PASCAL class; split `test`: the other halves. Image ids
        begin with the folder of their data set.

    Raises:
        InputError: If a folder is missing, or holds neither of the data sets.
    """
    split_seed = whole_number("split_seed", split_seed)
    folder = composed_folder(root, "flickr-pascal", WHERE_FROM)
    flickr = load_flickr30k(_folder(folder, FLICKR), split="all-train", missing=missing)
    return join(folder, (flickr, _pascal(folder, split_seed, missing)))


def load_pascal_test(root: Path, *, missing: str = "skip") -> PairDataset:
    """Load the test half of PASCAL Sentences, as `flickr-pascal` has it.

    Args:
        root: Folder that holds `pascal-sentences/`.
        missing: As for `load_flickr_pascal`.
    """
    pascal = _pascal(root, 0, missing)
    # the images of the other half would be images of the target class
    return pascal.piece(pascal.images.indices(split="test"))


def _pascal(root: Path, split_seed: int, missing: str) -> PairDataset:
    pascal = load_pascal_sentences(_folder(root, PASCAL), split_seed=split_seed, missing=missing)
    return _as_published(pascal) if split_seed == 0 else pascal


def _folder(root: Path, name: str) -> Path:
    for folder in FOLDERS[name]:
        if (root / folder).is_dir():
            return root / folder
    raise InputError(f"{root / name}: no such folder, flickr-pascal needs {WHERE_FROM}")


def _as_published(pascal: PairDataset) -> PairDataset:
    """PASCAL with the split that comes with the package, also where a copy has more or other images."""
    published = shipped_split(PASCAL)
    fixed = published.apply(pascal, strict=False)
    own = FrozenSplit.of(pascal, PASCAL, "name")
    extra = [name for name in own.splits if name not in published.splits]
    problems = list(pascal.problems)
    if extra:
        problems.append(
            f"{pascal.root}: {count_phrase(len(extra), 'image')} not in the published split, the first: {extra[0]}"
        )
    return replace(fixed, problems=tuple(problems))


for _name, _load, _what in (
    ("flickr-pascal", load_flickr_pascal, "the paper's first set"),
    (
        "flickr-pascal-b",
        derived(load_flickr_pascal, balanced, "split_seed"),
        "the same, one caption an image",
    ),
):
    register(
        DataSource(
            name=_name,
            summary=f"{_what}: Flickr30k unlabelled + PASCAL Sentences in 20 classes, half of them test",
            where_from=WHERE_FROM,
            terms=TERMS,
            load=_load,
            home="flickr-pascal",
            parts=("flickr30k", PASCAL),
        )
    )
