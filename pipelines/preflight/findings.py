"""What a check finds: a state, what is the case, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pipelines.errors import UserError, explain, first_line


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: its name, "disk" or "S3".
        state: "ok"; "warning": a run works, but hardly as wanted; "error": something would stop it.
        message: what is the case, with file, key or variable where it is one.
        fix: what to do; empty where nothing is due.
    """

    check: str
    state: Literal["ok", "warning", "error"]
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.message}{f'; {self.fix}' if self.fix else ''}"


class Unfit(UserError):  # noqa: N818  named after what was found
    """Something would stop the run; the message names it and the fix."""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Finding:
    """A run works, but hardly as wanted."""
    return Finding(check, "warning", message, fix)


def error(check: str, message: str, fix: str) -> Finding:
    """Something would stop the run."""
    return Finding(check, "error", message, fix)


def guarded(check: str, call: Callable[..., Iterable[Finding]], *arguments: Any) -> list[Finding]:
    """What `call` finds; its own failure is a finding too."""
    try:
        return list(call(*arguments))
    except UserError as failure:
        return [error(check, " ".join(str(failure).split()), "")]
    except OSError as failure:
        return [error(check, explain(failure), "")]
    except Exception as failure:
        message = f"the check itself failed: {type(failure).__name__}: {first_line(failure)}"
        return [warning(check, message, "please report it; what it looks at may be all right")]


def speak_if_wrong(findings: Sequence[Finding]) -> None:
    """Print warnings to stderr; silent where all is well.

    Raises:
        Unfit: there are errors.
    """
    for finding in findings:
        if finding.state == "warning":
            print(f"warning: {finding}", file=sys.stderr, flush=True)
    if errors := [str(finding) for finding in findings if finding.state == "error"]:
        raise Unfit("\n".join(errors))
