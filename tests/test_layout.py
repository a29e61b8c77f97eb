"""The house's rules, checked on the source itself."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = [
    line.split()
    for line in (ROOT / "tests" / "layers.txt").read_text().splitlines()
    if line and line[0] != "#"
]
RANK = {name: int(rank) for name, rank in LINES if "." not in name}
INNER = {name: int(rank) for name, rank in LINES if "." in name}
AT_THE_DOOR = {"app", "factory", "context", "cors", "auth", "rate_limits", "routes"}


def modules() -> list[Path]:
    found = [*ROOT.glob("*.py"), *(p for name in RANK for p in (ROOT / name).rglob("*.py"))]
    return sorted(p for p in found if p.name != "gunicorn.conf.py")


def owner(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    rows = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rows += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            rows.append((node.module, node.lineno))
            rows += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return rows


def id_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_module = pytest.mark.parametrize("path", modules(), ids=id_of)


@each_module
def test_imports_only_point_down(path: Path) -> None:
    me = owner(path)
    assert me in RANK, f"{me} has no place in layers.txt"
    for name, line in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        if top == me and rest:
            mine, other = f"{me}.{path.stem}", f"{me}.{rest.split('.')[0]}"
            assert mine in INNER, f"{mine} has no place in layers.txt"
            if other in INNER:
                assert INNER[other] < INNER[mine], f"{id_of(path)}:{line} imports {name}"
        elif top in RANK and top != me:
            assert RANK[top] < RANK[me], f"{id_of(path)}:{line} imports {name}, which is above it"


@each_module
def test_flask_stays_behind_the_door(path: Path) -> None:
    if owner(path) in AT_THE_DOOR:
        return
    names = {name.split(".")[0] for name, _ in imports(ast.parse(path.read_text()))}
    assert not names & {"flask", "werkzeug", "flask_limiter"}


@each_module
def test_own_packages_are_imported_at_the_top(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = [name for name, _ in imports(node) if name.split(".")[0] in RANK]
            assert not own, f"{id_of(path)}:{node.name} imports {own} inside"


def test_no_name_is_taken_already() -> None:
    ours = {owner(path) for path in modules()}
    installed = {name for name in packages_distributions() if "." not in name}
    assert not ours & set(sys.stdlib_module_names)
    assert not ours & installed


@each_module
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300, f"{id_of(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{id_of(path)}:{node.name} has {length} lines"


@each_module
def test_everything_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{id_of(path)} does not say what it owns"
    scopes: list[ast.Module | ast.ClassDef] = [tree]
    while scopes:
        for node in scopes.pop().body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{id_of(path)}:{node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    scopes.append(node)


def test_the_layout_rules_can_fail() -> None:
    """The control: an import that points up is seen, wherever it stands."""
    tree = ast.parse("def f():\n    from factory import create_app\n")
    assert ("factory", 2) in imports(tree)
    assert RANK["factory"] > RANK["engine"]
