"""The package's errors and warnings; each message is one line that says what, where and what to do."""


class InputError(ValueError):
    """The user's input cannot be used: the message is one line, and the command line exits with 2.

    Args:
        message: What is wrong, where, and what to do about it.
    """


class WorkStopped(InputError):
    """A work of many pieces cannot go on (no room, no memory, an input that changed); what is done stays to resume."""


class ResultError(RuntimeError):
    """A computation finished but its result would mislead (a collapsed model, a diverged loss)."""


class MmpoisonWarning(UserWarning):
    """Something that a reader of the result must know, but that does not stop the work."""


class MmpoisonNotice(UserWarning):
    """A choice that was made for the user (columns that were found by their values), and how to choose otherwise."""


class AlreadyDone(Exception):
    """The same command made this output before, from the same inputs: the command line says so and exits with 0.

    Args:
        message: Names the output.
    """
