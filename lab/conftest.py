"""The tests of the laboratory have the fixtures of the product's."""

from tests.conftest import *  # noqa: F403
