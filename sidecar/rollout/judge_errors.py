"""What the world can do wrong to the judge. Each ends in exit code 3 and one line that says what to do."""

from __future__ import annotations

from evenkeel.serve.errors import EvenkeelError


class CannotJudge(EvenkeelError):
    """There is nothing to judge by: no data, unreadable data, or a contradiction in what was asked."""

    code = "cannot_judge"


class BadRule(CannotJudge):
    code = "bad_rule"


class BadMetrics(CannotJudge):
    """What an instance or a Prometheus server answered cannot be read as metrics."""

    code = "bad_metrics"


class BadLog(CannotJudge):
    """A replay log is damaged, or of a version that this judge does not know."""

    code = "bad_log"
