"""`hearken release report` in words and as a page: what people think of a version against the one before."""

from html import escape

from deploy.reports.ab_report import Report, Said
from hearken.base.telling import local

NOBODY = "nobody gave any vote that tells the two apart"


def describe(report: Report) -> list[str]:
    """The report in lines that people read."""
    lines = [
        f"{report.version} against {report.against}, {local(report.started_at)} to {local(report.until)}",
        f"{report.exposed} users met it in its canary; what came of it: {report.outcome}",
        *_sentences(report.users),
    ]
    for name, said in report.tenants.items():
        lines += [f"tenant {name}: {sentence}" for sentence in _sentences(said)]
    if not report.complete:
        lines.append("This is of a part of the votes: reading all takes too long here.")
    return lines


def page(report: Report) -> str:
    """The report as one HTML page without scripts or anything from elsewhere."""
    rows = [("all users", report.users), *((f"tenant {name}", said) for name, said in report.tenants.items())]
    title = escape(f"{report.version} against {report.against}")
    partial = "" if report.complete else "<p>Of a part of the votes: reading all takes too long here.</p>"
    return _PAGE.format(
        title=title,
        when=escape(f"{local(report.started_at)} to {local(report.until)}"),
        exposed=report.exposed,
        outcome=escape(report.outcome),
        partial=partial,
        rows="\n".join(_row(name, said) for name, said in rows),
    )


def _sentences(said: Said) -> list[str]:
    found = []
    if said.preferred is not None and said.preferred_interval is not None:
        low, high = said.preferred_interval
        found.append(
            f"people prefer it in {said.preferred:.0%} [{low:.0%}, {high:.0%}] of {said.compared} who chose "
            "between both"
        )
    if said.thumbs is not None and said.thumbs_interval is not None:
        low, high = said.thumbs_interval
        found.append(
            f"thumbs up: {100 * said.thumbs:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] for "
            f"{said.matched} users, each beside others who were heard at the same time"
        )
    return found or [NOBODY]


def _row(name: str, said: Said) -> str:
    preferred = _bar(said.preferred, said.preferred_interval, 0.0, 1.0, 0.5)
    thumbs = _bar(said.thumbs, said.thumbs_interval, -1.0, 1.0, 0.0)
    words = "<br>".join(map(escape, _sentences(said)))
    return f"<tr><th>{escape(name)}</th><td>{preferred}</td><td>{thumbs}</td><td>{words}</td></tr>"


def _bar(
    value: float | None, ends: tuple[float, float] | None, least: float, most: float, equal: float
) -> str:
    """An interval as a line with a dot, and where both policies would be equal."""
    if value is None or ends is None:
        return ""
    low, here, high, middle = (200 * (x - least) / (most - least) for x in (ends[0], value, ends[1], equal))
    return (
        f'<svg width="200" height="20" role="img" aria-label="{value:.3f}">'
        f'<line class="equal" x1="{middle:.1f}" y1="0" x2="{middle:.1f}" y2="20"/>'
        f'<line x1="{low:.1f}" y1="10" x2="{high:.1f}" y2="10"/><circle cx="{here:.1f}" cy="10" r="4"/></svg>'
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .5rem; border-top: 1px solid #ccc; vertical-align: top; }}
svg line {{ stroke: #246; stroke-width: 3; }} svg circle {{ fill: #246; }}
svg .equal {{ stroke: #bbb; stroke-width: 1; }}
</style></head><body>
<h1>{title}</h1>
<p>{when}. {exposed} users met it in its canary; what came of it: {outcome}.</p>
{partial}
<table>
<thead><tr><th></th><th>preferred (middle: equal)</th><th>thumbs (middle: equal)</th><th></th></tr></thead>
<tbody>
{rows}
</tbody></table>
<p>Intervals hold at every look: the chance that the truth is ever outside is at most 5%.</p>
</body></html>
"""
