"""Generates the command line reference from the help: `docs/reference/cli.md` and a page for each verb.

    python docs/tools/cli_reference.py            # names the pages that differ from the help
    python docs/tools/cli_reference.py --write    # writes them

A page shows what `mmpoison VERB --help` shows: what the verb does, its examples, its options in the same panels.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page_blocks import ROOT, check_or_write
from rich.text import Text
from typer.core import TyperOption
from typer.main import get_command

from mmpoison.cli.app import GROUPS, VERBS, app, command_of
from mmpoison.cli.verb import simplified

REFERENCE = ROOT / "docs/reference"
MADE = "<!-- made from the help: python docs/tools/cli_reference.py --write -->"
EXAMPLE = re.compile(r"^(?P<what>[^\[\]`]*): \[bold\](?P<command>.*?)\[/bold\](?P<rest>.*)$")


def pages() -> dict[Path, str]:
    """Make all pages of the command line, by file; pages of removed verbs are empty."""
    root: Any = get_command(app)
    made = {REFERENCE / "cli.md": _index(root)}
    for name in VERBS:
        made[REFERENCE / "cli" / f"{name}.md"] = _verb(name, command_of(name))
    return dict.fromkeys(sorted((REFERENCE / "cli").glob("*.md")), "") | made


def _index(root: Any) -> str:
    lines = [
        "# The command line",
        "",
        MADE,
        "",
        f"{_plain(root.help)} `mmpoison VERB --help` shows a page on the terminal.",
        "",
        "| group | verb | what it does |",
        "|---|---|---|",
    ]
    for group, verbs in GROUPS.items():
        for name in verbs:
            summary = _plain(command_of(name).help).split("\n\n")[0]
            lines.append(f"| {group} | [`{name}`](cli/{name}.md) | {_cell(summary)} |")
    return "\n".join([*lines, "", _plain(root.epilog), ""])


def _verb(name: str, command: Any) -> str:
    parts = [f"# mmpoison {name}", MADE, *_described(f"mmpoison {name}", command)]
    for child, verb in getattr(command, "commands", {}).items():
        parts.append(f"## mmpoison {name} {child}")
        parts += _described(f"mmpoison {name} {child}", verb)
    return "\n\n".join(parts) + "\n"


def _described(path: str, command: Any) -> Iterator[str]:
    """Write the text, the usage, the examples and the options of one verb."""
    # with the settings of the app: the command keeps the help option that its first context has named
    settings = app.info.context_settings or {}
    context = command.make_context(path, [], resilient_parsing=True, **settings)
    command = simplified(command, context)
    examples: list[str] = []
    for paragraph in (command.help or "").split("\n\n"):
        if found := EXAMPLE.match(" ".join(paragraph.split())):
            what = _plain(found["what"] + found["rest"])
            examples += [*([] if what == "Example" else [f"# {what}"]), _plain(found["command"])]
        else:
            yield _markdown(paragraph)
    if examples:
        yield "\n".join(["```sh", *examples, "```"])
    if getattr(command, "commands", None):
        return
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        if isinstance(parameter, TyperOption):
            panel = parameter.rich_help_panel or "Options"
            # the first spelling alone, as the help shows
            names = [*parameter.opts[:1], *parameter.secondary_opts[:1]]
            shown = " ".join(f"`{_cell(f'{name} {parameter.metavar or str()}')}`" for name in names)
        else:
            panel = getattr(parameter, "rich_help_panel", None) or "Arguments"
            shown = f"`{parameter.metavar or parameter.name.upper()}`"
        default = _default(parameter)
        row = f"| {shown} | {_cell(_markdown(parameter.help or ''))} | {default} |"
        panels.setdefault(panel, []).append(row)
    for panel, rows in panels.items():
        yield "\n".join([f"| {panel} | description | default |", "|---|---|---|", *rows])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or value in ("", [], ()):
        return ""
    return f"`{value}`"


def _plain(text: str) -> str:
    """Return a help text without its markup."""
    return Text.from_markup(text).plain.strip()


def _markdown(text: str) -> str:
    """Write a help text as Markdown: bold words are commands, brackets and angles are text."""
    one_line = " ".join(text.split())
    return re.sub(r"<([A-Za-z]+)>", r"&lt;\1&gt;", re.sub(r"\[/?bold\]", "`", one_line)).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(check_or_write(pages()))
