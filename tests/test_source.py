"""
What no source file may contain, whatever its tests say: rules over the syntax tree, and over the text of every file.

A rule that finds nothing is worth nothing unless it can find something, so each stands beside samples that break it and
samples that do not. The samples of tokens and paths are put together here, because this file is searched as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

Rule = Callable[[ast.AST], Iterator[ast.AST]]
"""Yields the nodes of a tree that break it."""


def imports_of(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each imported name in full, ``time.sleep`` for ``from time import sleep``, beside its node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def guessable(tree: ast.AST) -> Iterator[ast.AST]:
    """Randomness comes from `secrets` alone (B2)."""
    for node, name in imports_of(tree):
        if name.partition(".")[0] in ("random", "uuid"):
            yield node


def sleeping(tree: ast.AST) -> Iterator[ast.AST]:
    """The core never waits: a delay would tell what it hides, and hold up everybody else (B8)."""
    for node, name in imports_of(tree):
        if name in ("time.sleep", "asyncio.sleep"):
            yield node
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            yield node


CONFIDENTIAL = re.compile(r"digest|secret|token|pepper", re.IGNORECASE)
PUBLIC = re.compile(r"_(ids?|hint|type|mode|prefix|lengths?|count|version)$", re.IGNORECASE)


def is_confidential(node: ast.expr) -> bool:
    """Whether an expression is named like a digest or a token: a variable, a member, an item of it, a call for it."""
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        return name == "expose" or bool(re.search("digest", name, re.IGNORECASE))
    if isinstance(node, ast.Subscript):
        return is_confidential(node.value)
    if not isinstance(node, ast.Name | ast.Attribute):
        return False
    name = node.id if isinstance(node, ast.Name) else node.attr
    # In capitals it is a constant or a member of an enumeration: KeyType.SECRET.
    return bool(CONFIDENTIAL.search(name)) and not PUBLIC.search(name) and not name.isupper()


def leaky_comparisons(tree: ast.AST) -> Iterator[ast.AST]:
    """Digests and tokens are compared by `hmac.compare_digest`, whose time tells nothing (B7)."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Compare)
            and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
            and any(is_confidential(operand) for operand in (node.left, *node.comparators))
        ):
            yield node


def puts_text_together(node: ast.expr) -> bool:
    """Whether an expression makes text out of other values, in any of Python's ways."""
    return any(
        isinstance(part, ast.FormattedValue)
        or (isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod | ast.Add))
        or (
            isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in ("format", "join")
        )
        for part in ast.walk(node)
    )


def executions(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Each call that executes a statement, beside that statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("execute"):
            yield from ((node, statement) for statement in node.args[:1])


def assembled_names(function: ast.AST) -> Iterator[str]:
    """The variables that a function gives a text put together."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(node, ast.AugAssign) or puts_text_together(node.value):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def assembled_sql(tree: ast.AST) -> Iterator[ast.AST]:
    """Values reach SQL as parameters: no statement is put together where it is executed, nor in that function (B5)."""
    for call, statement in executions(tree):
        if puts_text_together(statement):
            yield call
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            names = set(assembled_names(function))
            for call, statement in executions(function):
                if isinstance(statement, ast.Name) and statement.id in names:
                    yield call


def vague_networks(tree: ast.AST) -> Iterator[ast.AST]:
    """Which networks count as private is nobody's authorization: they are named block by block (D9)."""
    for node in ast.walk(tree):
        if (isinstance(node, ast.Attribute) and node.attr == "is_private") or (
            isinstance(node, ast.Name) and node.id == "is_private"
        ):
            yield node


def unfinished(tree: ast.AST) -> Iterator[ast.AST]:
    """What exists works."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("NotImplementedError", "NotImplementedType"):
            yield node


def swallowing(tree: ast.AST) -> Iterator[ast.AST]:
    """A handler names what it handles, and does not drop everything in silence (C9)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if node.type is None or (everything and silent):
                yield node


RULES: dict[Rule, Path] = {
    guessable: SRC,
    sleeping: SRC / "doorkey" / "core",
    leaky_comparisons: SRC / "doorkey" / "core",
    assembled_sql: SRC,
    vague_networks: SRC,
    unfinished: SRC,
    swallowing: SRC,
}
"""The rules over the syntax tree, and where they hold."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule: Rule) -> None:
    """The docstring of each rule says what it guards."""
    paths = sorted(RULES[rule].rglob("*.py"))
    assert paths, f"no modules under {RULES[rule]}"
    assert [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        for path in paths
        for node in rule(ast.parse(path.read_text("utf-8")))
    ] == [], rule.__doc__


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (guessable, "import random"),
        (guessable, "import uuid as u"),
        (guessable, "from random import choice"),
        (guessable, "def f():\n    from uuid import uuid4"),
        (sleeping, "import time\ntime.sleep(1)"),
        (sleeping, "from time import sleep"),
        (sleeping, "async def f():\n    await asyncio.sleep(0)"),
        (leaky_comparisons, "record.digest == digests[0]"),
        (leaky_comparisons, "digest != other"),
        (leaky_comparisons, "found == stored_digest"),
        (leaky_comparisons, "raw_token == other"),
        (leaky_comparisons, "given == self.secret"),
        (leaky_comparisons, "mac.digest() == given"),
        (leaky_comparisons, "hmac.new(key, text).hexdigest() == given"),
        (leaky_comparisons, "token.expose() == given"),
        (leaky_comparisons, "digest[:8] == given[:8]"),
        (leaky_comparisons, "a < b != token_text"),
        (assembled_sql, "c.execute(f'SELECT * FROM keys WHERE id = {id}')"),
        (assembled_sql, "c.execute('SELECT * FROM keys WHERE id = %s' % id)"),
        (assembled_sql, "c.execute('SELECT * FROM ' + table)"),
        (assembled_sql, "c.executemany('DELETE FROM {}'.format(table), rows)"),
        (assembled_sql, "c.executescript(';'.join(parts))"),
        (assembled_sql, "def f(c, id):\n    sql = f'SELECT {id}'\n    c.execute(sql)"),
        (assembled_sql, "def f(c, id):\n    sql = 'SELECT 1'\n    sql += id\n    c.execute(sql)"),
        (assembled_sql, "async def f(c, id):\n    await c.execute(sql := f'SELECT {id}')"),
        (vague_networks, "address.is_private"),
        (unfinished, "raise NotImplementedError"),
        (unfinished, "raise NotImplementedError('later')"),
        (swallowing, "try:\n    f()\nexcept:\n    raise"),
        (swallowing, "try:\n    f()\nexcept Exception:\n    pass"),
    ],
)
def test_a_rule_fires(rule: Rule, source: str) -> None:
    """Each rule can fail."""
    assert list(rule(ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (guessable, "import secrets"),
        (guessable, "from .random import x"),
        (sleeping, "import time\ntime.time()"),
        (leaky_comparisons, "hmac.compare_digest(record.digest, digest)"),
        (leaky_comparisons, "len(digest) != 32"),
        (leaky_comparisons, "principal.token_id != token.id"),
        (leaky_comparisons, "type == KeyType.SECRET"),
        (leaky_comparisons, "token is None"),
        (leaky_comparisons, "token.mode != mode"),
        (assembled_sql, "c.execute('SELECT * FROM keys WHERE id = ?', (id,))"),
        (assembled_sql, "c.execute(FIND, [*digests])"),
        (assembled_sql, "COLUMNS = 'a, b'\nFIND = f'SELECT {COLUMNS} FROM keys'\ndef f(c):\n    c.execute(FIND)"),
        (assembled_sql, "executor.submit(f'{a}')"),
        (unfinished, "return_value = NotImplemented"),
        (swallowing, "try:\n    f()\nexcept ValueError:\n    pass"),
        (swallowing, "try:\n    f()\nexcept Exception as error:\n    log(error)"),
    ],
)
def test_a_rule_is_quiet(rule: Rule, source: str) -> None:
    """No rule stands in the way of what is right."""
    assert list(rule(ast.parse(source))) == []


KEY = re.compile(rb"(?:[sp]k_(?:live|test)|f[sp]k[lt])_[0-9A-Za-z]{8}_[0-9A-Za-z]{36}")
"""A token of the profiles that ship, whole: our scanner rule for our own files (G10)."""

# In the next two, a character stands in brackets so that the pattern does not find itself.
HOME = re.compile(rb"(?<![\w.~/-])(?:/[h]ome/\w|/[U]sers/\w|/[r]oot/|[A-Za-z]:\\+[U]sers\\)")
"""A path into somebody's home directory."""

MARKER = re.compile(rb"\b(?:TO[D]O|FIX[M]E|X[X]X)\b|pragma[:] no cover|type[:] ignore(?!\[)|no[q]a(?!: [A-Z])")
"""A note to oneself, or a silencer that does not say what it silences."""


def ignored_names() -> list[str]:
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    return [".git", *(line for line in lines if line and not line.startswith("#"))]


def files_below(folder: Path, ignored: list[str]) -> Iterator[Path]:
    """Every file of the project; what .gitignore names is none, and every name in it stands for itself at any depth."""
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path, ignored)
        elif path.is_file():
            yield path


def findings(pattern: re.Pattern[bytes], content: bytes) -> list[int]:
    """The lines of *content* where *pattern* is found."""
    return [content.count(b"\n", 0, found.start()) + 1 for found in pattern.finditer(content)]


def search(pattern: re.Pattern[bytes], *folders: str) -> list[str]:
    """Where *pattern* is found in the files of the project, or of some of its folders."""
    paths = list(files_below(ROOT, ignored_names()))
    chosen = [path for path in paths if not folders or path.relative_to(ROOT).parts[0] in folders]
    assert Path(__file__) in paths
    return [f"{path.relative_to(ROOT)}:{line}" for path in chosen for line in findings(pattern, path.read_bytes())]


def test_gitignore_is_what_the_search_understands() -> None:
    """Only names and name patterns, so that the search skips exactly what git does."""
    assert [name for name in ignored_names() if "/" in name or name.startswith("!")] == []


def test_no_key_in_any_file() -> None:
    """Nobody finds a key in the repository, be it of a test: tests mint theirs when they run (G10)."""
    assert search(KEY) == []


def test_no_machine_in_any_file() -> None:
    """No path of the machine that a file was written on: the checkout's own, or a home directory."""
    assert search(HOME) == []
    if len(ROOT.parts) > 2:
        assert search(re.compile(re.escape(bytes(ROOT)) + rb"(?![\w-])")) == []


def test_nothing_unfinished_or_silenced() -> None:
    """What is left to do stands in the tracker, and a silenced rule is named."""
    assert search(MARKER, "src", "examples", "tests") == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (KEY, f"key = 'sk_live_{'a' * 8}_{'0' * 36}'"),
        (KEY, f"curl -u pk_test_{'Zz9' * 3:.8}_{'Z' * 36}:"),
        (KEY, f"fskt_{'a' * 8}_{'0' * 36}"),
        (HOME, "open('/" + "home/ann/keys.db')"),
        (HOME, "see C:" + "\\Users\\ann"),
        (HOME, "HOME=/" + "root/x"),
        (MARKER, "# TO" + "DO: later"),
        (MARKER, "x = y  # type: " + "ignore"),
        (MARKER, "import a  # no" + "qa"),
        (MARKER, "if a:  # pragma: no" + " cover"),
    ],
)
def test_a_pattern_finds(pattern: re.Pattern[bytes], text: str) -> None:
    """Each pattern can be found, on the line where it is."""
    assert findings(pattern, f"first\n{text}\n".encode()) == [2]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (KEY, "sk_test_muTFmv6k_…"),
        (KEY, "sk_live_" + "a" * 24),
        (HOME, "https://example.com/home/page, GET /v1/Users"),
        (MARKER, "# noqa: S105"),
        (MARKER, "x = y  # type: ignore[arg-type]"),
    ],
)
def test_a_pattern_passes_by(pattern: re.Pattern[bytes], text: str) -> None:
    """A hint, a path of a URL and a named exception are fine."""
    assert findings(pattern, text.encode()) == []


def test_the_search_skips_what_git_ignores(tmp_path: Path) -> None:
    """Ignored folders and files are not read, at any depth; all else is, dot-folders included."""
    for name in (".venv/a", "src/__pycache__/b", "src/c.pyc", "src/d.py", ".ci/e", "f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in files_below(tmp_path, [".venv", "__pycache__", "*.pyc"])]
    assert found == [".ci/e", "f", "src/d.py"]
