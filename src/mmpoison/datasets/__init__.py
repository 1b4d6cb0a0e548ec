"""Sources of pairs, one file each, and the table they all become."""

from mmpoison.datasets.catalogue import (
    DATASETS,
    DataSource,
    load_dataset,
    load_pairs,
    recognise,
    stream_pairs,
)
from mmpoison.datasets.convert import Conversion, convert_pairs
from mmpoison.datasets.downloads import build_dataset
from mmpoison.datasets.image_bytes import NameClash
from mmpoison.datasets.labels import label_by_keyword, labels_from_csv
from mmpoison.datasets.manifest import PoisonedPair, PoisonManifest
from mmpoison.datasets.pairs import SPLITS, ImageTable, PairDataset
from mmpoison.datasets.pairs_folder import ManifestMisfit, restore_clean, save_pairs
from mmpoison.datasets.reshape import (
    balanced,
    cap_captions,
    drop_classes,
    repeat_captions,
    split_per_class,
    subset_per_class,
)
from mmpoison.datasets.splits import FrozenSplit, find_split, shipped_split, shipped_splits

__all__ = [
    "DATASETS",
    "SPLITS",
    "Conversion",
    "DataSource",
    "FrozenSplit",
    "ImageTable",
    "ManifestMisfit",
    "NameClash",
    "PairDataset",
    "PoisonManifest",
    "PoisonedPair",
    "balanced",
    "build_dataset",
    "cap_captions",
    "convert_pairs",
    "drop_classes",
    "find_split",
    "label_by_keyword",
    "labels_from_csv",
    "load_dataset",
    "load_pairs",
    "recognise",
    "repeat_captions",
    "restore_clean",
    "save_pairs",
    "shipped_split",
    "shipped_splits",
    "split_per_class",
    "stream_pairs",
    "subset_per_class",
]
