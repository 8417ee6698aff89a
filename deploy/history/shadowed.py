"""The shadow: a candidate also answers some prompts of users, who never see it, before anyone is exposed.

While a candidate is shadowed, the state of releases has a `Shadow`. Gateways follow it: after a user got an
answer of live, they ask an engine for the candidate's answer to the same prompt, note what both answers were
like (`Traits`: no word of either) and forget the text. Each pair is a `Shadowed` event on the `releases`
topic; the first `Shadow.prompts` of them are judged (deploy/decide/shadow.py), once. Whoever reads the topic
comes to the same.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deploy.answer_guards import says
from deploy.history.states import ReleaseState, Shadow
from feedback.core.events import Event


class Traits(BaseModel):
    """What one answer was like, without its words. tokens: sampled; seconds: until all of it was there."""

    model_config = ConfigDict(frozen=True)

    failed: bool = False  # the engine gave none: nothing else is known then
    refuses: bool = False
    one_word: bool = False
    loops: bool = False
    flatters: bool = False
    tokens: int = 0
    seconds: float = 0.0


class Shadowed(Event):
    """A prompt of a user was answered by the candidate as well. Nobody's name and no text is in it."""

    type: Literal["shadowed"] = "shadowed"
    number: int  # of the shadow, see `Shadow`
    version: str
    candidate: Traits
    live: Traits


def traits(text: str, shadow: Shadow, tokens: int, seconds: float) -> Traits:
    """What an answer was like."""
    said = says(text, shadow.refusal_pattern, shadow.flattery_pattern)
    return Traits(**said._asdict(), tokens=tokens, seconds=seconds)


@dataclass(slots=True)
class Shadows:
    """The fold of the shadow that is under way: the pairs that count, in the order of the log."""

    pairs: list[Shadowed] = field(default_factory=list)
    _of: Shadow | None = None
    _seen: set[str] = field(default_factory=set)

    def follow(self, state: ReleaseState) -> None:
        """Go by the state after a decision: another shadow begins with nothing."""
        if state.shadow != self._of:
            self._of, self.pairs, self._seen = state.shadow, [], set()

    def take(self, event: Shadowed) -> None:
        """Take in a pair, once, if it is of the shadow that is under way and there is room."""
        shadow = self._of
        if shadow is None or (event.number, event.version) != (shadow.number, shadow.version):
            return
        if len(self.pairs) < shadow.prompts and event.event_id not in self._seen:
            self._seen.add(event.event_id)
            self.pairs.append(event)
