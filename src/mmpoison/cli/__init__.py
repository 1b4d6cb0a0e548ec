"""The command line: a thin layer over the Python API."""

import lazy_loader

from mmpoison.cli.last_resort import guarded

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def main() -> None:
    """Run the command line; bad input gives one line on standard error and exit code 2.

    Nothing heavy is imported before signals and errors are handled.
    """

    def run() -> int:
        from mmpoison.cli.app import run_command

        return run_command()

    guarded(run)
