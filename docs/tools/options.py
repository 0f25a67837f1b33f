"""Generates the tables of options on the command-line page from the commands."""

import re
from typing import Any

import click
from typer.main import get_command

from tlkit.cli import app

_MARK = re.compile(r"^<!-- options of ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces each `<!-- options of COMMAND -->` by the table of its options."""
    return _MARK.sub(lambda mark: table_of(mark[1]), markdown)


def table_of(name: str) -> str:
    """Returns the options of a command as a table, in the order of its help."""
    command = get_command(app).commands[name]
    rows = ["| option | what it does | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            rows.append(row_of(parameter))
    return "\n".join(rows)


def row_of(option: Any) -> str:
    """Returns the row of one option: its names and metavar, help and default."""
    names = "` / `".join([*option.opts, *option.secondary_opts])
    takes = f" {option.metavar}" if option.metavar else ""
    default = option.default
    is_shown = not (default is None or default is False or default == "" or callable(default))
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    cells = [f"`{names}{takes}`", option.help or "", f"`{shown}`" if is_shown else ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
