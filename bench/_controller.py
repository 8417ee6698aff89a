"""`python -m bench._controller DATA ENGINE PORT`: the real release controller, at a benchmark's pace.

Half of the users get a candidate at once, their votes decide within seconds, and what is out of use is
unloaded as soon as the gateways' leases allow.
"""

import logging
import sys
from pathlib import Path

from deploy.evidence.guardrails import GuardrailLimits
from deploy.main import run
from deploy.settings import ControllerSettings

DRAIN_SECONDS = 1.0


def main(data: Path, engine: str, port: int) -> None:
    """Run until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(created).6f %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run(
        ControllerSettings(
            data=data,
            engines=(engine,),
            metrics_port=port,
            ladder=((0.5, 0),),
            window_seconds=0.5,
            voters_tolerance=0.5,
            holdback_min_seconds=0,
            shadow_prompts=0,  # it would wait for chats
            drain_seconds=DRAIN_SECONDS,
            rung_users=8,
            guardrails=GuardrailLimits(min_users=8),  # 32 users at a time are few
            parity_tolerance_nats=1e-3,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
