"""Errors and warnings. Each message is one line: what is wrong, where, and what to do."""


class InputError(ValueError):
    """Invalid user input. The message is one line, and the command line exits with 2.

    Args:
        message: What is wrong, where, and what to do.
    """


class WorkStopped(InputError):
    """A multi-part job was interrupted (disk full, out of memory, changed input).

    Finished parts are kept for a resume.
    """


class ResultError(RuntimeError):
    """A computation finished, but its result would be misleading (a collapsed model, a diverged loss)."""


class MmpoisonWarning(UserWarning):
    """A warning that readers of the result must see. The job continues."""


class MmpoisonNotice(UserWarning):
    """An automatic choice, such as columns detected by their values, and how to override it."""


class AlreadyDone(Exception):
    """The output already exists, made by the same command from the same inputs.

    The command line says so and exits with 0.

    Args:
        message: The message, which names the output.
    """
