"""The version of the recipe: a change that moves one pixel or one word raises it."""

OPENMOJI_SCENES_VERSION = "1"
