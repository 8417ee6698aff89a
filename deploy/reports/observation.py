"""What users did with the running release: completions and votes from the log, folded for the judge."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf

from pydantic import ValidationError

from deploy.decide.release import Known
from deploy.evidence.evidence import Evidence
from deploy.evidence.guardrails import Guardrails
from deploy.history.states import ReleaseState
from deploy.settings import ControllerSettings
from feedback.core.decoded import DecodedCompletion
from feedback.core.events import Completion
from feedback.core.log import Record
from feedback.joining.join import Joiner

JOIN_WINDOW = 100_000
"""Completions that wait for their feedback: a vote that comes later than that many is no evidence."""


class Observation:
    """The fold of one stage of one release, from its first table on: guardrails and evidence.

    Feed it all records from the state's cursor on, and `known` answers the same whoever does so. `refused` is
    told of records that make no sense.
    """

    def __init__(
        self,
        state: ReleaseState,
        settings: ControllerSettings,
        refused: Callable[[Record, str], object] | None = None,
    ) -> None:
        self._joiner = Joiner(JOIN_WINDOW)
        self._joiner.refused = refused
        self._joiner.sees = self._see
        self.guardrails = Guardrails(settings.guardrails, state.scope(), state.length_foreseen)
        self.stage_epoch = state.first_epoch
        rules = settings.evidence_rules
        if state.stage == "holdback":  # only harm can still be found: the candidate is live
            rules = replace(rules, promote_bound=inf)
        self.evidence = Evidence(rules, state.scope())

    def feed(self, records: Iterable[Record]) -> None:
        """Take in completions and feedback, one record at a time.

        A batch would give the newest revision of a vote only; evidence needs to see the one before a window
        closed as well.
        """
        for record in records:
            if labels := self._joiner.feed_one(record):
                self.guardrails.feed(labels)
                self.evidence.feed(labels)

    def _see(self, value: bytes, completion: DecodedCompletion | Completion | None) -> None:
        if completion is None:
            try:
                completion = Completion.model_validate_json(value)
            except ValidationError:
                return  # the joiner reports it
        self.guardrails.add(completion)
        self.evidence.advance(completion.at)

    def known(self, state: ReleaseState, cursor: dict[str, int]) -> Known:
        """What the release is judged by after reading up to `cursor`."""
        return Known(
            reading=self.evidence.reading(),
            failure=self.guardrails.failure(),
            exposed=self.guardrails.exposed(state.table.epoch),
            met=self.guardrails.canary_users,
            judged=self.guardrails.are_judged,
            cursor=cursor,
        )
