from .run_files import ConfusingImage as ConfusingImage
from .run_files import RankedImage as RankedImage
from .run_files import RankLists as RankLists
