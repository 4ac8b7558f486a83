"""House rules that import-linter does not state: no circles between modules, none too long, each says what it is."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "peak_nerf"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("peak_nerf", include_external_packages=True)


def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    """Imports within functions and for type checkers count too. Raises: CycleError, which names the circle."""
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(TopologicalSorter(arrows).static_order())) == len(arrows) > 100


def test_only_nerf_imports_nerfstudio(graph: grimp.ImportGraph) -> None:
    importers = graph.find_modules_that_directly_import("nerfstudio")
    assert importers
    assert {name for name in importers if not name.startswith("peak_nerf.nerf.")} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in MODULES if (text := path.read_text()).strip() and not ast.get_docstring(ast.parse(text))]
    assert silent == []
