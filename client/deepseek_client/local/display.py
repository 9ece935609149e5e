"""Shows a local run while it goes on: a live panel on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.decide.types import Event
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deepseek_client.local.history import History
from deepseek_client.text import count, duration, number, sparkline

PLAIN_INTERVAL_S = 5.0
_STATE_STYLE = {"Running": "green", "Succeeded": "bold green", "Failed": "bold red", "Restarting": "yellow"}


def view(console: Console) -> PlainView | LiveView:
    """The view that suits where the output goes."""
    return LiveView(console) if console.is_terminal else PlainView(console)


class PlainView:
    """One line an event, and one line of progress every few seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._next = 0.0
        self._shown: tuple[object, ...] = ()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, job: DeepSeekJob, history: History) -> None:
        status, last = job.status, history.last
        step = last.step if last else None
        starting = last.phase if last and last.phase in ("starting", "preparing") else ""
        news = (status.state, status.generation, status.reason, starting)
        moved = (*news, step)
        if self._shown[:4] != news or (self._shown != moved and self._clock() >= self._next):
            self._shown = moved
            self._next = self._clock() + PLAIN_INTERVAL_S
            self._console.print(self._line(job, history), highlight=False, markup=False, soft_wrap=True)

    def event(self, time_s: float, event: Event) -> None:
        line = f"[{duration(time_s):>7}] {event.type:<7} {event.reason}: {event.message}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @staticmethod
    def _line(job: DeepSeekJob, history: History) -> str:
        status, last = job.status, history.last
        parts = [
            f"[{duration(history.wall_s):>7}] {status.state:<10}",
            f"nodes {status.ready_nodes or '—'}",
            f"generation {status.generation}",
            f"restarts {status.total_restarts}",
        ]
        if last and last.step is not None:
            parts += [
                f"step {last.step}/{last.total_steps or '?'}",
                f"loss {number(last.loss)}",
                f"{count(last.tokens_per_second)} tokens/s",
                f"ETA {duration(last.eta_seconds)}",
            ]
        elif last and last.phase:
            parts.append(last.phase)
        return "  ".join(parts)


class LiveView:
    """A panel that is drawn over itself."""

    def __init__(self, console: Console) -> None:
        self._events: deque[str] = deque(maxlen=8)
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def update(self, job: DeepSeekJob, history: History) -> None:
        self._live.update(self._panel(job, history))

    def event(self, time_s: float, event: Event) -> None:
        style = "yellow" if event.type == "Warning" else "dim"
        self._events.append(f"[{style}]{duration(time_s):>7}  {escape(event.reason)}: {escape(event.message)}[/]")

    def _panel(self, job: DeepSeekJob, history: History) -> Panel:
        status = job.status
        style = _STATE_STYLE.get(status.state, "cyan")
        title = f"[bold]{escape(job.metadata.name)}[/]  [{style}]{status.state}[/]  [dim]{escape(status.reason)}[/]"
        return Panel(
            Group(self._numbers(job, history), self._bar(history), self._curve(history), *self._tail()), title=title
        )

    def _numbers(self, job: DeepSeekJob, history: History) -> Table:
        status, last = job.status, history.last
        table = Table.grid(padding=(0, 3))
        table.add_row(
            f"nodes [bold]{status.ready_nodes or '—'}[/]",
            f"generation [bold]{status.generation}[/]",
            f"restarts [bold]{status.total_restarts}[/]",
            f"checkpoint [bold]{max(history.checkpoints, default='—')}[/]",
            f"elapsed [bold]{duration(history.wall_s)}[/]",
        )
        table.add_row(
            f"loss [bold]{number(last.loss if last else None)}[/]",
            f"validation [bold]{number(last.validation_loss if last else None)}[/]",
            f"tokens/s [bold]{count(last.tokens_per_second if last else None)}[/]",
            f"ETA [bold]{duration(last.eta_seconds if last else None)}[/]",
            f"phase [bold]{last.phase if last else 'starting'}[/]",
        )
        return table

    @staticmethod
    def _bar(history: History) -> RenderableType:
        last = history.last
        total = last.total_steps if last else None
        if last is None or not total:
            return Text("step —", style="dim")
        step = last.step or 0
        row = Table.grid(padding=(0, 1))
        row.add_row(
            f"step {step}/{total}", ProgressBar(total=total, completed=step, width=44), f"{100 * step // total}%"
        )
        return row

    @staticmethod
    def _curve(history: History) -> Text:
        losses = [step.loss for step in history.curve()]
        return Text(f"loss {sparkline(losses, 60)}" if losses else "loss —", style="cyan")

    def _tail(self) -> list[Text]:
        return [Text.from_markup(line) for line in self._events]
