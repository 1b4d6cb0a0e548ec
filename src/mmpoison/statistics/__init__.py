"""Uncertainty: over seeds, over captions that share an image, and between two settings.

- `summarize`: mean, standard deviation and 95% interval of one number per seed.
- `clustered_mean`, `clustered_share`: intervals of means and shares over queries.
  An image's five captions are correlated, so they count as one observation, not five.
- `probability_below_zero`: the probability that a mean difference is negative.
- `compare`: compares two settings paired by seed: two-tailed t-test and Wilcoxon test, with effect sizes.
- `true_pair_auroc`: whether embeddings distinguish true pairs from shuffled pairs.

All are pure functions of NumPy arrays; the tests are SciPy's. Undefined numbers (the deviation of one seed, a test
without spread) are None, never 0 or NaN.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
