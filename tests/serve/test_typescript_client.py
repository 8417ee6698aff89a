"""The TypeScript client: its types hold, and what it sends are votes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT
from tests.serve.conftest import Gateway, Start
from tests.serve.test_access import add_key

CLIENT = ROOT / "clients/typescript"
TSC = ROOT / ".tools/bin/tsc"

# The one part of the project that is not Python: CI's machine may have no Node of this age.
pytestmark = pytest.mark.skipif(
    not TSC.exists() or shutil.which("node") is None,
    reason="no TypeScript compiler: run scripts/tools.sh, which needs node 20 and npm",
)
NOT_SEEN = "The completion that it is about has not been seen yet."
WAITS = "The next update of the reward model will look whether it can learn from it."
PROJECT = {
    "compilerOptions": {
        "target": "ES2022",
        "module": "NodeNext",
        "types": [],
        "strict": True,
        "skipLibCheck": False,
    },
    "include": ["*.ts"],
}

EVERYTHING = """
import { Hearken } from "hearken";

const hearken = new Hearken(); // by the environment
const { env } = (globalThis as unknown as { process: { env: Record<string, string> } }).process;
const [one, two, three] = env["IDS"]!.split(",") as [string, string, string];
const said = hearken.feedback(one, { user: "ada" });
const given = [
  await said.up({ reason: "helpful" }),
  await said.down({ reasons: ["style"], tags: ["beta"], weight: 0.5 }),
  await said.rate(7, { scale: [0, 10] }),
  await said.correct("It arrives on Monday."),
  await said.comment("Sounds annoyed."),
  await said.metric("minutes_to_solve", 12, { range: [0, 60], direction: "lower", source: "app" }),
  await said.signal("copied", false),
  await said.regenerated(two, "old"),
  await said.prefer(two),
  await said.compare(three, "tie", { presented: ["b", "a"] }),
  await hearken.feedback({ episode_id: "talk-1" }, { user: "ada" }).metric("resolved", true),
  await hearken.feedback({ response: { id: two } }, { user: "ada", choice: 1 }).up(),
  await hearken.rank([one, [two, three]], { user: "ada" }),
];
const thumb = { kind: "thumbs", value: "up", user: "eve" } as const;
const many = await hearken.sendMany([
  ...Array.from({ length: 1000 }, () => ({ ...thumb, completion_id: one })),
  { ...thumb, completion_id: "chatcmpl-unknown" },
]);
const refused = many.filter((each) => each.error !== undefined);
console.log(JSON.stringify({ given, refused, total: many.length }));
"""

MISTAKES = """
import { Hearken } from "hearken";

const hearken = new Hearken({ baseURL: "http://service" });
// @ts-expect-error: no such field
hearken.feedback("chatcmpl-1").up({ reson: "helpful" });
// @ts-expect-error: no number
hearken.feedback("chatcmpl-1").rate("five");
// @ts-expect-error: no such side
hearken.compare("chatcmpl-1", "chatcmpl-2", "left");
// @ts-expect-error: not awaited
hearken.feedback("chatcmpl-1").up().id;
(await hearken.feedback("chatcmpl-1").up()).id.toUpperCase();
"""

BROWSER = """
import { Hearken } from "hearken";

const { argv } = (globalThis as unknown as { process: { argv: string[] } }).process;
const hearken = new Hearken();
const vote = await hearken.feedback(JSON.parse(argv[2]!)).up();
await hearken.retract(vote);
console.log((await hearken.receipt(vote)).status);
"""

FLAKY = """
import { FeedbackError, Hearken } from "hearken";

const keys: string[] = [];
const error = JSON.stringify({ error: { message: "later", code: "busy", param: null } });
const answers = [
  () => Promise.reject(new TypeError("fetch failed")),
  () => new Response(error, { status: 409, headers: { "retry-after": "0" } }),
  () => new Response(error, { status: 503, headers: { "retry-after-ms": "1" } }),
  () => new Response(JSON.stringify({ id: "fb-1", status: "accepted" }), { status: 202 }),
  () => new Response(error, { status: 429, headers: { "retry-after": "900" } }),
];
const fake: typeof fetch = async (_, init) => {
  keys.push((init!.headers as Record<string, string>)["idempotency-key"]!);
  return answers[keys.length - 1]!();
};
const hearken = new Hearken({ baseURL: "http://service", fetch: fake });
const accepted = await hearken.feedback("chatcmpl-1").up();
let told: unknown;
try {
  await hearken.feedback("chatcmpl-1").up();
} catch (caught) {
  const { status, message, code, retryAfter } = caught as FeedbackError;
  told = { status, message, code, retryAfter };
}
console.log(JSON.stringify({ accepted, tries: keys.length, keys: new Set(keys).size, told }));
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed, as npm would, from its own sources."""
    folder = tmp_path_factory.mktemp("typescript")
    installed = folder / "node_modules/hearken"
    compile_with("--project", CLIENT, "--outDir", installed / "dist")
    shutil.copy(CLIENT / "package.json", installed)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps(PROJECT))
    return folder


def compile_with(*arguments: str | Path) -> None:
    """Compile; what the compiler says against it fails the test."""
    done = subprocess.run([TSC, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run(package: Path, source: str, *arguments: str, **environment: str) -> str:
    """What a program prints. Its types are checked first."""
    for old in package.glob("main.*"):
        old.unlink()
    (package / "main.ts").write_text(source)
    compile_with("--project", package)
    command = ["node", package / "main.js", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_types_find_mistakes(package: Path) -> None:
    for old in package.glob("main.*"):
        old.unlink()
    (package / "main.ts").write_text(MISTAKES)
    compile_with("--project", package, "--noEmit")


def test_the_example_votes_and_takes_back(package: Path, gateway: Gateway) -> None:
    source = (CLIENT / "examples/thumbs.ts").read_text()
    printed = run(package, source.replace("http://localhost:8000", gateway.url)).splitlines()
    assert printed[0] in (NOT_SEEN, WAITS)
    assert printed[1] == "404 There is no completion 'chatcmpl-unknown'."
    [answer], votes = gateway.completions(), gateway.votes()
    assert [vote.kind for vote in votes] == ["thumbs", "correction", "retraction"]
    assert {vote.rater for vote in votes} == {answer.user}
    assert votes[0].reasons == ["incomplete"]


def test_everything_that_can_be_said_is_said(package: Path, gateway: Gateway) -> None:
    ids = [gateway.signer.new_completion_id() for _ in range(3)]
    address = {"HEARKEN_BASE_URL": gateway.url + "/v1/", "IDS": ",".join(ids)}
    told = json.loads(run(package, EVERYTHING, **address))
    votes = [vote for vote in gateway.votes() if vote.rater == gateway.signer.pseudonym("default", "ada")]
    assert [vote.event_id for vote in votes] == [each["id"] for each in told["given"]]
    assert [(vote.kind, vote.label) for vote in votes] == [
        ("thumbs", "up"),
        ("thumbs", "down"),
        ("rating", "rated"),
        ("correction", "corrected"),
        ("comment", "commented"),
        ("metric", "measured"),
        ("signal", "no"),
        ("signal", "kept_old"),
        ("comparison", "a"),
        ("comparison", "tie"),
        ("metric", "measured"),
        ("thumbs", "up"),
        ("ranking", "ranked"),
    ]
    assert (votes[11].targets[0].completion_id, votes[11].targets[0].choice) == (ids[1], 1)
    assert told["total"] == 1001
    assert [each["index"] for each in told["refused"]] == [1000]


def test_a_browser_votes_with_the_answers_token(package: Path, start: Start, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", ["chat"])
    gateway = start()
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}], "user": "ada"}
    headers = {"authorization": f"Bearer {key}"}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers=headers).text
    printed = run(package, BROWSER, answer, HEARKEN_BASE_URL=gateway.url)
    assert printed.strip() == "retracted"
    assert [vote.kind for vote in gateway.votes()] == ["thumbs", "retraction"]


def test_a_retry_has_the_same_key_and_a_long_wait_is_told(package: Path) -> None:
    assert json.loads(run(package, FLAKY)) == {
        "accepted": {"id": "fb-1", "status": "accepted"},
        "tries": 5,
        "keys": 2,
        "told": {"status": 429, "message": "later", "code": "busy", "retryAfter": 900},
    }
