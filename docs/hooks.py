"""What the site adds to its pages: files of results, the options of every command, and a navigation without gaps.

Result files lie outside of docs/, where pages link to them as the repository has them; the site carries copies.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
OUTSIDE = re.compile(r"(?:\.\./)+benchmarks/results/")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what is not written yet."""
    config.nav = _existing(config.nav, Path(config.docs_dir))
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links to result files at the site's copies, and fill in the options of the commands."""
    depth = page.url.count("/") if page.url != "./" else 0
    markdown = OUTSIDE.sub("../" * depth + "results/", markdown)
    return markdown.replace("<!-- commands -->", commands()) if "<!-- commands -->" in markdown else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Copy the result files beside the pages."""
    shutil.copytree(RESULTS, Path(config.site_dir) / "results", dirs_exist_ok=True)


def commands() -> str:
    """Return the help of every command as Markdown."""
    from incontext.cli.options import app

    return "\n\n".join(_told(typer.main.get_command(app), "incontext", 2))


def _told(command: Any, name: str, level: int) -> list[str]:
    """Heading and help of a command, and of those below it. Typer brings a click of its own, so its types stay open."""
    context = command.context_class(command, info_name=name, terminal_width=100)
    told = [f"{'#' * level} `{name}`", f"```text\n{command.get_help(context)}\n```"]
    below = command.list_commands(context) if hasattr(command, "list_commands") else ()
    for each in below:
        told += _told(command.get_command(context, each), f"{name} {each}", min(level + 1, 4))
    return told


def _existing(nav: Any, folder: Path) -> Any:
    if isinstance(nav, str):
        return nav if (folder / nav).is_file() else None
    if isinstance(nav, dict):
        kept = {title: _existing(below, folder) for title, below in nav.items()}
        return {title: below for title, below in kept.items() if below} or None
    return [each for each in (_existing(below, folder) for below in nav) if each]
