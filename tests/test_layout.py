"""The rules of the layout, checked on the source. Each test lists the offenders."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import LONGEST, ON_THE_REAL_MODEL

ROOT = Path(__file__).parent.parent
LAYERS = dict(
    line.split()
    for line in (ROOT / "tests" / "layers.txt").read_text().splitlines()
    if line and line[0] != "#"
)
RANK = {name: int(rank) for name, rank in LAYERS.items()}
AT_THE_DOOR = {"app", "factory", "context", "cors", "auth", "rate_limits", "routes"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
LONGER: dict[str, str] = {}  # "path" or "path:function", and the reason


@cache
def modules() -> list[Path]:
    rooms = {name.partition(".")[0] for name in RANK}
    found = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    return sorted(path for path in found if path.name != "gunicorn.conf.py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def owner(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def in_package(path: Path) -> str:
    """The path's entry of a package, as layers.txt names it: `sql.migrations` for all within."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """Each imported name in full, with its line."""
    rows = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            rows += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            rows += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return rows


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def upward(mine: str, tree: ast.AST) -> list[str]:
    """The imports of a module that do not point to a lower layer."""
    wrong, me = [], mine.partition(".")[0]
    for name, line in imports(tree):
        top, _, rest = name.partition(".")
        other = f"{me}.{rest.split('.')[0]}"
        if top != me and top in RANK and RANK[top] >= RANK[me]:
            wrong.append(f"line {line} imports {name}, which is above it")
        elif top == me and other != mine and mine not in RANK:
            wrong.append(f"has no place in layers.txt and imports {name}")
        elif top == me and other in RANK.keys() - {mine} and RANK[other] >= RANK[mine]:
            wrong.append(f"line {line} imports {name}, which is above it")
    return wrong


def none(offenders: Iterable[str]) -> bool:
    """True if there are no offenders. Fails with the list of them."""
    listed = sorted(set(offenders))
    assert not listed, "\n".join(["", *listed])
    return True


def test_imports_only_point_down() -> None:
    there = {owner(path) for path in modules()}
    there |= {in_package(path) for path in modules()}
    assert none(f"{name} is in layers.txt and is not there" for name in RANK.keys() - there)
    assert none(f"{place(p)} has no place in layers.txt" for p in modules() if owner(p) not in RANK)
    assert none(
        f"{place(path)} {wrong}"
        for path in modules()
        for wrong in upward(in_package(path), tree_of(path))
    )


def test_flask_stays_behind_the_door() -> None:
    flask = {"flask", "werkzeug", "flask_limiter"}
    assert none(
        f"{place(path)}:{line} imports {name}"
        for path in modules()
        if owner(path) not in AT_THE_DOOR
        for name, line in imports(tree_of(path))
        if name.partition(".")[0] in flask
    )


def test_own_packages_are_imported_at_the_top() -> None:
    assert none(
        f"{place(path)}:{line} imports {name} in {function.name}"
        for path in modules()
        for function in functions(tree_of(path))
        for name, line in imports(function)
        if name.partition(".")[0] in RANK
    )


def test_files_and_functions_stay_small() -> None:
    share = {}
    for path in modules():
        share[place(path)] = path.read_text().count("\n") / LONGEST_FILE
        for function in functions(tree_of(path)):
            length = (function.end_lineno or 0) - function.lineno + 1
            share[f"{place(path)}:{function.name}"] = length / LONGEST_FUNCTION
    long = {name for name, of_the_limit in share.items() if of_the_limit > 1}
    assert none(f"{name} is too long" for name in long - LONGER.keys())
    assert none(f"{name} is short enough" for name in LONGER.keys() - long)


def cut(sources: dict[str, str]) -> list[str]:
    """Classes whose only heir is in their package, has no other base, and alone names them."""
    words = Counter(word for text in sources.values() for word in re.findall(r"\w+", text))
    classes = [(path, node) for path, text in sources.items() for node in ast.walk(ast.parse(text))
               if isinstance(node, ast.ClassDef)]  # fmt: skip
    found = []
    for path, parent in classes:
        heirs = [(other, node) for other, node in classes
                 if parent.name in map(ast.unparse, node.bases)]  # fmt: skip
        if len(heirs) != 1 or words[parent.name] > 3:  # its own line, the import and the heir's
            continue
        ((other, heir),) = heirs
        same = other != path and Path(other).parts[0] == Path(path).parts[0]
        if same and len(heir.bases) == 1:
            found.append(f"{path}: {parent.name} is a part of {heir.name} in {other}")
    return found


def test_no_class_is_cut_in_two() -> None:
    assert none(cut({place(path): path.read_text() for path in modules()}))


def test_no_name_is_taken_already() -> None:
    ours = {owner(path) for path in modules()}
    installed = {name for name in packages_distributions() if "." not in name}
    assert none(ours & {*installed, *sys.stdlib_module_names})


def test_the_layout_rules_can_fail() -> None:
    tree = ast.parse("def f():\n    from factory import create_app\n")
    assert upward("app", tree) == []
    assert len(upward("engine", tree)) == 1
    halves = {"a/b.py": "class Half: ...", "a/c.py": "from a.b import Half\nclass All(Half): ..."}
    assert len(cut(halves)) == 1
    assert cut({**halves, "a/d.py": "from a.b import Half\nHalf()"}) == []
    with pytest.raises(AssertionError, match="x.py"):
        none(["x.py"])


def test_the_files_that_start_first_are_there() -> None:
    named = {*LONGEST, *ON_THE_REAL_MODEL} - {"real_url"}
    assert none(name for name in named if not (ROOT / "tests" / name).exists())
