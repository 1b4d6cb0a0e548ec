from .console import busy as busy
from .console import live_progress as live_progress
from .console import print_tables as print_tables
from .console import say as say
from .options import Format as Format
from .sweep import FAILED as FAILED
from .sweep import duration as duration
from .sweep import shown as shown
from .sweep import tell_failures as tell_failures

def main() -> None: ...
