"""The house rules that no linter holds: homes of heavy dependencies, sizes, circles of files, worn words, removals, mirrored tests."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bitfront", "quant_core", "spaces", "hw_models", "search")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HOMES = {
    "mlflow": ("search/tracking/", "search/exporters/registry.py"),
    "ray": ("search/sweeps/ray/",),
    "optuna": ("search/searchers/optuna/", "search/searchers/auto.py"),
    "stable_baselines3": ("search/searchers/haq/",),
    "gymnasium": ("search/searchers/haq/",),
    "onnx": ("quant_core/export/", "hw_models/profiling/"),
    "onnxruntime": ("quant_core/export/", "hw_models/profiling/"),
    "openvino": ("quant_core/export/openvino/",),
    "executorch": ("quant_core/export/executorch/",),
    "ai_edge_litert": ("quant_core/export/litert/",),
    "gguf": ("quant_core/export/",),
    "plotly": ("search/report/",),
    "matplotlib": ("search/report/png.py",),
    "pandas": ("bitfront/",),
    "transformers": ("search/tasks/stories260k.py", "search/tasks/llama10m/training.py", "search/tasks/hf/place.py"),
    "tokenizers": ("search/tasks/llama10m/training.py",),
    "datasets": ("search/tasks/hf/tables.py",),
    "safetensors": ("quant_core/export/", "search/tasks/cache.py", "search/tasks/networks/checkpoint.py", "search/searchers/haq/saved.py"),
    "PIL": ("search/tasks/image_folder.py",),
    "timm": ("search/tasks/image_folder.py",),
    "pycocotools": ("search/tasks/metrics/detection.py",),
    "typer": ("search/cli/",),
}
LONGEST_MODULE, LONGEST_FUNCTION, LOOSE_MODULES = 300, 43, 15
WORDS = {"each": 0, "found": 0, "given": 3, "known": 4, "own": 1, "able": 0}  # assignments allowed
WHAT_DOCSTRINGS = 18  # "Return what ...", "Refuse what ...": a noun says more
LOWER = "lower this number when you remove some"
OWN_PLACES = {  # tests whose subject is no one module or package of the mirrored name
    "tests/search/test_hostile_records.py": "experiments, device files, journals and tags of strangers",
    "tests/bitfront/test_examples.py": "the examples in the docstrings of all modules",
    "tests/bitfront/test_notebook.py": "docs/tutorial.ipynb",
    "tests/bitfront/test_large_layers.py": "the memory that large layers take from evaluation to export",
    "tests/bitfront/test_wheel.py": "the built distribution",
    "tests/hw_models/models/test_own_model.py": "a device model that a user brings",
    "tests/hw_models/test_docs.py": "docs/hardware.md",
    "tests/hw_models/test_monotone.py": "a property of the tables of all devices",
    "tests/search/cli/test_readme.py": "the task of README.md",
    "tests/search/searchers/optuna/test_dashboard.py": "the study of a sweep in optuna-dashboard",
    "tests/search/config/test_packaged.py": "the experiments in the wheel against examples/",
    "tests/search/exporters/test_all_formats.py": "every format through every exporter",
    "tests/search/exporters/test_same_bytes.py": "two exports by every format",
    "tests/search/sweeps/test_edges.py": "sweeps of one policy",
    "tests/search/sweeps/test_kv_cache.py": "sweeps that choose the format of keys and values",
    "tests/search/tracking/test_foreign.py": "a store that somebody else made",
    "tests/search/test_recorded.py": "sweeps that version 0.1.0 recorded",
}


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_heavy_dependencies_stay_in_their_home() -> None:
    strays = [
        f"{_relative(path)} imports {name}, whose homes are {HOMES[name]}"
        for path in MODULES
        for name in sorted(_imported(path) & set(HOMES))
        if not _relative(path).startswith(HOMES[name])
    ]
    assert not strays, strays


def test_every_home_of_a_heavy_dependency_is_lived_in() -> None:
    for name, homes in HOMES.items():
        for home in homes:
            assert any(_relative(path).startswith(home) and name in _imported(path) for path in MODULES), (
                f"no file of {home} imports {name}"
            )


def _too_long(paths: list[Path]) -> dict[str, int]:
    """Return the files of more lines than are allowed."""
    lines = {_relative(path): len(path.read_text().splitlines()) for path in paths}
    return {name: count for name, count in lines.items() if count > LONGEST_MODULE}


def test_modules_and_functions_are_small() -> None:
    assert not _too_long(MODULES), f"modules of more than {LONGEST_MODULE} lines, split them: {_too_long(MODULES)}"
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = [(path, node) for path in MODULES for node in ast.walk(_tree(path)) if isinstance(node, kinds)]
    long = {f"{_relative(path)}: {node.name}": _lines(node) for path, node in functions if _lines(node) > LONGEST_FUNCTION}
    assert not long, f"functions over {LONGEST_FUNCTION} lines beside their docstring: {long}"


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function beside its docstring: public functions have long ones, with examples."""
    first, docstring = function.body[0], ast.get_docstring(function)
    return (function.end_lineno or 0) - function.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("package", PACKAGES)
def test_few_modules_are_loose_at_the_root_of_a_package(package: str) -> None:
    loose = sorted(path.name for path in (ROOT / package).glob("*.py") if path.stem not in ("__init__", "__main__"))
    assert len(loose) <= LOOSE_MODULES, (
        f"{package} has {len(loose)} modules at its root, {LOOSE_MODULES} are allowed; make packages of {loose}"
    )


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        getattr(part, "id", getattr(part, "attr", "")) == "TYPE_CHECKING" for part in ast.walk(node.test)
    )


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node below this one, except the bodies of `if TYPE_CHECKING`."""
    for child in node.orelse if isinstance(node, ast.If) and _for_types_only(node) else ast.iter_child_nodes(node):
        yield child
        yield from _running(child)


def _needs(path: Path, modules: set[str]) -> set[str]:
    """Return the modules of ours that a file imports, inside functions too."""
    package = _module(path).split(".") if path.name == "__init__.py" else _module(path).split(".")[:-1]
    needs: set[str] = set()
    for node in _running(_tree(path)):
        if isinstance(node, ast.Import):
            needs |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            full = {f"{origin}.{alias.name}" for alias in node.names}
            needs |= full & modules | ({origin} if full - modules else set())
    return needs & modules - {_module(path)}


def test_no_circle_of_files() -> None:
    modules = {_module(path) for path in MODULES}
    graph = {_module(path): _needs(path, modules) for path in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        pytest.fail(f"these files import each other in a circle: {circle}; move the shared part into a file below both")


@pytest.mark.parametrize("word", WORDS)
def test_worn_words_are_assigned_no_more_often(word: str) -> None:
    uses = [
        f"{_relative(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == word
    ]
    _assert_falls(uses, WORDS[word], f"assignments of {word!r}; name the thing (a loop variable has the noun of its element)")


def test_no_function_returns_found() -> None:
    returns = [node for path in MODULES for node in ast.walk(_tree(path)) if isinstance(node, ast.Return)]
    assert not [node for node in returns if isinstance(node.value, ast.Name) and node.value.id == "found"], "return the thing itself"


def test_docstrings_name_their_object() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = [(path, node) for path in MODULES for node in ast.walk(_tree(path)) if isinstance(node, kinds)]
    uses = [f"{_relative(path)}: {node.name}" for path, node in nodes if re.match(r"\w+ what\b", ast.get_docstring(node) or "")]
    _assert_falls(
        uses, WHAT_DOCSTRINGS, "docstrings that begin 'Return what ...' or the like; name the object ('Return the cache key ...')"
    )


def _assert_falls(uses: list[str], limit: int, things: str) -> None:
    """The limit is the count of today: more is refused, and fewer lowers it."""
    assert len(uses) <= limit, f"{len(uses)} {things}; {limit} are allowed: {uses}"
    assert len(uses) == limit, f"{len(uses)} {things}; {limit} are allowed: {LOWER} (in {_relative(Path(__file__))})"


def _name(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _names(nodes: list[ast.AST]) -> set[str]:
    return {_name(part) for node in nodes for part in ast.walk(node)}


def _removals(tree: ast.Module) -> Iterator[str]:
    """Yield the removals of a whole folder: rmtree, removedirs, or unlink, remove and rmdir in a loop over rglob or walk."""
    for node in ast.walk(tree):
        imported = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        for name in ({_name(node)} | imported) & {"rmtree", "removedirs"}:
            yield f"{name} in line {getattr(node, 'lineno', '?')}"
        for name in _names(_done_in_a_walk(node)) & {"unlink", "remove", "rmdir"}:
            yield f"{name} in the walk of line {getattr(node, 'lineno', '?')}"


def _done_in_a_walk(node: ast.AST) -> list[ast.AST]:
    """Return the body of a loop or comprehension over all that is below a folder, or nothing."""
    if isinstance(node, ast.For):
        return list(node.body) if _names([node.iter]) & {"rglob", "walk", "fwalk"} else []
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        return [node.elt] if _names([part.iter for part in node.generators]) & {"rglob", "walk", "fwalk"} else []
    return []


def test_no_file_removes_a_folder_with_all_its_files() -> None:
    removals = {_relative(path): list(_removals(_tree(path))) for path in MODULES}
    recursive = {name: places for name, places in removals.items() if places}
    assert not recursive, f"these remove recursively: {recursive}; remove the files that you wrote, by name, or use TemporaryDirectory"


def test_test_files_are_small() -> None:
    long = _too_long(TESTS)
    assert not long, f"test files of more than {LONGEST_MODULE} lines, split them by the module that they test: {long}"


def _is_mirrored(path: Path) -> bool:
    """Tell whether X.py or the package X stands in the mirrored place of `test_X.py`, or of `test_X_aspect.py`; a package holds its own."""
    place, words = ROOT / path.relative_to(ROOT / "tests").parent, path.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
    return place.is_dir() and any(
        (place / f"{name}.py").exists() or (place / name).is_dir() or name in (place.name, "init") for name in names
    )


def _tests_of_packages() -> list[Path]:
    return [path for path in TESTS if path.name.startswith("test_") and path.relative_to(ROOT / "tests").parts[0] in PACKAGES]


def test_tests_mirror_the_tree() -> None:
    astray = [where for path in _tests_of_packages() if not _is_mirrored(path) and (where := _relative(path)) not in OWN_PLACES]
    assert not astray, f"these test no module of that name and place: {astray}; move them, or add them to OWN_PLACES"


@pytest.mark.parametrize("where", OWN_PLACES)
def test_tests_with_a_place_of_their_own_need_one(where: str) -> None:
    assert (ROOT / where).exists(), f"{where} does not exist: remove it from OWN_PLACES"
    assert not _is_mirrored(ROOT / where), f"{where} mirrors a module: remove it from OWN_PLACES"


def test_no_init_file_under_tests() -> None:
    assert not [_relative(path) for path in TESTS if path.name == "__init__.py"], "tests are imported by importlib: remove it"


@pytest.mark.parametrize("module", ["quant_core", "spaces.rules", "hw_models", "search.problem.problem", "search.records.result"])
def test_nouns_are_free_of_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_property_is_tested_against_the_clock() -> None:
    """A limit per example fails on a machine that does other work."""
    assert hypothesis.settings().deadline is None
    assert hypothesis.HealthCheck.too_slow in hypothesis.settings().suppress_health_check
    limited = [_relative(path) for path in TESTS if re.search(r"deadline=(?!None)", path.read_text()) and path != Path(__file__)]
    assert not limited


def test_the_heavy_files_are_there() -> None:
    from tests.conftest import HEAVY

    assert [name for name in HEAVY if not (ROOT / name).is_file()] == []
