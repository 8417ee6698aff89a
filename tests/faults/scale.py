"""How much of each fault: the short run belongs to `make test`, the full one is `make test-faults`."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Counts of one run of the fault suite."""

    gateway_kills: int
    learner_kills: int
    controller_kills: int  # of the one that leads
    training_kills: int  # of a learner that trains, against an engine that it asks for rollouts
    votes: int  # sent while processes are killed
    broker_away_seconds: float  # how long the broker is gone, or stopped
    every_byte: bool  # truncate at every byte, or at a sample of them
    flips: int  # random bits
    shuffles: int  # random orders of delivery


SHORT = Scale(
    gateway_kills=6,
    learner_kills=4,
    controller_kills=3,
    training_kills=5,
    votes=4_000,
    broker_away_seconds=4.0,
    every_byte=False,
    flips=150,
    shuffles=10,
)
FULL = Scale(
    gateway_kills=300,
    learner_kills=200,
    controller_kills=100,
    training_kills=50,
    votes=200_000,
    broker_away_seconds=45.0,
    every_byte=True,
    flips=1_000,
    shuffles=200,
)
SCALE = FULL if os.environ.get("HEARKEN_FAULTS") == "full" else SHORT
