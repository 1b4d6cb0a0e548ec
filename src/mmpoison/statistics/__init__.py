"""Uncertainty of numbers: over seeds, over captions that share an image, and between two settings.

- `summarize`: mean, standard deviation and 95% interval of one number a seed.
- `clustered_mean`, `clustered_share`: intervals of means and shares over queries.
  The queries of one image (its five captions) are correlated and count as one piece of evidence, not five.
- `probability_below_zero`: of a mean difference, by the distribution that gives its interval.
- `compare`: two settings paired by seed: t-test and Wilcoxon test, two-tailed, with effect sizes.
- `true_pair_auroc`: whether captions and images of pairs belong together, from their embeddings.

Pure functions of NumPy arrays; the tests are SciPy's. A number that is not defined (a deviation of one seed, a test
without spread) is None, never 0 and never NaN.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
