"""The fixtures of the tests of defences."""

from tests.defenses.conftest import *  # noqa: F403
