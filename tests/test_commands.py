"""The parser takes every `mmpoison ...` command that a page, a notebook, a help text or a message shows."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from copy import copy
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import TyperException

from mmpoison.api.inputs import training_settings
from mmpoison.attacks.catalogue import ATTACKS
from mmpoison.base.untrusted import parse_changes
from mmpoison.cli.app import MOVED, VERBS, command_of
from mmpoison.cli.run import split_changes_and_grid
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.defenses.catalogue import DefenseKind, split_options
from mmpoison.errors import InputError
from mmpoison.models.architectures import MODELS
from mmpoison.runs.recipe import load_recipe
from mmpoison.runs.recipe_files import recipe_on
from mmpoison_lab.matrix.part import MatrixRecipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "mmpoison"

HOLE = "1"
"""Stands for what an f-string fills in: a name, a path and a number at once."""
DEFENDING: dict[str, tuple[DefenseKind, str]] = {
    "scan": ("pre-training", "method"),
    "train": ("in-training", "defense"),
    "sterilize": ("post-training", "method"),
    "check": ("check", "method"),
}
NAMES, MENTION, WHOLE = range(3)
"""What is checked: that verb and options exist; that it parses, as a whole if it has an argument; always as a whole."""

Found = tuple[str, int]


# -- finding commands


def in_line(line: str, level: int) -> Iterator[Found]:
    """Yield the commands in a line of a shell or of what is printed, without comments, pipes and redirections."""
    line = re.sub(r"\$\(\(.*?\)\)", HOLE, re.sub(r"(^|\s)#.*", "", line))
    for found in re.finditer(r"(?<![\w./-])mmpoison (?=[a-z])", line):
        words = shlex.shlex(line[found.start() :], posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set("();<>|&"):
                break
            command.append(word)
        yield shlex.join(command), level


def in_page(text: str) -> Iterator[Found]:
    """Yield the commands of a Markdown page: what a reader copies from its blocks, and those in its sentences."""
    prose, *rest = re.split(r"(?ms)^ *```(.*?)^ *```", text)
    for block, after in zip(rest[::2], rest[1::2], strict=True):
        language, _, lines = block.partition("\n")
        prose += after
        if not language.strip().startswith("python"):
            for line in re.sub(r" *\\\n *", " ", lines).splitlines():
                yield from in_line(line, WHOLE)
    yield from in_backticks(prose)


def in_backticks(text: str) -> Iterator[Found]:
    for found in re.findall(r"`(mmpoison [a-z][^`]*)`", text):
        yield from in_line(" ".join(found.split()), MENTION)
    for found in re.findall(rf"`((?:{'|'.join(VERBS)}) [^`]*--[^`]*)`", text):
        yield f"mmpoison {found}", NAMES


def in_notebook(text: str) -> Iterator[Found]:
    """Yield the commands of a notebook: of its texts, of its cells for a shell, and those that its outputs print."""
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield from in_page(source)
        elif source.startswith(("!", "%%")):
            yield from in_page(f"```sh\n{source}\n```")
        for output in cell.get("outputs", []):
            for lines in (output.get("text", []), output.get("data", {}).get("text/plain", [])):
                yield from in_page("```text\n{}\n```".format("".join(lines)))


def strings_in(module: str) -> Iterator[tuple[str, bool]]:
    """Yield the strings of a module, a list of words that are joined as one, and whether each is a docstring."""

    def filled(*nodes: ast.expr) -> list[str]:
        return [one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else HOLE
                for one in nodes]  # fmt: skip

    inside: set[ast.AST] = set()
    for node in ast.walk(ast.parse(module)):
        if isinstance(node, ast.Expr):
            inside.add(node.value)
            if isinstance(node.value, ast.Constant):
                yield str(node.value.value), True
        elif isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            yield "".join(filled(*node.values)), False
        elif isinstance(node, ast.List) and filled(*node.elts)[:1] == ["mmpoison"]:
            inside.update(node.elts)
            yield " ".join(filled(*node.elts)), False
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value, False


def in_module(text: str) -> Iterator[Found]:
    """Yield the commands in the strings of a module; where nothing marks their end, names alone can be checked."""
    for said, is_docstring in strings_in(text):
        for found in re.findall(r"\[bold\](mmpoison [a-z][^\[]*)\[/bold\]", said):
            yield from in_line(" ".join(found.split()), WHOLE)
        yield from in_backticks(said)
        if not is_docstring:
            for found in re.findall(r"(?m)(?:^|: |\()(mmpoison [a-z].*?)(?=\smmpoison |$)", said):
                yield found, NAMES


def in_recipe(text: str) -> Iterator[Found]:
    for found in re.findall(r"(?m)^# (mmpoison [a-z].*?)(?:  |$)", text):
        yield from in_line(found, WHOLE)


# -- checking them


def problem_of(command: str, level: int, around: str = "") -> str | None:
    """Return why a command cannot be run, or None.

    Args:
        command: From `mmpoison` on.
        level: What is checked.
        around: The text in which it stands, whose own plug-ins it may name.
    """
    _, name, *words = command.split() if level == NAMES else shlex.split(command)
    if name == HOLE:
        return None
    verb: Any = command_of(name) if name in VERBS else None
    if hasattr(verb, "commands") and words:
        name, *words = words
        verb = verb.commands.get(name)
    if verb is None:
        return f"no verb {name}"
    if "--help" in words or hasattr(verb, "commands"):
        return None
    if all(word.startswith("--") for word in words) and (not words or level == MENTION):
        level = NAMES
    if level == NAMES or "..." in words:
        named = {re.split(r"[^\w-]", word)[0] for word in words if word.startswith("--")}
        return f"no option {unknown}" if (unknown := named - spellings(verb)) else None
    loose = copy(verb)
    vars(loose).update(params=[copy(one) for one in verb.params])
    for one in loose.params:
        one.required = False
    try:
        given = loose.make_context(name, words).params
        lacks = [one.opts[0] for one in verb.params if one.required and not given[one.name]]
        arguments = [one.name for one in verb.params if one.param_type_name == "argument"]
        if lacks and (level == WHOLE or any(given[one] for one in arguments)):
            return f"lacks {lacks[0]}"
        check_names(name, given, around)
    except TyperException as error:
        return str(error.format_message())
    except InputError as error:
        return str(error)
    return None


def spellings(verb: Any) -> set[str]:
    return {each for one in verb.params for each in (*one.opts, *one.secondary_opts)}


def check_names(verb: str, given: dict[str, Any], around: str) -> None:
    """Refuse a plug-in, recipe, data set, model, parameter or key that does not exist.

    Raises:
        InputError: What does not exist.
    """

    def is_name(option: str) -> bool:
        """Return whether it is given, and neither a placeholder, a path, nor made by the text itself."""
        name = str(given.get(option) or HOLE)
        own = name.isupper() or f'register("{name}")' in around
        return name != HOLE and not own and not set(name) & set("$/.:")

    fixed, grid = split_changes_and_grid(given.get("changes") or ())
    changes = parse_changes([change for change in fixed if "$" not in change])
    if verb in DEFENDING:
        kind, option = DEFENDING[verb]
        rest = changes
        if is_name(option):
            _, rest = split_options(kind, given[option], rest)
        if not given[option] or is_name(option):
            training_settings(None, rest)
    if is_name("attack"):
        options = signature(ATTACKS[given["attack"]]).parameters
        if verb == "poison" and (unknown := changes.keys() - options.keys()):
            raise InputError(f"no option {unknown}")
    if is_name("recipe"):
        changes |= {key: values[0] for key, values in grid.items()}
        load_recipe(recipe_on(given["recipe"], given["on"]), changes, MatrixRecipe)
    if verb in ("build", "list") and is_name("name"):
        DATASETS[given["name"]]
    if verb == "fetch" and is_name("model"):
        MODELS[given["model"]]


def printed_problems(printed: str) -> list[str]:
    """Return what cannot be run of the commands that a verb has printed."""
    found = [each for line in printed.splitlines() for each in in_line(line, WHOLE)]
    assert found
    return [f"{each[0]}: {problem}" for each in found if (problem := problem_of(*each))]


# -- the texts


READ = {".md": in_page, ".ipynb": in_notebook, ".py": in_module, ".yaml": in_recipe}


def problems(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.name == "upgrade.md":  # its first columns are what there was
            text = re.sub(r"(?m)^\| .*? \|", "", text)
        for command, level in dict.fromkeys(READ[file.suffix](text)):
            if problem := problem_of(command, level, text):
                yield f"{file.relative_to(ROOT)}: {command}: {problem}"


@pytest.mark.skipif(not DOCS.is_dir(), reason="not in a built package")
def test_pages_show_commands_that_run() -> None:
    pages = {
        *DOCS.rglob("*.md"),
        *(ROOT / "lab/docs").rglob("*.md"),
        *DOCS.rglob("*.ipynb"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    }
    pages.remove(DOCS / "contracts.md")  # made from the parser, in a notation of its own
    assert not list(problems(sorted(pages)))


def test_help_and_messages_show_commands_that_run() -> None:
    assert not list(problems([*SOURCE.rglob("*.py"), *SOURCE.rglob("recipes/*.yaml")]))


def test_messages_name_options_that_exist() -> None:
    known = {"--help", "--version", "--num-gpus", "--force-reinstall"}  # the last two: ray, pip
    for name in VERBS:
        for verb in getattr(command_of(name), "commands", {"": command_of(name)}).values():
            known |= spellings(verb)
    gone = set(re.findall(r"--[\w-]+", " ".join(MOVED)))
    for file in SOURCE.rglob("*.py"):
        for said, is_docstring in strings_in(file.read_text(encoding="utf-8")):
            named = set() if is_docstring else set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", said))
            assert named - known <= gone, f"{file}: {said}"


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("Call `mmpoison review\ntraced`.", "lacks --labels"),
        ("Call `mmpoison review --labels FILE`, then `mmpoison scan --labels`.", None),
        ("`mmpoison filter`", "no verb filter"),
        ("`data verify --clear`", "no option {'--clear'}"),
        ("```sh\nmmpoison scan pairs \\\n  --kept kept   # mmpoison itself\n```", "lacks --out"),
        ("```\n$ cd x && mmpoison scan pairs --out y | head\n```", None),
        ("```sh\nmmpoison scan pairs --out x --method nearest\n```", "unknown defence 'nearest'"),
        ("```sh\nmmpoison train --model m --data d --out x --set epoch=3\n```", "epoch"),
        ("```sh\nmmpoison run table-3 --on openmojis\n```", "--on 'openmojis'"),
    ],
)
def test_what_is_found(page: str, problem: str | None) -> None:
    found = [problem_of(command, level) for command, level in in_page(page)]
    assert found
    assert str(found[0]).startswith(str(problem)) or str(problem) in str(found[0]), found
