"""
Who may import whom: the plan of the house, read from the imports themselves.

The tables come first; everything below them only reads. Each rule is also shown a sample that breaks it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

EVERYTHING = "doorkey"

# For each layer, the modules of ours that it may import: a name admits itself and all that lies below it. The longest
# name that fits a module is its layer. A module without one is an error, so that a new package is placed on purpose.
LAYERS: Mapping[str, tuple[str, ...]] = {
    "doorkey": (EVERYTHING,),
    "doorkey.__main__": ("doorkey.cli",),
    "doorkey.core": ("doorkey.core",),
    "doorkey.modes": ("doorkey.core",),
    "doorkey.storage": ("doorkey.core", "doorkey.storage"),
    "doorkey.management": ("doorkey.core", "doorkey.management", "doorkey.storage.protocol"),
    "doorkey.adapters": ("doorkey.core", "doorkey.adapters"),
    "doorkey.dashboard": (EVERYTHING,),
    "doorkey.cli": (EVERYTHING,),
    "doorkey.demo": (EVERYTHING,),
    "doorkey.door": (EVERYTHING,),
    "doorkey.testing": ("doorkey.core", "doorkey.door", "doorkey.management", "doorkey.storage", "doorkey.testing"),
}

# What only these may import, however much else they admit.
FENCED: Mapping[str, tuple[str, ...]] = {
    "doorkey.testing": ("doorkey.testing",),
    "doorkey.cli": ("doorkey.__main__", "doorkey.cli", "doorkey.demo"),
    "doorkey.demo": ("doorkey.cli", "doorkey.demo"),
}

# The packages of others, by the module or layer that may import them. An adapter may import the one that its name, or
# the first word of it, tells.
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "doorkey.management.secrets": ("cryptography",),
    "doorkey.storage.postgres": ("psycopg",),
    "doorkey.storage.postgres_check": ("psycopg",),
    "doorkey.storage.postgres_connections": ("psycopg", "psycopg_pool"),
    "doorkey.adapters.django": ("asgiref",),
    "doorkey.adapters.drf": ("rest_framework", "django"),
    "doorkey.adapters.drf_spectacular": ("drf_spectacular", "rest_framework", "django"),
    "doorkey.adapters.fastapi": ("starlette",),
    "doorkey.adapters.flask": ("werkzeug",),
    "doorkey.adapters.quart": ("werkzeug",),
    "doorkey.testing": ("pytest",),
    "doorkey.demo": ("starlette", "uvicorn", "werkzeug"),
}

# Of the standard library: nowhere, and not in the core, which does no I/O and knows no environment.
BANNED = ("ipaddress",)
BANNED_IN_CORE = ("asyncio", "io", "os", "pathlib", "shutil", "sqlite3", "subprocess", "tempfile", "threading")

# What the first import of doorkey must not cost anybody.
HEAVY = (
    *("starlette", "werkzeug", "flask", "fastapi", "litestar", "quart", "django", "rest_framework", "uvicorn"),
    *("sqlite3", "psycopg", "psycopg_pool", "asyncio", "pytest"),
)


class Import(NamedTuple):
    """One imported module, where it stands."""

    importer: str
    line: int
    name: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.name}"


def lies_in(name: str, layer: str) -> bool:
    return name == layer or name.startswith(layer + ".")


def layer_of(module: str) -> str | None:
    if module == "doorkey":
        return module
    return max((layer for layer in LAYERS if layer != "doorkey" and lies_in(module, layer)), key=len, default=None)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def read_imports(module: str, source: str, modules: Mapping[str, str], is_package: bool = False) -> Iterator[Import]:
    """Each import of *source*, relative ones resolved; those inside functions too."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and is_type_checking(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
        else:
            continue
        yield from (Import(module, node.lineno, name, id(node) in for_types) for name in dict.fromkeys(names))


def read_modules() -> dict[str, str]:
    """The source of each module of ours, by its dotted name."""
    modules = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return modules


MODULES = read_modules()
PACKAGES = {".".join(path.relative_to(SRC).parent.parts) for path in SRC.rglob("__init__.py")}


def all_imports(modules: Mapping[str, str], packages: set[str]) -> list[Import]:
    return [
        found
        for module, source in modules.items()
        for found in read_imports(module, source, modules, is_package=module in packages)
    ]


def offences(found: Import) -> Iterator[str]:
    """What is wrong with one import, in words."""
    layer = layer_of(found.importer)
    if layer is None:
        yield f"{found.importer} is in no layer: give it one in LAYERS"
        return
    top = found.name.partition(".")[0]
    if top == "doorkey":
        if not any(lies_in(found.name, admitted) for admitted in LAYERS[layer]):
            yield f"{found}, which {layer} must not"
        for fenced, admitted in FENCED.items():
            if lies_in(found.name, fenced) and layer not in admitted:
                yield f"{found}, which is for {' and '.join(admitted)} alone"
    elif top in sys.stdlib_module_names:
        if top in BANNED or (layer == "doorkey.core" and top in BANNED_IN_CORE):
            yield f"{found}, which is banned there"
    else:
        may = {name for place, names in FOREIGN.items() if lies_in(found.importer, place) for name in names}
        if layer == "doorkey.adapters":
            may.add(found.importer.rpartition(".")[2].partition("_")[0])
        if top not in may:
            yield f"{found}, a package of others"


def find_cycle(imports: list[Import], modules: Mapping[str, str]) -> list[str]:
    """The modules of one import cycle, nothing if there is none. What a type checker alone reads does not count."""
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for found in imports:
        if found.name in modules and not found.for_types:
            graph[found.importer].add(found.name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_imports_only_what_its_layer_may() -> None:
    """Core knows nobody, storage and adapters never meet, management knows the protocol alone."""
    assert MODULES, f"no modules under {SRC}"
    assert [offence for found in all_imports(MODULES, PACKAGES) for offence in offences(found)] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_layer(module: str) -> None:
    """A new package is placed on purpose."""
    assert layer_of(module), f"{module} is in no layer: give it one in LAYERS"


def test_no_import_cycle() -> None:
    """Imports form a tree of dependencies, those inside functions included."""
    assert find_cycle(all_imports(MODULES, PACKAGES), MODULES) == []


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("doorkey.core.x", "from ..storage import protocol"),
        ("doorkey.core.x", "import cryptography"),
        ("doorkey.core.x", "from cryptography.hazmat import primitives"),
        ("doorkey.core.x", "import os"),
        ("doorkey.core.x", "from doorkey import open"),
        ("doorkey.core.x", "def f():\n    from ..management import keyring"),
        ("doorkey.core.x", "if TYPE_CHECKING:\n    import starlette"),
        ("doorkey.modes", "import ipaddress"),
        ("doorkey.modes", "from .storage.protocol import Store"),
        ("doorkey.storage.x", "from ..adapters.asgi import DoorkeyMiddleware"),
        ("doorkey.storage.x", "from ..management.secrets import MasterSecrets"),
        ("doorkey.storage.sqlite", "import psycopg"),
        ("doorkey.adapters.asgi", "from doorkey.storage.protocol import Store"),
        ("doorkey.adapters.asgi", "import starlette"),
        ("doorkey.adapters.starlette", "import werkzeug"),
        ("doorkey.adapters.starlette", "from ..demo import app"),
        ("doorkey.management.keyring", "from ..storage.sqlite import SQLiteStore"),
        ("doorkey.management.keyring", "from ..storage import memory"),
        ("doorkey.management.keyring", "import cryptography"),
        ("doorkey.dashboard.pages", "from ..testing import door"),
        ("doorkey.dashboard.pages", "from ..cli import main"),
        ("doorkey.dashboard.pages", "from ..demo import check"),
        ("doorkey.__main__", "from doorkey.core import verify"),
        ("doorkey", "import doorkey.demo"),
        ("doorkey", "import starlette"),
        ("doorkey.cli", "import uvicorn"),
        ("doorkey.demo", "from doorkey.testing import door"),
        ("doorkey.testing", "from .adapters.asgi import DoorkeyMiddleware"),
        ("doorkey.helpers", "import re"),
    ],
)
def test_the_rules_see_an_offence(importer: str, statement: str) -> None:
    """None of the rules above passes because it looks at nothing."""
    known = {"doorkey.storage.protocol": "", "doorkey.storage.memory": ""}
    found = list(read_imports(importer, statement, known))
    assert found
    assert [offence for one in found for offence in offences(one)]


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("doorkey.core.x", "from .errors import DoorkeyError"),
        ("doorkey.storage.postgres", "import psycopg"),
        ("doorkey.management.secrets", "from cryptography.hazmat.primitives import hashes"),
        ("doorkey.management.keyring", "from ..storage import protocol"),
        ("doorkey.adapters.starlette", "from starlette.requests import Request"),
        ("doorkey.adapters.drf", "import rest_framework"),
        ("doorkey.cli.demo", "from ..demo import check"),
        ("doorkey", "def open():\n    from doorkey.storage.urls import open_store"),
        ("doorkey.testing", "import pytest"),
    ],
)
def test_the_rules_admit_what_the_plan_admits(importer: str, statement: str) -> None:
    """The rules are no stricter than the plan."""
    known = {"doorkey.storage.protocol": ""}
    found = list(read_imports(importer, statement, known))
    assert found
    assert [offence for one in found for offence in offences(one)] == []


def test_a_cycle_is_seen() -> None:
    """Also one through a function; but not one that only a type checker walks."""
    modules = {
        "doorkey.core.a": "from . import b",
        "doorkey.core.b": "def f():\n    from .c import x",
        "doorkey.core.c": "from doorkey.core.a import y",
    }
    assert find_cycle(all_imports(modules, set()), modules)
    modules["doorkey.core.c"] = "if TYPE_CHECKING:\n    from doorkey.core.a import y"
    assert find_cycle(all_imports(modules, set()), modules) == []


def dynamic_imports(source: str) -> list[int]:
    """Lines that import by another way than an import line."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"))
        or (isinstance(node, ast.FunctionDef) and node.name == "__getattr__" and not node.args.args[1:])
    ]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_import_line_is_the_only_way(module: str) -> None:
    """Nothing is imported where the tests above do not look."""
    assert dynamic_imports(MODULES[module]) == []


@pytest.mark.parametrize(
    "source", ["importlib.import_module('x')", "__import__('x')", "def __getattr__(name):\n    return name"]
)
def test_a_dynamic_import_is_seen(source: str) -> None:
    """The rule above can fail."""
    assert dynamic_imports(source)


def side_effects(source: str) -> list[int]:
    """Lines of the module's top level that do more than to name a thing, or the contracts where there is pytest."""
    names_only = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    return [
        node.lineno
        for node in ast.parse(source).body
        if not isinstance(node, names_only)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.If) and (is_type_checking(node.test) or "sys." in ast.unparse(node.test)))
        and not ast.unparse(node).startswith("os.register_at_fork(")  # which can only be told once, and costs nothing
        and not (isinstance(node, ast.Try) and ast.unparse(node.body[0]).startswith("from .contracts import "))
    ]


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not module.endswith(".__main__")))
def test_a_module_only_names_things(module: str) -> None:
    """Importing a module does nothing but to define what is in it."""
    assert side_effects(MODULES[module]) == []


@pytest.mark.parametrize(
    "source",
    [
        "print('hello')",
        "for x in y:\n    z(x)",
        "try:\n    import a\nexcept ImportError:\n    a = None",
        "x += 1",
        "del x",
    ],
)
def test_a_side_effect_is_seen(source: str) -> None:
    """The rule above can fail."""
    assert side_effects(source)


def run_python(code: str, *options: str) -> str:
    """What *code* prints in a Python of its own, in which a warning is an error."""
    # Not the variable PYTHONPATH: -I, given by some, would pass it by.
    prologue = f"import sys; sys.path.insert(0, {str(SRC)!r})\n"
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", *options, "-c", prologue + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


LOADED = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"


@pytest.mark.parametrize("module", sorted(module for module in MODULES if lies_in(module, "doorkey.core")))
def test_the_core_needs_the_standard_library_alone(module: str) -> None:
    """Each module of the core can be imported first, and where nothing is installed, `cryptography` included."""
    loaded = run_python(f"import {module}\n{LOADED}", "-I", "-S").split()
    assert "doorkey" in loaded
    assert "cryptography" not in loaded


def test_importing_doorkey_is_cheap() -> None:
    """No framework, no driver, no event loop, and not the test tools."""
    before = run_python(LOADED).split()
    loaded = run_python(f"import doorkey\n{LOADED}").split()
    assert "doorkey" in loaded
    assert sorted(set(HEAVY).intersection(loaded) - set(before)) == []


def test_applications_test_with_what_they_like() -> None:
    """Only the contracts for stores need pytest."""
    source = "sys.modules['pytest'] = None\nfrom doorkey import testing\n"
    token = "testing.basic(testing.issue(testing.door()))"
    assert run_python(f"{source}print({token}[:6], hasattr(testing, 'StoreContract'))") == "Basic  False\n"


def test_the_command_line_needs_no_extra() -> None:
    """`doorkey init` and the like work on a bare installation; what the demo needs is imported by the demo."""
    frameworks = {name for names in FOREIGN.values() for name in names} - {"cryptography"}
    loaded = run_python(f"import doorkey.cli\n{LOADED}").split()
    assert sorted(frameworks.intersection(loaded)) == []


WATCHED = """
def watch(event, arguments):
    made = event == "open" and arguments[2] & 0o3  # O_WRONLY or O_RDWR
    if made or event.startswith(("socket.", "sqlite3.", "subprocess.", "os.mkdir", "os.system", "os.fork", "shutil.")):
        raise SystemExit(f"{event}{arguments} while importing")
sys.addaudithook(watch)
"""


def test_importing_touches_nothing() -> None:
    """No file written, no socket or database opened, no process or thread started, nothing printed, no handler set."""
    bare = {"doorkey", "cryptography"} | sys.stdlib_module_names
    extra = {one.importer for one in all_imports(MODULES, PACKAGES) if one.name.partition(".")[0] not in bare}
    plain = [module for module in MODULES if module not in extra and not lies_in(module, "doorkey.demo")]
    imports = "\n".join(f"import {module}" for module in plain if not module.endswith(".__main__"))
    assert run_python(
        f"import logging, os, socket, sqlite3, subprocess, threading\nbefore = dict(os.environ)\n{WATCHED}\n{imports}\n"
        "print(threading.active_count(), logging.root.handlers, dict(os.environ) == before)"
    ).splitlines() == ["1 [] True"]


@pytest.mark.parametrize(
    "act", ["open(os.devnull, 'w')", "socket.socket()", "sqlite3.connect(':memory:')", "subprocess.run(['true'])"]
)
def test_the_watch_sees_a_touch(act: str) -> None:
    """The rule above can fail."""
    with pytest.raises(AssertionError, match="while importing"):
        run_python(f"import os, socket, sqlite3, subprocess\n{WATCHED}\n{act}")


def test_extras_agree_with_imports() -> None:
    """One runtime dependency; each adapter that imports a framework has an extra of its own name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert [requirement.partition(">")[0] for requirement in project["dependencies"]] == ["cryptography"]
    needing = {
        found.importer.removeprefix("doorkey.adapters.").partition("_")[0]
        for found in all_imports(MODULES, PACKAGES)
        if lies_in(found.importer, "doorkey.adapters")
        and found.name.partition(".")[0] not in sys.stdlib_module_names | {"doorkey"}
    }
    assert sorted(needing - set(project["optional-dependencies"])) == []
