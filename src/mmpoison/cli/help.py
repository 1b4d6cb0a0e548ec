"""The command line's help: simplified options, and what `mmpoison` alone prints."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from mmpoison.cli.verb import declared


def _attacks() -> str:
    """Name the registered attacks, by kind."""
    from mmpoison.attacks.catalogue import ATTACKS

    kinds: dict[str, list[str]] = {}
    for name, attack in ATTACKS.items():
        kinds.setdefault(attack.kind, []).append(name)
    return "; ".join(f"{kind.capitalize()}: {', '.join(names)}" for kind, names in kinds.items())


def _experiments() -> str:
    """Name and describe the options of the installed experiments."""
    from mmpoison.runs.experiments import EXPERIMENTS

    return "; ".join(
        f"For a {name}: " + ", ".join(f"{key} ({what})" for key, what in one.options.items())
        for name, one in EXPERIMENTS.items()
    )


LISTED: dict[str, Callable[[], str]] = {"--attack": _attacks, "--with": _experiments}
"""Options whose help ends with a list of what is installed."""

LONGEST_CHOICES = 16
"""Longest list of choices shown next to an option, in characters; others go into its help."""

START = """[bold]mmpoison[/bold] studies, measures and defeats data poisoning of multimodal encoders such as CLIP.

What do you have?

  image-caption pairs: find out whether they are poisoned, and which pairs to drop
      [bold]mmpoison scan pairs.csv --out scan[/bold]
  a model: find out whether it is poisoned (START is the model that it was made from)
      [bold]mmpoison check MODEL --data pairs --reference START[/bold]
  the paper: reproduce its tables and figures (with the package mmpoison-lab)
      [bold]mmpoison run table-3-openmoji[/bold]
  nothing yet: see the attack and the defences on the package's own data
      [bold]mmpoison demo[/bold]

All commands: [bold]mmpoison --help[/bold]; one of them: [bold]mmpoison scan --help[/bold]"""
"""What `mmpoison` without a command prints."""


F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", "PlainCommand", "PlainGroup")


class PlainCommand(TyperCommand):
    """A verb whose help leaves out types, bounds and old spellings of options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        super(PlainCommand, simplified(self, ctx)).format_help(ctx, formatter)


class PlainGroup(TyperGroup):
    """A group of verbs whose help is simplified in the same way."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        super(PlainGroup, simplified(self, ctx)).format_help(ctx, formatter)


class PlainTyper(typer.Typer):
    """A `typer.Typer` whose help is simplified in the same way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": PlainGroup, "add_completion": False, **options})

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Register a verb like `typer.Typer.command`; its docstring describes its options."""
        register = super().command(name, **{"cls": PlainCommand, **options})

        def decorate(function: F) -> F:
            register(declared(function))
            return function

        return decorate


def simplified(command: C, ctx: Any) -> C:
    """Copy a command for its help: hide noise, and name the value that each option takes."""
    shown = copy(command)
    if shown.help:
        # join the lines of a paragraph: the terminal wraps them itself
        paragraphs = inspect.cleandoc(shown.help).split("\n\n")
        shown.help = "\n\n".join(" ".join(one.splitlines()) for one in paragraphs)
    # these include --help, so click adds no second one
    shown.params = [copy(parameter) for parameter in command.get_params(ctx)]
    for parameter in shown.params:
        if isinstance(parameter, TyperOption):
            _simplify(parameter)
        else:
            # an argument's name and help are enough
            vars(parameter)["display_type_rich"] = lambda ctx: ""
    return shown


def _simplify(option: TyperOption) -> None:
    # show one spelling; those after the first long name are older
    long = [name for name in option.opts if name.startswith("--")]
    if long and long[0] in LISTED and (listed := LISTED[long[0]]()):
        option.help = f"{option.help} {listed}."
    option.opts = long[:1] + [name for name in option.opts if name not in long]
    option.secondary_opts = option.secondary_opts[:1]
    # ranges only exclude absurd values; the error message names them
    vars(option)["_get_number_range_help_str"] = lambda: None
    value = _value_of(option)
    option.metavar = option.metavar or value


def _value_of(option: TyperOption) -> str:
    """Return the name of an option's value, by its type; long choices go into its help."""
    if option.is_flag or option.name == "help":
        return ""
    kind = option.type_descriptor
    if kind.is_choice:
        choices = [str(choice) for choice in kind.choices or ()]
        short = "|".join(choices)
        if len(short) <= LONGEST_CHOICES:
            return short
        option.help = f"{option.help or ''} One of {', '.join(choices)}."
        return "NAME"
    names = str(kind.annotation)
    for part, value in (("int", "N"), ("float", "NUMBER"), ("Path", "PATH")):
        if part in names:
            return value
    return "TEXT"
