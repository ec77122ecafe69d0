"""The pages: links, anchors, module paths, lengths, and the places that must name every page."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
PACKAGES = "bitfront|quant_core|search|hw_models|spaces|benchmarks"
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
LINES = {"benchmarks.md": 180, "README.md": 180, "CHANGELOG.md": 400}
"""Page -> lines it may have. Others: 150."""
KEYS = ("search.searcher", "search.options", "search.trials", "search.seed")
"""Keys of an experiment file that have the form of a module path."""


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs form them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@BY_PAGE
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
        elif page.parent == DOCS and DOCS not in file.parents:
            broken.append(f"{target}: a link out of docs/ does not work in the web site; write the path as code")
    assert not broken


@BY_PAGE
def test_every_python_block_parses(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.S | re.M):
        ast.parse(block)


@BY_PAGE
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= LINES.get(page.name, 150), "split the page"


@functools.cache
def names(module: Path) -> frozenset[str]:
    """Return the names that a module defines or imports at its top level."""
    defined: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(defined)


def exists(dotted: str) -> bool:
    """Say whether `package.module.name` or `package.module` is in the tree, without importing it."""
    path, parts = ROOT, dotted.replace(":", ".").split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    module = path / "__init__.py"
    if parts and (path / f"{parts[0]}.py").is_file():
        module = path / f"{parts.pop(0)}.py"
    return not parts or (module.is_file() and parts[0] in names(module))


@BY_PAGE
def test_module_paths_of_pages_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("the changelog names modules of earlier versions")
    text = page.read_text()
    dotted = re.findall(rf"(?<![\w./-])(?:{PACKAGES})(?!\.(?:md|svg|jsonl?)\b)(?:\.[A-Za-z_]\w*)+(?::\w+)?", text)
    # a tag of MLflow has the form of a module path too: bitfront.pareto
    wrong = [name for name in dotted if name not in KEYS and not name.startswith("bitfront.") and not exists(name)]
    files = re.findall(rf"(?<![\w./-])(?:{PACKAGES}|tests|docs|examples)/[\w./-]*\w", text)
    assert not wrong + [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_in_the_index_and_the_navigation(page: Path) -> None:
    assert f" {page.name}\n" in (ROOT / "mkdocs.yml").read_text()
    assert page.name == "index.md" or f"({page.name})" in (DOCS / "index.md").read_text()


def test_the_glossary_is_sorted_and_has_the_terms_of_the_design() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\*", (DOCS / "glossary.md").read_text(), flags=re.M)
    keys = [term.lower() for term in terms]
    assert keys == sorted(keys)
    wanted = "knee, hypervolume, sensitivity, fidelity, ladder, promotion, codec, site, repair, regret, plateau, qparams, amax"
    assert set(wanted.split(", ")) <= set(keys)


def test_the_architecture_page_has_the_import_order_of_the_contracts() -> None:
    page = (DOCS / "architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        for package in set(contract.get("containers", [])) & {"search", "quant_core", "hw_models"}:
            order = f"{package.ljust(10)}  {' -> '.join(contract['layers'])}"
            assert f"    {order}\n" in page, f"docs/architecture.md lacks the line: {order}"


def test_data_is_not_in_docs() -> None:
    assert not [path.name for path in DOCS.iterdir() if path.suffix in (".jsonl", ".csv")]
    assert sorted(path.name for path in DOCS.glob("*.json")) == ["experiment.schema.json", "policy.schema.json"]


def test_the_api_page_names_every_public_name() -> None:
    init = ROOT / "bitfront" / "__init__.py"
    if not init.is_file():
        pytest.skip("the package bitfront is not in this tree")
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            public = set(ast.literal_eval(node.value))
            assert public == set(re.findall(r"^::: bitfront\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.M))
            return
    pytest.fail("bitfront/__init__.py has no __all__")


def test_every_place_of_data_is_named() -> None:
    """A task that looks for files names their folder in a `Source`; docs/tasks.md says what lies where."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "search/tasks").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Source"]
    names = {ast.literal_eval(call.args[0]) for call in calls}
    assert len(names) > 5
    text = (DOCS / "tasks.md").read_text()
    assert [name for name in names if f"BITFRONT_DATA/{name}" not in text and (name != "cifar10" or "cifar-10-batches" not in text)] == []
