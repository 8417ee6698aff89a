"""README and docs: every block of code is run, read by its own parser, or in a list that may only shrink."""

import ast
import importlib.util
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.history.releases import Decision, entry
from deploy.history.states import ReleaseState
from feedback.core.secret import load_secret
from feedback.kafka.settings import read_kafka
from feedback.sqlite.log import SqliteLog
from hearken.cli import main, parser
from hearken.config.tables import tables
from serve.openapi import document
from tests.packaging.doc_blocks import ROOT, Block, blocks, commands, is_shell, of_text
from tests.packaging.test_images import stages

NOT_CHECKED = frozenset(
    {
        "README.md: feedback/   what happened: events, ids, the durabl",
        "docs/registry.md: s3://models/chat/policy-7-1f2e3d4c/adapter_model.s",
        "docs/releases.md: 1,204 votes since Monday; the newest policy, polic",
    }
)
"""Blocks of the language text, by page and first line, which nothing checks. It may only become shorter."""

BEGUN = Decision(
    event_id="decision-1", at=1_700_000_000.0, number=1, outcome="begun", stage_before="idle",
    stage_after="idle", sentence="The base model serves.", state=ReleaseState(),
)  # fmt: skip
SETTINGS = "[learner]\nkl_budget_nats = 4.0\n"


class Unknown(Exception):
    """A command that no check knows."""


Words = list[str]


def _hearken(words: Words) -> None:
    """A command line of `hearken`. A last "..." stands for flags that go on."""
    if words == ["--help"]:
        return
    if words[-1:] == ["..."]:
        words = words[:-1]
    parser().parse_args(words)


def _make(words: Words) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets >= {word for word in words if "=" not in word}, f"the Makefile has no {words}"


def _python(words: Words) -> None:
    """`python -m NAME`, of this project's modules and of what is installed; or a script."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), words[0]
    elif words[1] == "bench":
        assert (ROOT / "bench" / f"{words[2]}.py").is_file(), f"there is no bench {words[2]}"
        flags = {word.strip("[]").partition("=")[0] for word in words[3:] if word.strip("[").startswith("--")}
        text = (ROOT / "bench" / f"{words[2]}.py").read_text()
        assert all(f'"{flag}"' in text for flag in flags), f"bench {words[2]} knows not all of {flags}"
    elif words[1] != "spacy":  # an extra that is not installed for tests
        assert importlib.util.find_spec(words[1]) is not None, words[1]


def _curl(words: Words) -> None:
    """The service has the path with this method, and what is sent is what it says that it takes."""
    method, url, body = "get", "", None
    rest = iter(words)
    for word in rest:
        if word in ("-H", "--data-binary", "-d", "-X"):
            value = next(rest)
            method = value.lower() if word == "-X" else "post" if word != "-H" and method == "get" else method
            body = value if word == "-d" else body
        elif not word.startswith("-"):
            url = word
    path = urlsplit(url if "://" in url else f"http://{url}").path
    known = document("hearken")["paths"]
    fits = [p for p in known if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", p), path)]
    assert fits, f"the service has no {path}"
    assert any(method in known[p] for p in fits), f"{path} takes no {method}"
    if body is not None:
        json.loads(body)


def _docker(words: Words) -> None:
    """Images of the Dockerfile, and services of compose.yaml with the commands that run in them."""
    if words[0] == "build":
        assert words[words.index("--target") + 1] in stages()
        return
    assert words[0] == "compose", words
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    action, named = words[1], [word for word in words[2:] if not word.startswith("-")]
    if action == "exec":
        assert named[0] in services
        at = words.index(named[0])
        assert words[at + 1] == "hearken"
        _hearken(words[at + 2 :])
    else:
        assert action in ("up", "ps", "restart", "down", "logs", "pull")
        assert set(named) <= services.keys()


def _kubectl(words: Words) -> None:
    """What runs in a pod is checked; what the cluster is told is kubectl's."""
    if "--" in words:
        inside = words[words.index("--") + 1 :]
        assert inside[0] == "hearken"
        _hearken(inside[1:])


def _helm(words: Words) -> None:
    """What is set is a value of the chart."""
    values = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    leaves = tables().leaves
    for flag, text in pairwise(words):
        if flag != "--set":
            continue
        name = text.partition("=")[0]
        if name.startswith("config."):
            assert name.removeprefix("config.") in leaves, name
            continue
        at: Any = values
        for part in name.split("."):
            assert part in at, f"helm/values.yaml has no {name}"
            at = at[part]


def _pip(words: Words) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"hearken\[(\w+)\]", " ".join(words)):
        assert extra in extras


def _nothing(words: Words) -> None:
    """Programs of the system and of others, whose words are theirs."""


CHECKS: dict[str, Callable[[Words], None]] = {
    "hearken": _hearken, "make": _make, "python": _python, "curl": _curl, "docker": _docker,
    "kubectl": _kubectl, "helm": _helm, "pip": _pip,
    **dict.fromkeys(("git", "cd", "export", "echo", "sqlite3", "open-webui"), _nothing),
}  # fmt: skip
SCRIPTS = frozenset({"scripts/tools.sh"})
SHELL = frozenset(CHECKS) | SCRIPTS | {"--set"}  # alone: more of the helm command above it


def check_command(words: Words) -> None:
    """Raises what the command's own parser raises, AssertionError, or Unknown."""
    program = words[0].removeprefix(".venv/bin/")
    if program in SCRIPTS:
        assert (ROOT / program).is_file()
    elif program in CHECKS:
        CHECKS[program](words[1:])
    elif program == "--set":
        _helm(words)
    else:
        raise Unknown(program)


def check_toml(text: str) -> None:
    """It is TOML, and a file of settings names only those that there are."""
    found = tomllib.loads(text)
    if found.keys() <= {path.partition(".")[0] for path in tables().leaves}:
        for path in _places(found):
            assert any(leaf == path or leaf.startswith(f"{path}.") for leaf in tables().leaves), path


def _places(table: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _places(value, f"{before}{name}.")
        else:
            yield before + name


def check_python(text: str) -> None:
    """It is Python, within a function's body too."""
    try:
        ast.parse(text)
    except SyntaxError:
        ast.parse("async def shown():\n" + "".join(f"    {line}\n" for line in text.splitlines()))


class _Html(HTMLParser):
    """Elements of ours have attributes that the widget reads."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "hearken-feedback":
            script = (ROOT / "serve/pages/feedback.js").read_text()
            for name, _ in attrs:
                assert f'"{name}"' in script, f"the widget has no attribute {name}"


def check_typescript(text: str) -> None:
    """What is called of our client is there; the package's own example is compiled and run by its tests."""
    source = "".join(file.read_text() for file in sorted((ROOT / "clients/typescript/src").glob("*.ts")))
    for name in re.findall(r"(?:hearken|\))\.(\w+)\(", text):
        assert re.search(rf"\b{name}\(", source), f"the client has no {name}"


def check_html(text: str) -> None:
    _Html().feed(text)


def elided(text: str) -> str:
    """An answer as a page shows it, in which ".." stands for what is left out."""
    return re.sub(r", \.\.(?=[}\]])", "", re.sub(r": \.\.(?=[,}])", ": null", text))


def check_metrics(text: str) -> None:
    """Metrics with what they mean, each in a line."""
    page = (ROOT / "docs/metrics.md").read_text()
    for line in text.splitlines():
        name = re.split(r"[{ ]", line)[0]
        assert f"| `{name}` " in page, f"there is no metric {name}"


def check_properties(text: str) -> None:
    """Client settings for Kafka are taken. The files that they name are not here."""
    with TemporaryDirectory() as folder:
        text = re.sub(r"^.*\.location=.*\n", "", text, flags=re.MULTILINE)
        file = Path(folder) / "client.properties"
        file.write_text(text)
        read_kafka(str(file))


def check_block(block: Block) -> None:
    """Check a block by what it is. Raises Unknown where that is nothing that a check knows."""
    if is_shell(block, SHELL):
        for part in re.split(r"\n\n+(?=\{)", block.text):
            if part.startswith("{"):
                json.loads(elided(part))
            else:
                for words in commands(part):
                    check_command(words)
    elif block.text.startswith("hearken_"):
        check_metrics(block.text)
    elif block.language in LANGUAGES:
        LANGUAGES[block.language](block.text)
    else:
        raise Unknown(block.name)


LANGUAGES: dict[str, Callable[[str], object]] = {
    "toml": check_toml,
    "python": check_python,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "html": check_html,
    "jsx": check_html,  # its elements: nothing here reads the rest
    "ts": check_typescript,
    "properties": check_properties,
    "mermaid": lambda text: None,  # tests/learner/test_table.py holds it against the table
    "layers": lambda text: None,  # tests/test_chapters.py holds it against the imports
    "text": lambda text: None,  # what programs print, and where files lie
}


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name[:70])
def test_a_block_is_understood_by_who_would_run_it(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        check_block(block)
    except SystemExit as refused:
        pytest.fail(f"{block.name}: {refused.code}: {capsys.readouterr().err}")
    except Unknown as what:
        pytest.fail(f"{what}: no check knows it; give its fence a language, such as text")


def test_what_nothing_checks_is_in_a_list_that_only_shrinks() -> None:
    texts = {block.name for block in blocks() if block.language == "text"}
    assert texts == NOT_CHECKED
    assert len(NOT_CHECKED) <= 3


@pytest.mark.parametrize(
    "text",
    [
        "    hearken up --no-such-flag",
        "    make no-such-target",
        "    python -m bench no_such",
        "    curl localhost:8000/v1/no-such-path",
        "    curl -X PATCH localhost:8000/v1/feedback",
        "    curl localhost:8000/v1/feedback -d '{\"kind\": }'",
        "    docker compose restart no-such",
        "    docker compose exec gateway hearken keys creat",
        "    docker build --target no-such .",
        "    helm upgrade chat ./helm --set no.such=1",
        "    helm upgrade chat ./helm --set config.learner.no_such=1",
        "    kubectl exec pod -- hearken rolback",
        "    pip install 'hearken[nosuch]'",
        "    scripts/no-such.sh",
        "    ls -l",
        "    hearken_no_such_total   what is not there",
        "```toml\n[learner]\nno_such = 1\n```",
        "```toml\n[learner\n```",
        "```python\ndef f(:\n```",
        "```json\n{'a': 1}\n```",
        "```html\n<hearken-feedback no-such='x'></hearken-feedback>\n```",
        "```properties\nno.such.setting=1\n```",
        "```ts\nhearken.feedback(answer).applaud();\n```",
        "```ruby\nputs 1\n```",
    ],
)
def test_a_block_that_is_wrong_is_found(text: str) -> None:
    (block,) = of_text("page.md", f"A page.\n\n{text}\n")
    with pytest.raises((Exception, SystemExit)):
        check_block(block)


RUN = (
    ("config", "check"), ("config", "show"), ("keys", "create"), ("keys", "list"), ("status",),
    ("watch", "--once"), ("release", "why"), ("release", "history"), ("release", "verify"), ("report",),
    ("registry", "list"), ("registry", "gc"), ("rollback",), ("pause",), ("version",),
)  # fmt: skip
"""Commands that need no server, by their first words; each is run as the pages have it."""


def runnable() -> list[list[str]]:
    """The command lines of the pages that need nothing but a service's data folder, each once."""
    found = []
    for block in blocks():
        if not is_shell(block, SHELL):
            continue
        for words in commands(re.split(r"\n\n+(?=\{)", block.text)[0]):
            line = [word if word != "DIR" else "." for word in words[1:]]
            fits = any(line[: len(each)] == list(each) for each in RUN)
            elsewhere = {"--kafka", "--keys"} & set(line) or any("policy-" in word for word in line)
            if words[0].endswith("hearken") and fits and not elsewhere and line not in found:
                found.append(line)
    return found


@pytest.mark.parametrize("line", runnable(), ids=" ".join)
def test_a_command_that_needs_no_server_runs(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hearken"
    folder.mkdir()
    load_secret(folder / "secret")
    log = SqliteLog(folder / "log.db")
    log.append([entry(BEGUN)]).result()
    log.close()
    (folder / "hearken.toml").write_text(SETTINGS)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    code = main(line)
    told = capsys.readouterr()
    waits_for_a_controller = line[0] in ("rollback", "pause") and "no controller has decided" in told.err
    assert code == 0 or waits_for_a_controller, told.err
    assert "Traceback" not in told.err
