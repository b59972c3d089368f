"""What the documentation shows, run; and what it repeats from the code, compared with it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from doorkey import testing
from doorkey.core.refusals import TABLE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a page, but for whole examples, which are run elsewhere."""
    text = page.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block[1] for block in found if not text.endswith(".py -->\n", 0, block.start())]


def doorkey(*arguments: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "doorkey", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without settings from outside."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DOORKEY_STORE", "DOORKEY_SECRET"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_the_readme_session_works(elsewhere: Path) -> None:
    """The README's commands and code do what they say, in its order, in an empty folder."""
    commands = next(block for block in blocks(ROOT / "README.md", "sh") if block.startswith("doorkey init"))
    token = ""
    for command in commands.splitlines():
        words = shlex.split(command, comments=True)[1:]
        if "KEY" in words:
            key = re.search(r"key_\w{16}", doorkey("keys", "list"))
            assert key
            words[words.index("KEY")] = key[0]
        output = doorkey(*words).strip()
        if "reveal" in words:
            token = output
    names: dict[str, object] = {"app": object(), "authorization": testing.basic(token)}
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    door = names["door"]
    door.close()  # type: ignore[attr-defined]
    assert token.startswith(("sk_test_", "pk_test_"))


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_python_in_the_docs_runs(page: Path, elsewhere: Path) -> None:
    """The Python blocks of each page run, one after the other."""
    names: dict[str, object] = {"__name__": "a_page"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_the_decision_table_is_that_of_the_code() -> None:
    """The table of refusals is made from the code. If it fails, the page lacks exactly the text that is compared."""
    rows = [f"| {answer.status} | `{answer.code}` | {answer.message} |" for answer in TABLE.values()]
    table = "\n".join(["| status | code | message |", "|---|---|---|", *rows])
    assert table in (ROOT / "docs/errors.md").read_text("utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_each_example_is_shown(path: Path) -> None:
    """A page shows each example, word for word as it runs."""
    marker = f"<!-- examples/{path.name} -->\n```python\n"
    shown = [text.partition(marker)[2].partition("```\n")[0] for page in PAGES if marker in (text := page.read_text())]
    assert shown == [path.read_text("utf-8")]


def test_the_words_about_tokens_are_true() -> None:
    """The concepts describe a token by its true lengths."""
    prefix, id, rest = testing.issue(testing.door()).expose().rsplit("_", 2)
    assert (prefix, len(id), len(rest)) == ("sk_test", 8, 36)


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link leads to a file of this repository."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
