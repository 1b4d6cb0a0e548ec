"""The package in `site` is imported by processes that have it on their path, never by the tests themselves."""

collect_ignore_glob = ["site/*"]
