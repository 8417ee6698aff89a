"""Next messages become signals about the answers before them, in their authors' names, and nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion
from feedback.core.ids import Signer
from feedback.core.secret import load_secret
from feedback.joining.join import Joiner
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from hearken.ai_judge import JudgeAway
from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.data.listening import GONE, UNREAD, Listening
from hearken.data.turn_reader import ListenSettings, TurnReader
from learner.votes.meanings import BUILTIN
from serve.generation.preferences import with_preferences, without_preferences
from tests.feedback.examples import completion
from tests.hearken.chat_api import ChatApi, serving
from tests.hearken.logs import opened, votes, write

QUESTION, ANSWER = "Where is my parcel?", "It is in the van."
Said = dict[tuple[str, str], str]  # (answer's id, name of a signal) -> yes or no


class Server(ChatApi):
    """A model that finds "wrong" a complaint and "thanks" a thank."""

    status, always = 200, ""
    asked: list[str]

    def answered(self, body: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        said = body["messages"][1]["content"]
        self.asked.append(said)
        then = said.split("<next>\n")[1].split("\n</next>")[0]
        letter = "A" if "wrong" in then else "B" if "thanks" in then else "C"
        message = {"role": "assistant", "content": self.always or f"{letter}."}
        return self.status, {"choices": [{"message": message, "finish_reason": "stop"}]}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        server.asked = []
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    load_secret(tmp_path / "secret")
    return tmp_path


def chat(name: str, *said: str, text: str = ANSWER, **changes: Any) -> Completion:
    """A completion of a conversation: what user and assistant said in turns, and the answer."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": words} for i, words in enumerate(said)]
    made = completion(name)
    choice = made.choices[0].model_copy(update={"text": text})
    return made.model_copy(update={"messages": messages, "choices": [choice], **changes})


def signals(data: Path) -> Said:
    return {(each.targets[0].completion_id, each.name or ""): each.label for each in votes(data)}


Make = Callable[..., Listening]


@pytest.fixture
def listener_of(data: Path, server: Server) -> Iterator[Make]:
    """Makes a listener that reads the log in `data` from where the one before it had come to."""
    with opened(data) as log:

        def make(**changes: Any) -> Listening:
            settings = replace(ListenSettings(data=data, url=server.url), **changes)
            return Listening(log(), open_sealer(data), TurnReader(settings), settings, data / "listener.json")

        yield make


@pytest.mark.parametrize(
    ("said", "complained", "thanked"),
    [("That is wrong!", "yes", "no"), ("Great, thanks", "no", "yes"), ("And my coat?", "no", "no")],
)
def test_a_next_message_tells_of_the_answer_before_it(
    data: Path, listener_of: Make, said: str, complained: str, thanked: str
) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, said, text="I see."))
    listening = listener_of()
    assert listening.turn(0.0) == 2
    assert signals(data) == {
        ("chatcmpl-1", "complained"): complained,
        ("chatcmpl-1", "thanked"): thanked,
    }
    assert listening.progress.judged == 1
    assert {each.kind for each in votes(data)} == {"signal"}
    assert {each.source for each in votes(data)} == {"app"}
    assert BUILTIN["complained"].direction == "lower"
    assert BUILTIN["thanked"].direction == "higher"


def test_it_is_joined_like_a_signal_that_was_sent(data: Path, listener_of: Make) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, "wrong"))
    listener_of().turn(0.0)
    log = SqliteLog(data / "log.db")
    records, _ = log.read([COMPLETIONS, FEEDBACK], {}, 1000)
    log.close()
    labels = [label for label in Joiner(sealer=open_sealer(data)).feed(records) if label.kind == "signal"]
    assert [(label.name, label.label, label.answers[0].text) for label in labels] == [
        ("complained", "yes", ANSWER),
        ("thanked", "no", ANSWER),
    ]


def test_nothing_of_what_was_written_is_in_the_log(data: Path, listener_of: Make) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, "Rumpelstilzchen"))
    listener_of().turn(0.0)
    assert signals(data)
    for file in (*data.glob("log.db*"), data / "listener.json"):
        assert b"Rumpelstilzchen" not in file.read_bytes()


def test_what_a_person_asks_for_in_every_answer_is_not_read_as_said(
    data: Path, server: Server, listener_of: Make
) -> None:
    wished = with_preferences([{"role": "user", "content": "And then?"}], ["Never be wrong."])[0]["content"]
    assert wished != "And then?"
    assert without_preferences(wished) == "And then?"
    assert without_preferences("(In every answer: no)") == "(In every answer: no)"
    first = with_preferences([{"role": "user", "content": QUESTION}], ["Never be wrong."])[0]["content"]
    write(data, chat("chatcmpl-1", first), chat("chatcmpl-2", QUESTION, ANSWER, wished))
    listener_of().turn(0.0)
    assert signals(data)["chatcmpl-1", "complained"] == "no"
    assert "<next>\nAnd then?\n</next>" in server.asked[0]


SECOND = ("chatcmpl-2", QUESTION, ANSWER, "That is wrong")


@pytest.mark.parametrize(
    "second",
    [
        chat(*SECOND, user="u_eve"),
        chat(*SECOND, tenant="shop"),
        chat("chatcmpl-2", QUESTION, "It is in the lake.", "That is wrong"),
        chat("chatcmpl-2", "Hi", "Hello", QUESTION, ANSWER, "That is wrong"),
        chat(*SECOND, consent=False),
        chat("chatcmpl-2", QUESTION),
        chat("chatcmpl-2", QUESTION, ANSWER),
    ],
    ids=[
        *("another user", "another tenant", "an answer of somebody's", "another place", "no consent"),
        *("the question again", "no message"),
    ],
)
def test_what_follows_no_answer_of_ours_to_this_person_says_nothing(
    data: Path, server: Server, listener_of: Make, second: Completion
) -> None:
    write(data, chat("chatcmpl-1", QUESTION), second)
    listener_of().turn(0.0)
    assert (signals(data), server.asked) == ({}, [])


def test_of_two_answers_the_one_that_the_conversation_goes_on_with_is_meant(
    data: Path, listener_of: Make
) -> None:
    write(
        data,
        chat("chatcmpl-1", QUESTION, comparison_id="cmp-1"),
        chat("chatcmpl-2", QUESTION, text="In the van?", comparison_id="cmp-1", role="reference"),
        chat("chatcmpl-3", QUESTION, "In the van?", "thanks"),
    )
    listener_of().turn(0.0)
    assert signals(data) == {("chatcmpl-2", "complained"): "no", ("chatcmpl-2", "thanked"): "yes"}


def test_a_message_that_is_edited_says_nothing_new(data: Path, listener_of: Make) -> None:
    write(
        data,
        chat("chatcmpl-1", QUESTION),
        chat("chatcmpl-2", QUESTION, ANSWER, "thanks"),
        chat("chatcmpl-3", QUESTION, ANSWER, "wrong"),
    )
    listener_of().turn(0.0)
    assert signals(data)["chatcmpl-1", "thanked"] == "yes"
    assert len(votes(data)) == 2


def test_a_restart_knows_the_answers_and_reads_no_message_twice(
    data: Path, server: Server, listener_of: Make
) -> None:
    write(
        data,
        chat("chatcmpl-0", "Hello", text="Hi, how can I help?"),
        chat("chatcmpl-1", QUESTION),
        chat("chatcmpl-2", QUESTION, ANSWER, "thanks", text="You are welcome."),
    )
    listener_of().turn(0.0)
    assert len(server.asked) == 1
    write(data, chat("chatcmpl-3", QUESTION, ANSWER, "thanks", "You are welcome.", "All wrong!"))
    again = listener_of()
    while again.turn(0.0):
        pass
    assert len(server.asked) == 2
    assert signals(data)["chatcmpl-2", "complained"] == "yes"
    assert len(votes(data)) == 4


def test_while_the_model_is_away_messages_wait(data: Path, server: Server, listener_of: Make) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, "wrong"))
    listening, server.status = listener_of(), 503
    with pytest.raises(JudgeAway):
        listening.turn(0.0)
    server.status = 200
    listening.turn(0.0)
    assert signals(data)["chatcmpl-1", "complained"] == "yes"


def test_what_cannot_be_read_is_counted_by_its_reason(data: Path, server: Server, listener_of: Make) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, "wrong"))
    listening, server.always = listener_of(), "I would rather not say."
    listening.turn(0.0)
    assert listening.progress.skipped == {UNREAD: 1}
    assert signals(data) == {}


def test_who_is_erased_while_a_message_waits_says_nothing(
    data: Path, server: Server, listener_of: Make
) -> None:
    signer = Signer(load_secret(data / "secret"))
    user = signer.pseudonym("default", "grace")
    write(data, chat("chatcmpl-1", QUESTION, user=user))
    write(data, chat("chatcmpl-2", QUESTION, ANSWER, "wrong", user=user))
    listening, server.status = listener_of(), 503
    with pytest.raises(JudgeAway):
        listening.turn(0.0)
    open_sealer(data).erase("default", user)
    server.status = 200
    listening.turn(0.0)
    assert signals(data) == {}
    assert listening.progress.skipped == {GONE: 1}


def test_more_answers_than_are_remembered(data: Path, listener_of: Make) -> None:
    write(
        data,
        chat("chatcmpl-1", QUESTION),
        chat("chatcmpl-2", "Hi", text="Hello"),
        chat("chatcmpl-3", QUESTION, ANSWER, "wrong"),
        chat("chatcmpl-4", "Hi", "Hello", "wrong"),
    )
    listener_of(answers_remembered=1).turn(0.0)
    assert signals(data) == {}
    (data / "listener.json").unlink()
    listener_of(answers_remembered=2).turn(0.0)
    assert {name for name, _ in signals(data)} == {"chatcmpl-1", "chatcmpl-2"}


def test_the_command_works_off_the_log(
    data: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data, chat("chatcmpl-1", QUESTION), chat("chatcmpl-2", QUESTION, ANSWER, "thanks"))
    assert main(["listen", "--data", str(data), "--url", server.url, "--once"]) == 0
    assert "1 next messages read" in capsys.readouterr().out
    assert signals(data)["chatcmpl-1", "thanked"] == "yes"
    assert main(["listen", "--data", str(data), "--url", "http://127.0.0.1:9/v1", "--once"]) == 0


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"timeout_seconds": 0.0}, {"concurrency": 0}, {"answers_remembered": 0}]
)
def test_settings_that_make_no_sense_are_refused(data: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ListenSettings(data=data, **wrong)


def test_a_key_that_cannot_be_read_is_told_by_its_setting(data: Path) -> None:
    with pytest.raises(UsageError, match=r"^listen\.key_file cannot be read"):
        TurnReader(ListenSettings(data=data, key_file=data / "nowhere"))
