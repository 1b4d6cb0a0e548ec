"""The search page: a local server and its front end."""

from mmpoison.pages.search.web.app import search_app

__all__ = ["search_app"]
