from .cut.result import ShardVerdict as ShardVerdict
from .read.checks import ShardFacts as ShardFacts
from .read.checks import check_shard as check_shard
from .read.checks import notes_on as notes_on
from .read.files import IdKind as IdKind
from .read.files import ShardError as ShardError
from .read.shards import EMBEDDED_FORMATS as EMBEDDED_FORMATS
from .read.shards import EmbeddedFormat as EmbeddedFormat
from .read.shards import EmbeddedSource as EmbeddedSource
from .read.shards import Shard as Shard
from .read.shards import open_embedded as open_embedded
from .write.keep_lists import KeepFilter as KeepFilter
from .write.keep_lists import keep_filter as keep_filter
from .write.tables import ResultWriter as ResultWriter
from .write.tables import write_results as write_results

__all__: list[str]
