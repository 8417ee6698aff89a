"""The demo's live view: one snapshot drawn with rich on a terminal, or said in a line anywhere else."""

import math

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hearken.demo.watch import Evidence, Snapshot

BAR_WIDTH = 30


def line(s: Snapshot) -> str:
    """The snapshot in one line."""
    parts = [
        f"{clock(s.elapsed_seconds)}/{clock(s.total_seconds)}",
        f"{s.votes} votes",
        f"{s.chats} chats ({s.chat_failures} failed)",
        f"{s.chats_per_second:.1f} chats/s",
        f"utility {number(s.recent_utility, '+.2f')} (base {s.usual_utility:+.2f})",
        f"reward accuracy {number(s.reward_accuracy, '.2f')}",
        f"KL {number(s.kl_nats, '.2f')}/{number(s.kl_budget_nats, '.1f')} nats",
        f"{s.phase or 'starting'}",
        f"live {s.live}",
    ]
    if s.stage != "idle":
        parts.append(
            f"{s.stage} {s.canary} at {s.weight:.0%}: {s.pairs} pairs, "
            f"promote {against(s.promote)}, harm {against(s.harm)}"
        )
    return " | ".join(parts)


def render(s: Snapshot) -> RenderableType:
    """The snapshot for a terminal."""
    rows: list[RenderableType] = [_run(s), _learning(s), _release(s)]
    if s.decisions:
        decisions = Text("\n".join(s.decisions))
        rows.append(Panel(decisions, title="decisions", title_align="left", border_style="dim"))
    if s.sample is not None:
        rows.append(_sample(*s.sample))
    return Group(*rows)


def titled_rows() -> Table:
    """A table without lines: names, dim, and what there is to say of them."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=16)
    grid.add_column()
    return grid


def _run(s: Snapshot) -> Panel:
    grid = titled_rows()
    share = min(s.elapsed_seconds, s.total_seconds)
    grid.add_row("time", bar(share, s.total_seconds, f"{clock(share)} of {clock(s.total_seconds)}"))
    failed = s.chat_failures + s.feedback_failures
    grid.add_row("votes", f"{s.votes:,}")
    grid.add_row(
        "chats",
        f"{s.chats:,}   {s.chats_per_second:.1f} a second   {s.tokens_per_second:.0f} tokens a second",
    )
    grid.add_row("failed", Text(str(failed), style="red" if failed else "green"))
    gain = "" if s.recent_utility is None else f"{s.recent_utility:+.2f}"
    grid.add_row("users' utility", f"{gain}   (the base model: {s.usual_utility:+.2f})")
    return Panel(grid, title="simulated users", title_align="left")


def _learning(s: Snapshot) -> Panel:
    grid = titled_rows()
    grid.add_row("doing", s.phase or "starting")
    grid.add_row("labels used", f"{s.labels:,}")
    accuracy = number(s.reward_accuracy, ".0%")
    grid.add_row("reward model", f"{accuracy} of held-out votes predicted, {s.reward_updates} updates")
    budget = s.kl_budget_nats or math.inf
    text = f"{number(s.kl_nats, '.2f')} of {number(s.kl_budget_nats, '.1f')} nats, {s.ppo_steps} PPO steps"
    grid.add_row("KL to base", bar(s.kl_nats or 0.0, budget, text))
    return Panel(grid, title="learner", title_align="left")


def _release(s: Snapshot) -> Panel:
    grid = titled_rows()
    grid.add_row("live", Text(s.live, style="bold"))
    if s.stage != "idle":
        grid.add_row(s.stage, f"{s.canary} for {s.weight:.0%} of users, {s.pairs} paired users")
        grid.add_row("evidence for", evidence_bar(s.promote))
        grid.add_row("evidence of harm", evidence_bar(s.harm))
    return Panel(grid, title="release", title_align="left")


def _sample(prompt: str, base: str, live: str) -> Panel:
    grid = titled_rows()
    for name, text in (("question", prompt), ("base", base), ("live", live)):
        grid.add_row(name, Text(text.strip(), overflow="ellipsis"))
    return Panel(grid, title="the same question", title_align="left")


def evidence_bar(evidence: Evidence | None) -> RenderableType:
    """On a log scale: evidence grows by factors."""
    if evidence is None:
        return "-"
    filled = max(0.0, math.log(max(evidence.value, 1e-12)))
    return bar(filled, math.log(evidence.bound), against(evidence))


def bar(value: float, total: float, text: str) -> RenderableType:
    """How much of a total there is, and a text; the text alone where the total is no bound."""
    grid = Table.grid(padding=(0, 1))
    if not (math.isfinite(total) and total > 0):
        return Text(text)
    grid.add_row(ProgressBar(total=total, completed=min(value, total), width=BAR_WIDTH), text)
    return grid


def against(evidence: Evidence | None) -> str:
    """An e-value and its bound in words."""
    return "-" if evidence is None else f"{evidence.value:.3g} of {evidence.bound:g}"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def number(value: float | None, form: str) -> str:
    """A number, or a dash while there is none."""
    return "-" if value is None else format(value, form)
