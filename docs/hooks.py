"""
What mkdocs does with the pages of this folder beside building them.

A page may show a file of data: a line that is nothing but a link to a CSV file becomes
its table, and `<!-- sections: FILE.csv -->` a section with a table for each value of its
first column. From the code are the tables of the errors (`<!-- errors -->`), of a call's
arguments (`<!-- arguments: CALL -->`) and of a command's options
(`<!-- options: COMMAND -->`). For machines every page is also written as Markdown, at its
address with `.md` for the last slash, and `llms.txt` lists them (https://llmstxt.org/).
"""

import csv
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import griffe
import typer
from griffe import DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

# The package need not be installed.
_ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(_ROOT))

import aioupsert.errors  # noqa: E402
from aioupsert.cli.app import app  # noqa: E402

_TABLE: Final = re.compile(r"^\[[^]]+\]\((\S+\.csv)\)$", re.MULTILINE)
_ERRORS: Final = re.compile(r"^<!-- errors -->$", re.MULTILINE)
_ARGUMENTS: Final = re.compile(r"^<!-- arguments: (\w+) -->$", re.MULTILINE)
_OPTIONS: Final = re.compile(r"^<!-- options: (\w+) -->$", re.MULTILINE)
_SECTIONS: Final = re.compile(r"^<!-- sections: (\S+\.csv) -->$", re.MULTILINE)
# A tab, or a box that may be closed, and what is indented below it.
_BOX: Final = re.compile(
    r'^(?P<indent> *)(?:===|\?\?\?\+?|!!!) .*"(?P<title>.+)"\n'
    r"(?P<body>(?:\n|(?P=indent)    .*\n)+)",
    re.MULTILINE,
)
_GENERATED: Final = re.compile(
    r"^::: (?P<path>[\w.]+)\n(?:    .*\n)*?(?P<members>(?:        - \w+\n)*)(?:    .*\n)*",
    re.MULTILINE,
)
# The first sentence below the title, where no picture, box or block of code stands.
_INTRODUCTION: Final = re.compile(
    r"\A# .+\n+(?!\*\*|[!|#]|```)(.+?)(?:[.:] |[.:]?$)", re.MULTILINE
)
_LINK: Final = re.compile(r"\[([^]]+)\]\([^)]+\)")
_MARKDOWN: Final[dict[str, str]] = {}


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Put the tables into the page."""
    del files
    folder = Path(config.docs_dir, page.file.src_path).parent
    shown = _TABLE.sub(lambda found: table(*read(folder / found[1])), markdown)
    shown = _SECTIONS.sub(lambda found: tables(folder / found[1]), shown)
    shown = _ERRORS.sub(lambda _: errors(), shown)
    shown = _ARGUMENTS.sub(lambda found: arguments(found[1]), shown)
    shown = _OPTIONS.sub(lambda found: options(found[1]), shown)
    _MARKDOWN[page.file.src_uri] = plain(shown)
    return shown


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Remember the order of the pages."""
    del files
    config.extra["llms"] = [*sections(nav)]
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write the pages for machines."""
    site = Path(config.site_dir)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for title, pages in config.extra["llms"]:
        lines += ["", f"## {title}", ""]
        lines += [entry(page.title, page.file.src_uri) for page in pages]
    site.joinpath("llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    for name, text in _MARKDOWN.items():
        site.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        site.joinpath(name).write_text(text, "utf-8")


def sections(nav: Navigation) -> Iterator[tuple[str, list[Page]]]:
    """Return the sections of the navigation, each with its pages."""
    for section in nav.items:
        yield str(section.title), [page for page in section.children or () if page]


def entry(title: object, name: str) -> str:
    """Return a page's line of the list, with its first sentence."""
    found = _INTRODUCTION.search(_MARKDOWN[name])
    sentence = _LINK.sub(r"\1", found[1]) if found else ""
    return f"- [{title}]({name})" + f": {sentence}" * bool(sentence)


def tables(file: Path) -> str:
    """Return a section with a table for each value of the first column."""
    header, *rows = read(file)
    parts = []
    for title, group in groupby(rows, itemgetter(0)):
        some = [*group]
        used = [n for n in range(2, len(header)) if any(row[n] for row in some)]
        setting = some[0][1]
        parts += [
            f"## {capitalized(title)}\n",
            *([f"{capitalized(setting)}.\n"] if setting else []),
            table(*([row[n] for n in used] for row in [header, *some])),
        ]
    return "\n".join(parts)


def read(file: Path) -> list[list[str]]:
    """Return the rows of a file, its header first."""
    with file.open(encoding="utf-8", newline="") as opened:
        return [*csv.reader(opened)]


def capitalized(text: str) -> str:
    """Return the text with a capital letter first."""
    return text[:1].upper() + text[1:]


def table(header: Sequence[str], *rows: Sequence[str]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def errors() -> str:
    """Return the table of the errors, from their docstrings."""
    classes = [e for e in vars(aioupsert.errors).values() if inspect.isclass(e)]
    return table(
        ("error", "meaning", "attributes"),
        *(error_row(cls) for cls in classes if issubclass(cls, Exception)),
    )


def error_row(cls: type[Exception]) -> tuple[str, str, str]:
    """Return the row of an error: its name and bases, its docstring, its attributes."""
    base = aioupsert.errors.AioupsertError
    bases = [f"a `{b.__name__}`" for b in cls.__bases__ if b not in {base, Exception}]
    name = f"[`{cls.__name__}`](api.md#aioupsert.errors.{cls.__name__})"
    text, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    names = re.findall(r"^    (\w+):", attributes, re.MULTILINE)
    return (
        ", ".join([name, *bases]),
        " ".join(text.split()),
        ", ".join(f"`{name}`" for name in names),
    )


def arguments(call: str) -> str:
    """Return the table of the arguments of a call, or of a class, from its docstring."""
    of = documented_object(f"aioupsert.{call}")
    of = of["__init__"] if of.is_class else of
    (described,) = (
        section.value
        for section in of.docstring.parsed
        if section.kind is DocstringSectionKind.parameters
    )
    parameters = inspect.signature(getattr(aioupsert, call)).parameters
    defaults = {
        name: f"`{parameter.default!r}`"
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    rows = (
        (f"`{one.name}`", " ".join(one.description.split()), defaults.get(one.name, ""))
        for one in described
    )
    return table(("argument", "meaning", "default"), *rows)


def options(command: str) -> str:
    """Return the table of a command's options, from its help."""
    group: Any = typer.main.get_command(app)
    made = group.commands[command]
    context = made.make_context(command, [], resilient_parsing=True)
    records = [
        parameter.get_help_record(context)
        for parameter in made.params
        if parameter.param_type_name == "option"
    ]
    # A terminal shows these characters as they are.
    shown = [
        [re.sub(r"[*<|]", r"\\\g<0>", text) for text in record] for record in records
    ]
    return table(("option", "meaning"), *((f"`{o}`", help_) for o, help_ in shown))


def plain(markdown: str) -> str:
    """Return the page without what only the site can show."""
    while _BOX.search(markdown):
        markdown = _BOX.sub(
            lambda box: f"{box['indent']}**{box['title']}**\n" + outdented(box),
            markdown,
        )
    return _GENERATED.sub(generated, markdown)


def outdented(box: re.Match[str]) -> str:
    """Return what is inside of a box, as far left as the box."""
    lines = dedent(box["body"]).splitlines(keepends=True)
    return "".join(box["indent"] + line if line.strip() else "\n" for line in lines)


def generated(found: re.Match[str]) -> str:
    """Return the docstrings that the site has in this place."""
    of = documented_object(found["path"])
    members = found["members"].split()[1::2]
    if not members and of.is_module:
        members = [name for name, member in of.members.items() if member.is_public]
    objects = [of[name] for name in members] if members else [of]
    return "\n".join(documented(one) for one in objects)


def documented_object(path: str) -> Any:
    """Return a module, class or function with its docstring."""
    name = path.partition(".")[2]
    of = package()[name] if name else package()
    return of.final_target if of.is_alias else of


@cache
def package() -> Any:
    """Return the package, which takes a while to read."""
    return griffe.load(
        "aioupsert",
        search_paths=[_ROOT],
        docstring_parser="google",
        resolve_aliases=True,
    )


def documented(one: Any, inside: str = "") -> str:
    """Return the signature and the docstring of what is documented, and of its methods."""
    target = one.final_target if one.is_alias else one
    name = target.signature() if target.is_function else one.name
    docstring = target.docstring.value if target.docstring else ""
    parts = [f"### `{inside}{name}`\n\n{docstring}\n"]
    if target.is_class:
        methods = [
            m for m in target.members.values() if m.is_public and m.has_docstring
        ]
        parts += [documented(m, f"{one.name}.") for m in methods if m.is_function]
    return "\n".join(parts)
