"""The functions behind `import mmpoison`: load, poison, train, evaluate, scan, check, sterilize, run.

The command line calls the same functions. Each takes names, paths or objects and returns an object with a short repr.
"""

import sys
import warnings

if "ipykernel" in sys.modules:
    # Other packages import tqdm, which asks for ipywidgets. Progress bars of mmpoison do not need it.
    warnings.filterwarnings("ignore", message="IProgress not found")
