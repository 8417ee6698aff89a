"""`python -m tests.faults.controller DATA LOG REDIS ENGINE PORT`: one of several controllers on one log.

All is as `hearken controller` wires it, but for the log: that is a file which they share, where a service has
Kafka.
"""

import logging
import sys
import threading
from pathlib import Path

from deploy.main import work
from deploy.settings import ControllerSettings
from feedback.sqlite.log import SqliteLog


def main(data: Path, log: Path, redis: str, engine: str, port: int) -> None:
    """Run until it is killed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = ControllerSettings(data=data, engines=(engine,), redis=redis, metrics_port=port)
    work(settings, SqliteLog(log), threading.Event())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
