"""Sources of pairs, one file each, and the table they all become."""

from mmpoison.datasets.catalogue import DATASETS, DataSource, load_dataset
from mmpoison.datasets.pairs import SPLITS, ImageTable, PairDataset
from mmpoison.datasets.pairs_folder import load_pairs, save_pairs

__all__ = [
    "DATASETS",
    "SPLITS",
    "DataSource",
    "ImageTable",
    "PairDataset",
    "load_dataset",
    "load_pairs",
    "save_pairs",
]
