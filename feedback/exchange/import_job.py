"""One import as a job for a process of its own: what it is told, and what it says.

Tokenizers load slowly and parsing holds the interpreter, so a gateway has its imports worked off beside
itself (serve/imports/worker.py) and only writes what comes back. Jobs and messages are pickled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feedback.core.ids import Signer
from feedback.dialects import Options
from feedback.dialects.files import Survey
from feedback.exchange.import_batches import Batch, Batches
from feedback.exchange.import_options import BadOption
from feedback.exchange.import_report import Report
from feedback.exchange.importing import Encode, Importer
from feedback.opening import open_sealer
from feedback.privacy.redaction import load_redactor
from feedback.privacy.vault_keys import VaultUnavailable

BODY = "the body"
"""What reports call the file of a job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to be imported for a tenant of the service whose data folder is `data`.

    now: Unix time in seconds of the import's first try. written: examples that earlier tries have written.
    redact: the redactor's setting.
    """

    file: Path
    options: Options
    data: Path
    signer: Signer
    tenant: str
    now: float
    written: int = 0
    redact: str = "none"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a job cannot go on. option: a bad one, `name` is which. model: there is no tokenizer. memory:
    it takes too much. vault: texts cannot be sealed now."""

    why: Literal["option", "model", "memory", "vault"]
    message: str
    name: str = ""


Said = Batch | Report | Refused
"""Any number of batches, then the report or a refusal."""


def work(job: Job, encode: Encode) -> Iterator[Said]:
    """Everything that a job says. A batch is to be durable before the next one is asked for."""
    try:
        yield from _work(job, encode)
    except BadOption as error:
        yield Refused("option", str(error), error.name)
    except VaultUnavailable as error:
        yield Refused("vault", str(error))
    except MemoryError:
        yield Refused("memory", "It takes more memory than an import may; send it as JSON lines, in parts.")


def _work(job: Job, encode: Encode) -> Iterator[Said]:
    report = Report(BODY)
    importer = Importer(job.signer, job.tenant, encode, job.now)
    survey = Survey([job.file], job.options)
    batches = Batches(survey, job.options, [report], importer, job.written, load_redactor(job.redact))
    if job.dry_run:
        batches.dry()
    else:
        sealer = open_sealer(job.data)
        try:
            yield from batches.sealed(sealer)
        finally:
            sealer.close()
    report.problem = report.problem.replace(str(job.file), BODY)
    yield report
