"""The functions behind `import mmpoison`: load, poison, train, evaluate, scan, check, sterilize, run.

The command line calls them too. Each takes names, paths or objects, and returns an object with a short repr.
"""

import sys
import warnings

if "ipykernel" in sys.modules:
    # other packages import tqdm, which asks for ipywidgets; mmpoison's progress does without it
    warnings.filterwarnings("ignore", message="IProgress not found")
