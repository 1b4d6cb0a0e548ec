from ._version import __version__ as __version__
from .api.defenses import check as check
from .api.defenses import scan as scan
from .api.defenses import sterilize as sterilize
from .api.evaluation import evaluate as evaluate
from .api.inputs import load as load
from .api.inputs import poison as poison
from .api.running import run as run
from .api.training import finetune as finetune
from .api.training import train as train
from .attacks.paper import MultipleTargetLabels as MultipleTargetLabels
from .attacks.paper import SingleTargetImage as SingleTargetImage
from .attacks.paper import SingleTargetLabel as SingleTargetLabel
from .datasets.catalogue import load_pairs as load_pairs
from .defenses.scan.write.keep_lists import keep_filter as keep_filter
from .models.dual_encoder import DualEncoder as DualEncoder
from .models.loading import load_encoder as load_encoder
from .pairs.folder import save_pairs as save_pairs
from .pairs.table import PairDataset as PairDataset

__all__: list[str]
