"""A vote with `from_now_on`: its comment is to be one of the user's preferences.

Only who ticks that is taken at their word; nothing is guessed from comments.
"""

from typing import NamedTuple, NoReturn

from serve.auth.caller import Caller
from serve.http.errors import BadRequest, Forbidden
from serve.votes.vote import Vote
from serve.votes.voters import Sender

_FIELD = "from_now_on"


class Wish(NamedTuple):
    """What a user asks for, by the name that chats give them. field: of the vote, in which it stands."""

    user: str
    text: str
    field: str
    caller: Caller


def wish_of(vote: Vote, sender: Sender) -> Wish:
    """What a vote with `from_now_on` asks for. Raises BadRequest, and Forbidden for a feedback token."""
    if sender.grant is not None or vote.token is not None:
        raise Forbidden(
            "A feedback token is good for votes alone; from_now_on changes the user's prompts: use a key.",
            param=_FIELD,
            code="needs_key",
        )
    if "chat" not in sender.caller.scopes:
        raise Forbidden(
            "from_now_on changes the user's prompts: use a key of the scope 'chat'.",
            param=_FIELD,
            code="missing_scope",
        )
    if vote.user is None:
        raise BadRequest("from_now_on needs user: name whose preference it is.", param="user")
    field = "text" if vote.kind == "comment" else "comment"
    text = vote.event.get(field)
    if not text:
        raise BadRequest(f"from_now_on needs {field}: say what every answer should be like.", param=field)
    return Wish(vote.user, text, field, sender.caller)


def refuse_in_batch() -> NoReturn:
    """Raises: a vote of a batch changes nobody's prompts."""
    raise BadRequest(
        "from_now_on is for a vote by itself: leave it out in a batch, or PUT /v1/users/{user}/preferences.",
        param=_FIELD,
    )
