"""Data sets as tensors in memory, cut into splits, gathered into batches."""

from gar_env.data.batch import Batch, Normalisation, in_batches, normalisation
from gar_env.data.builtin import DATASETS, register_dataset
from gar_env.data.corruptions import CORRUPTIONS, parse_corruptions, parse_shares, register_corruption
from gar_env.data.dataset import Dataset
from gar_env.data.inputs import Inputs
from gar_env.data.load import load_dataset
from gar_env.data.pool import Pool, make_pool
from gar_env.data.splits import Splits, make_splits
from gar_env.data.target import Target, read_target
from gar_env.data.text import token_dataset

__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "Batch",
    "Dataset",
    "Inputs",
    "Normalisation",
    "Pool",
    "Splits",
    "Target",
    "in_batches",
    "load_dataset",
    "make_pool",
    "make_splits",
    "normalisation",
    "parse_corruptions",
    "parse_shares",
    "read_target",
    "register_corruption",
    "register_dataset",
    "token_dataset",
]
