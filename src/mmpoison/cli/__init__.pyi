from .console import busy as busy
from .console import print_tables as print_tables
from .console import say as say
from .options import Format as Format

def main() -> None: ...
