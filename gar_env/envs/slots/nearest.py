"""The nearest of many rows, in n log n."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEW_COLUMNS = 16
"""Up to which a tree finds neighbours without looking at nearly all rows."""

FEW_ROWS = 512
"""Up to which all distances take less time than a tree."""

CHUNK = 1024


def nearest_rows(rows: Tensor, others: Tensor) -> Tensor:
    """For each row, the number of the other row that is nearest to it; of equal rows the first.

    Many rows of few columns by a k-d tree, in ``n log n`` and memory of the rows themselves. Few rows, and many
    columns, as with penultimate features, by all distances, a chunk of rows at a time.

    Args:
        rows: Finite, float ``[n, d]``.
        others: Finite, float ``[m, d]``, at least one.

    Returns:
        int64 ``[n]``, in ``0..m-1``, on the device of ``rows``.

    Example:
        >>> nearest_rows(torch.tensor([[0.0], [0.9]]), torch.tensor([[1.0], [0.2], [0.2]]))
        tensor([1, 0])

    Source:
        Maneewongvatana & Mount (1999), "It's Okay to Be Skinny, If Your Friends Are Fat", as in ``scipy.spatial``.
    """
    if rows.shape[1] > FEW_COLUMNS or len(rows) * len(others) <= FEW_ROWS**2:
        # Not as a product of matrices, which rounds small distances away.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cat([torch.cdist(some, others, compute_mode=exact).argmin(1) for some in rows.split(CHUNK)])
    from scipy.spatial import KDTree  # takes a while to import

    distinct, first = np.unique(others.double().cpu().numpy(), axis=0, return_index=True)
    _, found = KDTree(distinct).query(rows.double().cpu().numpy())
    return torch.from_numpy(first[found].astype(np.int64)).to(rows.device)
