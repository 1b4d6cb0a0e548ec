"""The templates of HTML pages: every string that they show is escaped, and a picture is in the page itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mmpoison.reporting import text as _text
from mmpoison.reporting.summary import goal_title

_PICTURE = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


@cache
def template(name: str, package: str = "mmpoison.reporting") -> Template:
    """Load a template of a package, with the ways to write numbers as filters."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,  # always: the templates' names end in .j2, by which no default would do it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in ("decimal", "short", "count", "percent", "seconds"):
        environment.filters[each] = getattr(_text, each)
    environment.filters["number"] = _text.as_number
    environment.filters["goal_title"] = goal_title
    return environment.get_template(f"{name}.html.j2")


def pictures_inside(sources: Mapping[str, object]) -> dict[str, str]:
    """Only pictures that are in the page itself: anything else would be a request to somewhere."""
    return {
        name: source
        for name, source in sources.items()
        if isinstance(source, str) and _PICTURE.fullmatch(source)
    }
