"""Sources of pairs, one file each, and the table they all become."""

from mmpoison.datasets.catalogue import (
    DATASETS,
    DataSource,
    load_dataset,
    load_pairs,
    stream_pairs,
)
from mmpoison.datasets.pairs import SPLITS, ImageTable, PairDataset
from mmpoison.datasets.pairs_folder import save_pairs

__all__ = [
    "DATASETS",
    "SPLITS",
    "DataSource",
    "ImageTable",
    "PairDataset",
    "load_dataset",
    "load_pairs",
    "save_pairs",
    "stream_pairs",
]
