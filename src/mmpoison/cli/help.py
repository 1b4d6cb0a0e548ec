"""The help of the command line: groups of verbs, options without noise, and what `mmpoison` alone prints."""

from __future__ import annotations

import inspect
import re
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
    """Name the options of the installed experiments, and what each is."""
    from mmpoison.runs.experiments import EXPERIMENTS

    return "; ".join(
        f"Of a {name}: " + ", ".join(f"{key} ({what})" for key, what in one.options.items())
        for name, one in EXPERIMENTS.items()
    )


LISTED: dict[str, Callable[[], str]] = {"--attack": _attacks, "--with": _experiments}
"""Options whose help ends with what is installed."""

LONGEST_CHOICES = 16
"""Characters of choices that stand next to an option; more of them would make a column of half the terminal."""

START = """[bold]mmpoison[/bold] studies, measures and defeats data poisoning of multimodal encoders such as CLIP.

What do you have?

  image-caption pairs: find out whether they are poisoned, and which pairs to drop
      [bold]mmpoison scan pairs.csv --out scan[/bold]
  a model: find out whether it is poisoned (START is the model that it was made from)
      [bold]mmpoison check MODEL --data pairs --reference START[/bold]
  the paper: reproduce any table or figure of it (with the package mmpoison-lab)
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
    """A group of verbs with such a help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        super(PlainGroup, simplified(self, ctx)).format_help(ctx, formatter)


class PlainTyper(typer.Typer):
    """An application with such a help; its options are those of `typer.Typer`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": PlainGroup, "add_completion": False, **options})

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Register a verb, as `typer.Typer.command` does; its docstring says what its options are (`declared`)."""
        register = super().command(name, **{"cls": PlainCommand, **options})

        def decorate(function: F) -> F:
            register(declared(function))
            return function

        return decorate


def simplified(command: C, ctx: Any) -> C:
    """Copy a command, without what its help does not show, and give each option the name of what it takes."""
    shown = copy(command)
    if shown.help:
        # a line break of the source is none of the terminal
        shown.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(shown.help))
    # with --help, which none of its own is added to then
    shown.params = [copy(parameter) for parameter in command.get_params(ctx)]
    for parameter in shown.params:
        if isinstance(parameter, TyperOption):
            _simplify(parameter)
        else:
            # its name and its help say what it is
            vars(parameter)["display_type_rich"] = lambda ctx: ""
    return shown


def _simplify(option: TyperOption) -> None:
    # an option is spelled one way; what follows its first long name is an older spelling
    long = [name for name in option.opts if name.startswith("--")]
    if long and long[0] in LISTED and (listed := LISTED[long[0]]()):
        option.help = f"{option.help} {listed}."
    option.opts = long[:1] + [name for name in option.opts if name not in long]
    option.secondary_opts = option.secondary_opts[:1]
    # a range is a bound on nonsense; a message names it when it is left
    vars(option)["_get_number_range_help_str"] = lambda: None
    value = _value_of(option)
    option.metavar = option.metavar or value


def _value_of(option: TyperOption) -> str:
    """Return what an option takes by its type; long choices go into its help."""
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
