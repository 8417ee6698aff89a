"""What can be said about one answer, in the words of the Python client: `hearken.feedback(answer).up()`."""

from collections.abc import Callable
from typing import Generic, Literal, TypeVar, Unpack

from hearken.sdk import votes
from hearken.sdk.votes import Common, Json, Preferred, Vote

T = TypeVar("T")


class Feedback(Generic[T]):
    """Sends votes on one answer or episode. Each method gives what the client's `send` gives.

    A vote without `user` and `source` takes the answer's feedback token along, if it has one: then it is
    of the user whom the answer was for.
    """

    def __init__(self, send: Callable[[Vote], T], about: Json, token: str | None, user: str | None) -> None:
        self._send_vote = send
        self._about = about
        self._token = token
        self._user = user

    def up(self, **common: Unpack[Common]) -> T:
        """A thumb up."""
        return self._send(votes.thumbs(self._about, "up", **common))

    def down(self, **common: Unpack[Common]) -> T:
        """A thumb down."""
        return self._send(votes.thumbs(self._about, "down", **common))

    def rate(self, value: float, scale: tuple[float, float] = (1, 5), **common: Unpack[Common]) -> T:
        """A number on a scale, (lowest, highest)."""
        return self._send(votes.rating(self._about, value, scale, **common))

    def correct(self, text: str, **common: Unpack[Common]) -> T:
        """What the answer should have been."""
        return self._send(votes.correction(self._about, text, **common))

    def comment(self, text: str, **common: Unpack[Common]) -> T:
        """Words about it."""
        return self._send(votes.comment(self._about, text, **common))

    def metric(
        self,
        name: str,
        value: float | bool,
        range: tuple[float, float] | None = None,
        direction: Literal["higher", "lower"] | None = None,
        **common: Unpack[Common],
    ) -> T:
        """An outcome that was measured later. range: (lowest, highest). direction: which is better."""
        return self._send(votes.metric(self._about, name, value, range, direction, **common))

    def signal(
        self, name: str, value: float | bool = True, shown: bool = True, **common: Unpack[Common]
    ) -> T:
        """What somebody did with it, as "copied". value False: they were shown it, and did not. shown False:
        they were not even shown it."""
        return self._send(votes.signal(self._about, name, value, shown, **common))

    def regenerated(
        self, old: object, kept: Literal["new", "old"] | None = None, **common: Unpack[Common]
    ) -> T:
        """It was generated anew in place of `old`. kept: which one the person went on with, once known."""
        vote = votes.regenerated(self._about, old, kept, **common)
        return self._send(vote, one=False)

    def prefer(self, over: object, **common: Unpack[Common]) -> T:
        """It is better than another answer."""
        return self.compare(over, "a", **common)

    def compare(
        self,
        other: object,
        preferred: Preferred,
        presented: tuple[Literal["a", "b"], Literal["a", "b"]] | None = None,
        **common: Unpack[Common],
    ) -> T:
        """It, "a", against another answer, "b". presented: the order in which they were shown."""
        return self._send(votes.comparison(self._about, other, preferred, presented, **common), one=False)

    def _send(self, vote: Vote, one: bool = True) -> T:
        """one: whether the vote is about this answer alone, as a token is."""
        if self._user is not None:
            vote.setdefault("user", self._user)
        if one and self._token is not None and not vote.keys() & {"user", "source", "token"}:
            vote["token"] = self._token
        return self._send_vote(vote)
