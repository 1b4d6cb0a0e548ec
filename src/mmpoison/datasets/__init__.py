"""Sources of pairs, one file each, and the table that they all return."""

from mmpoison.datasets.catalogue import (
    DATASETS,
    DataSource,
    load_dataset,
    load_pairs,
    recognise,
    stream_pairs,
)
from mmpoison.datasets.fetch import build_dataset
from mmpoison.images.sources import NameClash
from mmpoison.pairs.folder import ManifestMisfit, restore_clean, save_pairs
from mmpoison.pairs.labels import label_by_keyword, labels_from_csv
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest
from mmpoison.pairs.splits import (
    balanced,
    cap_captions,
    split_per_class,
    subset_per_class,
)
from mmpoison.pairs.table import SPLITS, ImageTable, Pair, PairDataset

__all__ = [
    "DATASETS",
    "SPLITS",
    "DataSource",
    "ImageTable",
    "ManifestMisfit",
    "NameClash",
    "Pair",
    "PairDataset",
    "PoisonManifest",
    "PoisonedPair",
    "balanced",
    "build_dataset",
    "cap_captions",
    "label_by_keyword",
    "labels_from_csv",
    "load_dataset",
    "load_pairs",
    "recognise",
    "restore_clean",
    "save_pairs",
    "split_per_class",
    "stream_pairs",
    "subset_per_class",
]
