"""Makes command-line verbs from Python functions, so that each option is declared only once; their help."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from docstring_parser.google import DEFAULT_SECTIONS, GoogleParser, Section, SectionType
from typer.core import TyperCommand, TyperGroup, TyperOption

from mmpoison.api.inputs import training_settings
from mmpoison.base.text import capitalized
from mmpoison.cli import options
from mmpoison.cli.console import live_progress
from mmpoison.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])

_PANELS = [Section(title, title, SectionType.MULTIPLE) for title in options.PANELS]
_GOOGLE = GoogleParser([*DEFAULT_SECTIONS, *_PANELS])
SHOWN_AS = {"param": "Args"}
"""Section titles in docstrings, by docstring_parser's names for them."""

FIRST_GROUP = "Options"
"""The group of options without a heading of their own."""
ELSEWHERE = ("progress", "settings", "format", "options")
"""Python parameters that the command line handles in another way."""


def verb(function: Callable[..., Any]) -> Callable[[F], F]:
    """Make a verb from a function of the Python API, whose parameters become options.

    The decorated function prints the result. Its first parameter is `call`, which runs the Python
    function with the given options and shows progress. The others are options that only the command
    line has, and options of the Python function that it reads, requires or makes positional.
    """

    def decorate(command: F) -> F:
        vars(command)["function"] = function
        return command

    return decorate


def declared(command: F) -> F:
    """Turn a verb into a function for typer, with the type, group and help of each option.

    The verb's docstring lists options under headings, one per group of the help; arguments may be
    under any of them. An option described as `...`, or not listed, takes its help from the module
    `options`, else from the Python function. A `NamedData` parameter becomes one option for the
    data and three for how they are read.

    Raises:
        LookupError: If an option has no description.
    """
    function = vars(command).get("function")
    own = _parameters(command)
    own.pop("call", None)
    every = {**(_on_terminal(function) if function else {}), **own}
    text, said = described_options(_docstring(command))
    of_python = described_options(_docstring(function))[1] if function else {}
    places = (
        said,
        described_options(_docstring(options))[1],
        {
            name: (FIRST_GROUP, help, "")
            for name, (group, help, _) in of_python.items()
            if group == "Args"
        },
    )
    data = next((name for name, one in every.items() if _is_data(one.annotation)), None)
    if data is not None:
        reading = _parameters(options.named_data)
        every |= {name: reading[name] for name in options.READING}
    groups = [FIRST_GROUP, *(group for place in places for group, _, _ in place.values())]
    ranks = dict.fromkeys(every, 0)
    for name, one in every.items():
        if one.annotation is typer.Context:
            continue
        kind, given = _split(one.annotation)
        found = [place[name] for place in places if name in place]
        if described := getattr(given, "description", None):  # declared by a plug-in
            # a value at the start keeps its spelling
            named = described.partition(" ")[0].endswith(":")
            help_of = f"{described if named else capitalized(described)}."
            found.insert(int(name in said), (FIRST_GROUP, help_of, ""))
            given = None
        info = copy(given) or typer.Option(*_flag(one))
        if found:
            group = found[0][0]
            ranks[name] = groups.index(group)
            info.rich_help_panel = None if group == FIRST_GROUP else group
            info.help = next((help for _, help, _ in found if help), None)
            info.metavar = info.metavar or next((takes for _, _, takes in found if takes), None)
        elif not info.hidden and any(places):
            raise LookupError(f"{command.__name__}: nothing says what {name} is")
        every[name] = one.replace(annotation=Annotated[str if name == data else kind, info])

    @wraps(command)
    def run(**given: Any) -> Any:
        if data is not None:
            given[data] = options.named_data(given[data] or "", *map(given.pop, options.READING))
        if function is None:
            return command(**given)
        arguments = _arguments(function, given)
        on_stderr = given.get("as_json") or given.get("shown", "table") != "table"

        def call(*pairs: object, **more: Any) -> Any:
            if pairs:
                arguments.pop("pairs")
            # if a program reads standard output, it is reserved for the result
            with live_progress(on_stderr=on_stderr) as progress:
                return function(*pairs, **{**arguments, **more}, progress=progress)

        return command(call, **{name: given[name] for name in own})

    vars(run)["__signature__"] = inspect.Signature(
        sorted(every.values(), key=lambda one: ranks[one.name])
    )
    run.__annotations__ = {name: one.annotation for name, one in every.items()}
    run.__doc__ = text
    return cast("F", run)


def _docstring(of: Any) -> str:
    """Return a docstring; under `python -OO`, read it from the source, if there is one."""
    text = inspect.getdoc(of)
    if text is None and sys.flags.optimize > 1:
        with suppress(OSError):
            tree = ast.parse(textwrap.dedent(inspect.getsource(of)))
            text = ast.get_docstring(tree if inspect.ismodule(of) else cast("Any", tree.body[0]))
    return text or ""


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a function's parameters by name, as keyword-only ones with resolved types."""
    hints = None
    names: dict[str, Any] = {}
    while hints is None:
        try:
            hints = get_type_hints(function, localns=names, include_extras=True)
        except NameError as error:  # imported for type checkers only: a class of that name will do
            missing = str(error.name)
            names[missing] = type(missing, (), {})
    return {
        one.name: one.replace(annotation=hints[one.name], kind=one.KEYWORD_ONLY)
        for one in inspect.signature(function).parameters.values()
    }


def _on_terminal(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a function's parameters for the command line; `--set` takes its `**keywords`."""
    found = {}
    for name, one in _parameters(function).items():
        if inspect.signature(function).parameters[name].kind is one.VAR_KEYWORD:
            found["changes"] = one.replace(name="changes", annotation=options.Changes, default=None)
            continue
        if name in ELSEWHERE:
            continue
        kind = one.annotation if _is_data(one.annotation) else _plain(one.annotation)
        kind = options.ON_TERMINAL.get(name, kind)
        name = "data" if name == "pairs" else name
        default = None if one.default == () else one.default
        found[name] = one.replace(name=name, annotation=kind, default=default)
    return found


def _split(kind: Any) -> tuple[Any, Any]:
    """Split a type into the plain type and its annotation for typer, if any."""
    return get_args(kind)[:2] if get_origin(kind) is Annotated else (kind, None)


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_data(kind: Any) -> bool:
    """Return whether a type is a data set, which the command line takes by name."""
    return any(
        getattr(one, "__name__", "") in ("NamedData", "Pairs") for one in _members(_split(kind)[0])
    )


def _plain(kind: Any) -> Any:
    """Return the command-line type for a Python type: a number, flag, choice, text or path.

    >>> _plain(float | Sequence[float] | None), _plain(int), _plain(bytes | str | None)
    (list[float] | None, <class 'int'>, str | None)
    """
    members = _members(kind)
    for one in members:
        if get_origin(one) is Sequence:
            return list[_plain(get_args(one)[0])] | None  # type: ignore[misc]
    plain = (one for one in members if one in (bool, int, float) or get_origin(one) is Literal)
    # a parameter that takes an object or a name in Python takes a name here
    names = any(getattr(one, "__name__", "") == "DualEncoder" for one in members)
    kind = next(plain, Path if Path in members and not names else str)
    return kind | None if NoneType in members else kind


def _arguments(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a Python API function for the given options.

    Raises:
        InputError: If `--set` names a parameter that has an option of its own.
    """
    from mmpoison.base.untrusted import parse_changes

    parameters = inspect.signature(function).parameters.values()
    known = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
    arguments = {name: given.get("data" if name == "pairs" else name) for name in known}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    changes = parse_changes(given.get("changes") or [])
    if twice := {name: changes.pop(name) for name in known if name in changes}:
        if "settings" not in known:
            option = next(iter(twice))
            raise InputError(f"--set {option}: give --{option.replace('_', '-')} instead")
        arguments["settings"] = training_settings(None, twice)
    return arguments | changes


def _flag(parameter: inspect.Parameter) -> list[str]:
    """Return the name of a flag that is off by default, which needs no `--no-` form."""
    return [f"--{parameter.name.replace('_', '-')}"] if parameter.default is False else []


def described_options(docstring: str) -> tuple[str, dict[str, tuple[str, str, str]]]:
    """Split a Google-style docstring into its text and the group, help and value of each option.

    The help is empty if it is `...`, and the value if there is none: `declared` takes both from
    elsewhere.

    >>> described_options("Scan.\\n\\nCompute:\\n    seed: A number.\\n        Of all.\\n    goal (A2B): ...")
    ('Scan.', {'seed': ('Compute', 'A number. Of all.', ''), 'goal': ('Compute', '', 'A2B')})
    """
    parsed = _GOOGLE.parse(docstring)
    found: dict[str, tuple[str, str, str]] = {}
    for entry in parsed.meta:
        if len(entry.args) < 2:
            continue  # a Returns section
        said = "" if entry.description == "..." else " ".join((entry.description or "").split())
        names, _, takes = entry.args[1].partition(" (")
        group = SHOWN_AS.get(entry.args[0], entry.args[0])
        for name in names.split(", "):
            # the first entry counts: arguments come before exceptions
            found.setdefault(name.lstrip("*"), (group, said, takes.removesuffix(")")))
    return (parsed.description or "").rstrip(), found


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
