"""Data sets as tensors in memory, cut into splits, gathered into batches."""

from gar_env.data.batch import Batch, Normalisation, normalisation
from gar_env.data.builtin import DATASETS, register_dataset
from gar_env.data.corruptions import CORRUPTIONS, parse_corruptions, register_corruption
from gar_env.data.dataset import Dataset
from gar_env.data.load import load_dataset
from gar_env.data.splits import Splits, make_splits

__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "Batch",
    "Dataset",
    "Normalisation",
    "Splits",
    "load_dataset",
    "make_splits",
    "normalisation",
    "parse_corruptions",
    "register_corruption",
    "register_dataset",
]
