"""What a person sees while the parts start and run: a live table on a terminal, lines elsewhere."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.children import Child, Phase

STYLES: Final = {
    Phase.WAITING: "dim",
    Phase.STARTING: "yellow",
    Phase.READY: "green",
    Phase.RESTARTING: "red",
    Phase.STOPPED: "dim",
}


class Board:
    """Shows every child and its phase. Used as a context while the children start.

    `console` decides the form: a table that redraws itself on a terminal, one line per change
    where the output is a file or a pipe. After the context, changes are printed as lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._children: dict[str, Child] = {}
        self._live: Live | None = None
        self.quiet = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.update(self._table())
            self._live.stop()
            self._live = None

    def changed(self, child: Child) -> None:
        """Take note of a child's new phase."""
        self._children[child.spec.name] = child
        if self._live:
            self._live.update(self._table())
        elif not self.quiet and child.phase is not Phase.STARTING:
            self._console.print(self._line(child), highlight=False, soft_wrap=True)

    def _line(self, child: Child) -> Text:
        since = time.monotonic() - self._began
        line = Text.assemble(
            (f"{since:6.1f} s  ", "dim"),
            f"{child.spec.name:<14}",
            (f"{child.phase:<11}", STYLES[child.phase]),
        )
        if child.phase is Phase.READY:
            line.append(child.spec.url)
        if child.phase is Phase.RESTARTING:
            line.append(child.why)
        return line

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("part", "state", "after", "address"):
            table.add_column(heading, header_style="dim", no_wrap=True)
        for child in self._children.values():
            ready = child.phase is Phase.READY
            state: Text | Spinner = Text(child.phase, STYLES[child.phase])
            if child.phase is Phase.STARTING:
                state = Spinner("dots", text=Text(child.phase, STYLES[child.phase]))
            after = f"{child.ready_after_s:.1f} s" if ready else ""
            table.add_row(child.spec.name, state, after, child.spec.url)
        return table
