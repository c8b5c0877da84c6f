"""What a terminal shows while a comparison runs."""

import io

from rich.console import Console

from profit_optax.compare import progress
from profit_optax.compare.progress import Progress, in_lines, watched
from tests.compare.test_summary import row


def test_a_terminal_shows_the_method_the_share_the_time_left_and_the_table(monkeypatch):
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal)
    with watched(None) as tell:
        tell(Progress("AdamW", 1e-3, 2, 25, 100, ()))
        tell(Progress("PROFIT", 1e-3, 0, 50, 100, (row("AdamW", 0.9, None, 0), row("SGD", 0.95, 0.05, 0.01))))
    shown = text.getvalue()
    for words in ("PROFIT at 1e-3, seed 0", "50 %", "left:", "95.0 ± 1.0", "+5.0 ± 1.0"):
        assert words in shown


def test_a_file_gets_a_line_as_a_method_begins_at_a_rate():
    lines = []
    tell = in_lines(lines.append)
    for method, rate, seed, gradients in (("AdamW", 1e-3, 0, 0), ("AdamW", 1e-3, 1, 20), ("AdamW", 3e-3, 0, 50)):
        tell(Progress(method, rate, seed, gradients, 100, ()))
    tell(Progress("SGD", 3e-3, 0, 75, 100, ()))
    assert lines == ["  0%  AdamW at rate 1e-3", " 50%  AdamW at rate 3e-3", " 75%  SGD at rate 3e-3"]


def test_nobody_is_told_where_there_is_no_terminal(capsys):
    with watched(None) as tell:
        tell(Progress("AdamW", 1e-3, 2, 25, 100, ()))
    assert capsys.readouterr() == ("", "")
