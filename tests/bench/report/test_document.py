"""A report's blocks as Markdown and HTML."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from peak_nerf.bench.report.document import Document, Drawing, Grid, Heading, Paragraph, Text


def test_every_kind_of_block_in_markdown() -> None:
    grid = Grid(
        ["image", "peak"], [[Text("lena"), Text("22.0", "paper 21.0", bold=True)]], 1, [[Text("mean"), Text("")]]
    )
    document = Document("A title", [Heading("H"), Paragraph("a | b"), grid, Drawing("<svg></svg>", "curve")])
    assert document.markdown() == (
        "# A title\n\n## H\n\na \\| b\n\n"
        "| image | peak |\n| --- | ---: |\n| lena | **22.0** (paper 21.0) |\n| mean |  |\n\n"
        "*curve: drawn in the HTML page.*\n"
    )


class Balance(HTMLParser):
    """Counts what is open, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_any_text_is_text_in_html_and_one_column_in_markdown(text: str) -> None:
    grid = Grid(["a", "b"], [[Text(text), Text("x", text, bad=True, left=True)]])
    document = Document("t", [grid, Heading(text), Paragraph(text)])
    page = Balance()
    page.feed(document.html())
    page.close()
    assert page.open == []
    assert page.text.count(text) >= 4
    row = next(line for line in document.markdown().splitlines() if line.startswith("|") and " x" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_texts_are_best_missing_and_small_in_html() -> None:
    texts = [Text("1", bold=True), Text("failed", bad=True), Text("2", "paper 3"), Text("4", thumbnail=b"jpeg")]
    html = Document("t", [Grid(["a", "b", "c", "d", "e"], [[Text("row"), *texts]])]).html()
    assert "<b>1</b>" in html
    assert '<span class="bad">failed</span>' in html
    assert '2 <span class="faint">paper 3</span>' in html
    assert f'src="data:image/jpeg;base64,{base64.b64encode(b"jpeg").decode()}"' in html
    assert '<th class="axis">row</th>' in html
