from .builder import new_image as new_image
from .labels import caption_of as caption_of
from .labels import plural as plural
from .manifest import AddedImage as AddedImage
from .manifest import PoisonedPair as PoisonedPair
from .table import BoolArray as BoolArray
from .table import IntArray as IntArray
from .table import PairDataset as PairDataset
