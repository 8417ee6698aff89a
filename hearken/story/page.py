"""The story of a run as one HTML page, without scripts or anything from elsewhere, and as lines."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deploy.reports.outcomes import BECAME
from hearken.base.telling import local
from hearken.story.charts import STYLE, svg
from hearken.story.figures import NOBODY, figures, preference

Told = Mapping[str, Any]

MOST_SAMPLES = 20
MOST_LETTERS = 3000
"""Of a sample's text; the page says where more was cut away."""

COUNTED = ("promotions", "rollbacks", "inconclusive", "refused")
"""Outcomes that are counted, by the names that `told` has for them."""


def describe(told: Told) -> list[str]:
    """The story in lines that people read."""
    steps, votes = told["steps"], told["votes"]
    lines = [
        f"from {local(told['since'])} to {local(told['until'])}",
        f"live        {told['live']}, from {' -> '.join(told['line'])}",
        f"releases    {_counts(told)}",
        f"votes       {votes['count']:,}",
    ]
    if steps["count"]:
        lines.append(f"steps       {steps['count']:,} ({steps['first']} to {steps['newest']})")
    lines += [f"people      {text}" for text in map(preference, told["releases"]) if text]
    lines += [f"{shown.figure.title}: {shown.sentence}" for shown in figures(told)]
    return [*lines, *_partly(told)]


def page(told: Told, run: Told | None = None) -> str:
    """The story as a page. run: the report of a demo (`hearken.demo.report`), which knows the true win rate
    and has answers of base and live to the same questions."""
    drawn = "\n".join(
        f"<figure>{svg(shown.figure)}<figcaption>{escape(shown.sentence)}</figcaption></figure>"
        for shown in figures(told)
    )
    return _PAGE.format(
        style=STYLE,
        when=escape(f"{local(told['since'])} to {local(told['until'])}"),
        tiles=_tiles(told, run),
        partly="".join(f"<p>{escape(text)}</p>" for text in _partly(told)),
        figures=drawn,
        people=_people(told),
        flags=_flags(told),
        versions=_versions(told),
        samples=_samples(run),
    )


def _counts(told: Told) -> str:
    return ", ".join(f"{told[name]} {name}" for name in COUNTED)


def _partly(told: Told) -> list[str]:
    """What is not in the story, and why."""
    found = []
    if not told["complete"]:
        found.append("Votes were read in part: reading all takes too long here.")
    if told["releases_unreported"]:
        found.append(
            f"People's votes are counted for the newest {len(told['releases'])} releases; there are "
            f"{told['releases_unreported']} older ones (`hearken release report VERSION` counts one)."
        )
    if told["versions_left_out"] or told["flags_left_out"]:
        found.append(
            f"{told['versions_left_out']} older versions and {told['flags_left_out']} older promotions and "
            "rollbacks are left out below; all are counted."
        )
    return found


def _tiles(told: Told, run: Told | None) -> str:
    tiles = [(str(told[name]), name) for name in COUNTED]
    tiles += [(f"{told['votes']['count']:,}", "votes"), (f"{told['steps']['count']:,}", "learner's steps")]
    if run is not None and run["true_win_rate"] is not None:
        rate = f"{run['true_win_rate']:.1%} ± {run['true_win_rate_standard_error']:.1%}"
        tiles.insert(0, (rate, f"true win rate of {run['live_version']} against the base"))
    tiles.insert(0, (told["live"], "live"))
    return "".join(f"<div><b>{escape(value)}</b>{escape(text)}</div>" for value, text in tiles)


def _people(told: Told) -> str:
    said = [text for text in map(preference, told["releases"]) if text]
    items = "".join(f"<li>{escape(text)}</li>" for text in said[::-1])
    return f"<ul>{items}</ul>" if said else f"<p>{NOBODY}</p>"


def _flags(told: Told) -> str:
    if not told["flags"]:
        return "<p>Nothing was promoted or rolled back in this time.</p>"
    items = "".join(
        f"<li>{escape(local(each['at']))} {escape(each['sentence'])}</li>" for each in told["flags"][::-1]
    )
    return f"<ol reversed>{items}</ol>"


def _versions(told: Told) -> str:
    line = " → ".join(map(escape, told["line"]))
    rows = "".join(map(_version, told["versions"][::-1]))
    if not rows:
        return f"<p>Live is {line}; no version was offered in this time.</p>"
    return (
        f'<p>The line of what is live: {line}.</p><div class="wide"><table><thead><tr><th>version</th>'
        "<th>grew from</th><th>offered</th><th>what came of it</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _version(each: Told) -> str:
    outcome = each["outcome"]
    came = "offered, not decided" if outcome is None else BECAME.get(outcome, outcome)
    cells = [
        each["version"],
        each["parent"] or "not known",
        "not known" if each["offered_at"] is None else local(each["offered_at"]),
        f"{came}{'; it is live' if each['is_live'] else ''}",
    ]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _samples(run: Told | None) -> str:
    samples: Sequence[Told] = [] if run is None else run["samples"][:MOST_SAMPLES]
    if run is None or not samples:
        return ""
    rows = "".join(
        f"<section><h3>{_text(each['prompt'])}</h3><div><h4>base</h4><p>{_text(each['base'])}</p></div>"
        f"<div><h4>live, {escape(run['live_version'])}</h4><p>{_text(each['live'])}</p></div></section>"
        for each in samples
    )
    return f'<h2>The same questions to both</h2><div class="samples">{rows}</div>'


def _text(text: str) -> str:
    if len(text) > MOST_LETTERS:
        text = f"{text[:MOST_LETTERS]} … ({len(text) - MOST_LETTERS:,} more letters)"
    return escape(text)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>The story of a run</title>
<style>{style}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem;
  background: var(--ground); color: var(--ink); overflow-wrap: anywhere; }}
h1 {{ margin: .5rem 0 0; }} h2 {{ margin: 2rem 0 .5rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10.5rem), 1fr)); gap: .5rem;
  margin: 1rem 0; }}
.tiles div {{ border: 1px solid var(--grid); border-radius: 6px; padding: .5rem .75rem; color: var(--soft);
  font-size: .875rem; }} .tiles b {{ display: block; color: var(--ink); font-size: 1.125rem; }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }}
figure {{ margin: 0; border: 1px solid var(--grid); border-radius: 6px; padding: .5rem; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figcaption, .soft {{ color: var(--soft); font-size: .875rem; }} figcaption {{ padding: .25rem .25rem 0; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
th, td {{ text-align: left; padding: .375rem .5rem; border-top: 1px solid var(--grid); vertical-align: top;
  overflow-wrap: normal; }}
.samples section {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 0 1rem; border-top: 1px solid var(--grid); padding: .5rem 0; }}
.samples h3 {{ grid-column: 1 / -1; font-size: 1rem; margin: .25rem 0; white-space: pre-wrap; }}
.samples h4 {{ margin: 0; color: var(--soft); font-size: .8125rem; }}
.samples p {{ margin: 0 0 .25rem; white-space: pre-wrap; }}
</style></head><body>
<h1>The story of a run</h1>
<div class="soft">{when}</div>
<div class="tiles">{tiles}</div>
{partly}
<div class="figures">
{figures}
</div>
<p class="soft">Flags on the time axis: a green one that points up is a promotion, a red one that points down
is a rollback.</p>
<h2>What people prefer</h2>
{people}
<h2>Promotions and rollbacks</h2>
{flags}
<h2>Versions</h2>
{versions}
{samples}
</body></html>
"""
