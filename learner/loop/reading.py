"""Reading the log: votes become labels, releases move the learner's state, erasures take things away."""

import logging
import math
import time

from deploy.history.releases import Candidate, Decision, Reached, admit, parse
from deploy.history.table import RoutingTable
from feedback.core.erasures import Erasure, parse_erasure
from feedback.core.events import BASE, COMPLETIONS, FEEDBACK, RELEASES
from feedback.core.log import Record
from feedback.joining.join import Label
from feedback.joining.memory import CompletionsUnavailable
from learner.loop.parts import Parts
from learner.model.shared import LIVE
from learner.state import stages
from learner.state.reopening import reopened

logger = logging.getLogger("hearken.learner")

READ_LIMIT = 2000
"""Records of one read."""


class OtherBase(RuntimeError):
    """The learner was started on another base than serves."""


class Reading:
    """Takes in what is new."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Unread records, of which some half may be votes, from which on answers are not opened yet: of what
        # is older than the newest half of what is kept only a sample stays.
        self.far_behind = parts.settings.labels_kept
        self._has_bare = True  # whether there may be labels whose answers were not opened
        self._behind = 0  # records that the log had, and that were not read, at the last look
        self.caught_up = False
        self.unsaved = False  # whether records were read since the last checkpoint

    def read(self, wait_seconds: float, until: float) -> None:
        """Take in all that is in the log, or what can be read until it is time to save (`until`, monotonic).

        Waits for the first record only. Raises `OtherBase`.
        """
        self._read_all(wait_seconds, until)
        parts = self._parts
        if self.caught_up and parts.place.asked_base not in ("", parts.model.base_digest):
            raise OtherBase(
                f"the service goes on from base {parts.place.asked_base[:12]}, which `hearken rebase` made, "
                f"but {parts.model.name} is {parts.model.base_digest[:12]}; start all of it with that one's "
                "folder as --model"
            )

    def _read_all(self, wait_seconds: float, until: float) -> None:
        while records := self._read_some(wait_seconds):
            wait_seconds = 0.0
            self.unsaved = True
            # A broker may give little at a time while there is much.
            self.caught_up = len(records) < READ_LIMIT and self._behind < READ_LIMIT
            if self.caught_up or time.monotonic() >= until:
                return
        self.caught_up = self._behind < READ_LIMIT

    def _read_some(self, wait_seconds: float) -> list[Record]:
        parts, topics = self._parts, (COMPLETIONS, FEEDBACK, RELEASES)
        records, cursor = parts.log.read(topics, parts.place.cursor, READ_LIMIT, wait_seconds)
        parts.metrics.losses.show(parts.log)
        votes = [record for record in records if record.topic != RELEASES]
        parts.joins.opens = self._behind < self.far_behind
        self._has_bare |= not parts.joins.opens
        try:
            with parts.memory.attempt():
                joined = parts.joiner.feed(votes)
        except CompletionsUnavailable as error:
            logger.warning("votes cannot be joined now, waiting for the log: %s", error)
            return []
        parts.tell_lost()
        for label in parts.labels.add(label for label in joined if self._is_in_our_words(label)):
            parts.metrics.labels.labels(label.kind).inc()
            if label.answers:
                parts.metrics.times.feedback_delay.observe(max(0.0, label.at - label.answers[-1].at))
            self._count_new(label)
        self._follow([record for record in records if record.topic == RELEASES])
        parts.place.cursor = dict(cursor)
        self._behind, lag_seconds = parts.log.behind(topics, cursor)
        parts.metrics.lag_events.set(self._behind)
        parts.metrics.lag_seconds.set(lag_seconds)
        return records

    def reopen(self) -> None:
        """Open the answers that were not while the learner was far behind, of labels that are still there.

        Raises `CompletionsUnavailable`.
        """
        if not (self.caught_up and self._has_bare):
            return
        labels = self._parts.labels
        self._parts.joins.opens = True
        found = reopened(labels.bare(), self._parts.joins)
        known = [label for label in found if self._is_in_our_words(label)]
        labels.reopen(known)
        for label in known:
            self._count_new(label)
        self._has_bare = False

    def _is_in_our_words(self, label: Label) -> bool:
        """Whether the model has all tokens of a label's answers; those of another model may be in the log."""
        model = self._parts.model
        known = all(model.knows((*a.prompt_token_ids, *a.token_ids)) for a in label.answers)
        if not known:
            logger.error("vote %s is about tokens that this model does not have; left out", label.event_id)
            self._parts.metrics.dead_letters.inc()
        return known

    def _count_new(self, label: Label) -> None:
        parts = self._parts
        parts.unread.extend(parts.labels.answers_of(label))
        if parts.labels.teaches(label) and not parts.labels.is_judging(label):
            parts.state = stages.voted(parts.state)

    # -- releases ---------------------------------------------------------------------------------------

    def _follow(self, records: list[Record]) -> None:
        parts = self._parts
        for record in records:
            event = parse(record.value)
            if erasure := parse_erasure(record.value):
                self._forget(erasure)
            elif isinstance(event, Candidate):
                self._take_candidate(event.version)
            elif isinstance(event, Decision) and self._counts(event):
                parts.place.asked_base = event.state.base
                rise = self._rise_nats(event)
                if event.table is not None:
                    self._take_table(event.table)
                if event.version == parts.state.trial and event.settled:
                    self._settle(event, rise)

    def _counts(self, decision: Decision) -> bool:
        place = self._parts.place
        (place.decided, place.fence), counts = admit(Reached(place.decided, place.fence), decision)
        return counts

    def _forget(self, erasure: Erasure) -> None:
        parts = self._parts
        parts.joiner.forget_texts(erasure.tenant, erasure.user)
        parts.labels.erase(erasure.tenant, erasure.user)
        parts.memory.scrub()
        parts.features.forget()
        parts.unread.clear()
        parts.askable.forget()
        parts.watch.forget((erasure.tenant, erasure.user))

    def _take_candidate(self, version: str) -> None:
        """A candidate of ours; one that is news was published just before a crash, or long ago."""
        parts = self._parts
        if version != parts.state.trial and version in parts.registry.versions():
            parts.take_published(version)
        parts.state = stages.published(parts.state, version)

    def _take_table(self, table: RoutingTable) -> None:
        parts = self._parts
        if table.live == parts.place.live:
            return
        parts.place.live = table.live
        if table.live == BASE:
            parts.model.load_adapter_state(LIVE, parts.untrained)
        else:
            parts.model.load_adapter(parts.registry.path(table.live), LIVE)
        parts.state = stages.met_live(parts.state, None)
        if table.live != parts.state.trial:  # somebody went back: train on from what serves
            parts.go_back_to_live()
            parts.state = stages.went_back(parts.state)

    def _rise_nats(self, decision: Decision) -> float:
        """How much further from the base than live before it a policy is that this decision promotes, per
        response of up to 64 tokens; 0 when it promotes none."""
        parts = self._parts
        version = parts.state.trial
        if version is None or decision.table is None or decision.table.live != version:
            return 0.0
        gate = parts.registry.manifest(version).gate
        # see `learner.monitor.lengths.kl_limit`
        longer = gate.kl_budget_nats_live / parts.settings.kl_publish_nats
        rise = gate.kl_nats_base - (parts.state.live_nats or 0.0)
        return rise / longer if math.isfinite(longer) else rise

    def _settle(self, decision: Decision, rise_nats: float) -> None:
        """The trial is over. A promoted policy is the reference of all that follows; one that was neither
        promoted nor found worse is trained on from where it is."""
        logger.info("%s", decision.sentence)
        parts = self._parts
        promoted = decision.version == parts.place.live
        restarts = not promoted and decision.outcome != "inconclusive"
        if restarts:
            parts.go_back_to_live()
        if promoted:
            parts.earlier = []
            parts.optimiser.start_anew()
            parts.watch.restart()
        parts.state = stages.settled(
            parts.state, promoted=promoted, restarts=restarts, rise_nats=rise_nats if promoted else 0.0
        )
