"""The votes in the log as a table: how many thumbs there were each day, and how many of them were up.

    hearken export votes.jsonl --data DATA
    python examples/votes_by_day.py votes.jsonl

A row of the file is a judgement with its texts; `pandas.read_json("votes.jsonl", lines=True)` reads it, too.
"""

import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

days = defaultdict[str, list[float]](list)
for line in Path(sys.argv[1]).read_text().splitlines():
    row = json.loads(line)
    if row["kind"] == "thumbs" and "at" in row:
        days[f"{datetime.fromtimestamp(row['at'], UTC):%Y-%m-%d}"].append(row["value"])
print("day         thumbs  up")
for day, values in sorted(days.items()):
    print(f"{day}  {len(values):6}  {sum(values) / len(values):.0%}")
