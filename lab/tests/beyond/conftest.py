"""The fixtures of the tests of defences, which these attacks know."""

from tests.defenses.conftest import *  # noqa: F403
