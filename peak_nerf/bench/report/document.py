"""A report as blocks, and the blocks as Markdown and as one HTML page that needs nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8885; --faint: #767676; --bad: #b3401a; --shade: #8881; }
@media (prefers-color-scheme: dark) { :root { --faint: #a0a0a0; --bad: #ff9166; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: bottom; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th.axis, td.text { text-align: left; }
tr.foot td, tr.foot th { background: var(--shade); }
td img { display: block; margin-left: auto; width: 96px; height: auto; image-rendering: auto; }
.faint { color: var(--faint); font-size: .85em; } .bad { color: var(--bad); }
td { white-space: nowrap; } td.text { white-space: normal; }
svg { max-width: 100%; height: auto; } svg * { stroke-linejoin: round; stroke-linecap: butt; }
"""


@dataclass(frozen=True)
class Text:
    """The text of one field of a grid."""

    text: str
    faint: str = ""
    """Said beside it, in brackets or small."""
    bold: bool = False
    bad: bool = False
    """In place of a figure that is not there."""
    left: bool = False
    thumbnail: bytes | None = None
    """A JPEG."""


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table whose first `n_axes` columns name the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[Text]]
    n_axes: int = 1
    foot: Sequence[Sequence[Text]] = ()


@dataclass(frozen=True)
class Drawing:
    """A plot as SVG; Markdown names it only."""

    svg: str
    caption: str


Block = Heading | Paragraph | Grid | Drawing


@dataclass
class Document:
    """A report."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def markdown(self) -> str:
        """As GitHub reads it."""
        parts = [f"# {_markdown_text(self.title)}"]
        for block in self.blocks:
            if isinstance(block, Heading):
                parts.append(f"## {_markdown_text(block.text)}")
            elif isinstance(block, Paragraph):
                parts.append(_markdown_text(block.text))
            elif isinstance(block, Grid):
                parts.append(_markdown_grid(block))
            else:
                parts.append(f"*{_markdown_text(block.caption)}: drawn in the HTML page.*")
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """One page."""
        body = "\n".join(_html_block(block) for block in self.blocks)
        title = escape(self.title)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
        )


def _markdown_text(text: str) -> str:
    for mark in "\\`*_<|":
        text = text.replace(mark, f"\\{mark}")
    return text


def _markdown_styled(styled: Text) -> str:
    text = _markdown_text(styled.text)
    text = f"**{text}**" if styled.bold and text else text
    return f"{text} ({_markdown_text(styled.faint)})" if styled.faint else text


def _markdown_grid(grid: Grid) -> str:
    rows = [list(map(_markdown_styled, row)) for row in [*grid.rows, *grid.foot]]
    rule = ["---" if left else "---:" for left in _left_columns(grid)]
    lines = [list(map(_markdown_text, grid.head)), rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _left_columns(grid: Grid) -> list[bool]:
    return [i < grid.n_axes or all(row[i].left for row in grid.rows) for i in range(len(grid.head))]


def _html_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Drawing):
        return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
    columns = zip(block.head, _left_columns(block), strict=True)
    head = "".join(f"<th{' class=axis' if left else ''}>{escape(name)}</th>" for name, left in columns)
    rows = "\n".join(_html_row(row, block.n_axes, "") for row in block.rows)
    foot = "\n".join(_html_row(row, block.n_axes, " class=foot") for row in block.foot)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{rows}\n{foot}\n</table></div>'


def _html_row(row: Sequence[Text], n_axes: int, attribute: str) -> str:
    return f"<tr{attribute}>{''.join(_html_text(text, i < n_axes) for i, text in enumerate(row))}</tr>"


def _html_text(styled: Text, axis: bool) -> str:
    text = escape(styled.text)
    text = f"<b>{text}</b>" if styled.bold else f'<span class="bad">{text}</span>' if styled.bad else text
    if styled.faint:
        text += f' <span class="faint">{escape(styled.faint)}</span>'
    if styled.thumbnail is not None:
        data = base64.b64encode(styled.thumbnail).decode()
        text = f'<img alt="{escape(styled.text)}" src="data:image/jpeg;base64,{data}">{text}'
    return f'<th class="axis">{text}</th>' if axis else f"<td{' class=text' if styled.left else ''}>{text}</td>"
