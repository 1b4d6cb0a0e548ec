from .catalogue import DEFENSES as DEFENSES
from .catalogue import ModelCheck as ModelCheck
from .catalogue import ModelRepair as ModelRepair
from .catalogue import RobustTraining as RobustTraining
from .catalogue import TrainingServices as TrainingServices
from .catalogue import build_defense as build_defense
from .check_result import CheckResult as CheckResult
from .check_result import Finding as Finding
from .checks.decree import Decree as Decree
from .checks.rank_gain import RankGain as RankGain
from .cut import Cut as Cut
from .cut import Threshold as Threshold
from .filters.filter_result import FilterResult as FilterResult
from .filters.group_filter import SuspiciousGroups as SuspiciousGroups
from .filters.judging import filter_pairs as filter_pairs
from .filters.score_filter import PairScores as PairScores
from .filters.score_filter import ScoreFilter as ScoreFilter
from .filters.score_filter import build_filter as build_filter
from .filters.similarity import RelevanceFilter as RelevanceFilter
from .filters.suspicious_groups.describe import DescribedGroup as DescribedGroup
from .filters.suspicious_groups.passes import ReadPairs as ReadPairs
from .filters.trace import Trace as Trace
from .repairs.finetuning import CleanFinetune as CleanFinetune
from .robust.scan_trace import ScanTrace as ScanTrace

__all__: list[str]
