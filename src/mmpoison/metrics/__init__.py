"""Metrics of attacks and utility: pure NumPy functions that do not depend on models.

Two steps, so that every number can be traced to the query it came from:

1. from scores or embeddings to one rank a query: `target_ranks` and `embedding_ranks` (the
   attack), `image_retrieval_ranks` and `text_retrieval_ranks` (the utility);
2. from ranks to a number: `hit_at_k`, `hit_table`, `min_rank`, `rank_quantiles`.

Ranks are 0-based and ties are resolved against the target, so that an encoder that gives every
image the same score looks like the failure it is; `tie_count` and `constant_rows` say when that
happened. `cosine_distance` and `drift` compare the embeddings of two models.

Every function takes anything `numpy.asarray` reads (PyTorch tensors too, on any device), and raises
`mmpoison.errors.InputError` with the offending shape if it cannot be used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
