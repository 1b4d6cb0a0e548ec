"""Metrics of attacks and utility: pure NumPy functions that do not depend on models.

Two steps, so that every number can be traced back to its query:

1. from scores or embeddings to one rank per query: `target_ranks` and `embedding_ranks` (the
   attack), `image_retrieval_ranks` and `text_retrieval_ranks` (the utility);
2. from ranks to a number: `hit_at_k`, `hit_table`, `min_rank`, `rank_quantiles`.

Ranks are 0-based. Ties count against the target, so an encoder that gives every image the same score gets the worst
rank; `tie_count` and `constant_rows` report such cases. `cosine_distance` and `drift` compare the embeddings of two
models.

Every function accepts anything `numpy.asarray` reads, and PyTorch tensors on any device. It raises
`mmpoison.errors.InputError` for an unusable argument and names its shape.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
