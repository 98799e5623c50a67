"""What the doctor prints: a line a finding and its fix below, or JSON."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence

from pipelines.preflight.findings import Finding

MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
COLOURS = {"ok": "\033[32m", "warning": "\033[33m", "error": "\033[31m"}
PLAIN = "\033[0m"


def as_text(findings: Sequence[Finding], coloured: bool, width: int | None = None) -> str:
    """A table for people, as wide as their terminal."""
    column = max(len(finding.check) for finding in findings)
    width = max(width or shutil.get_terminal_size().columns, column + 40)
    lines = []
    for finding in findings:
        mark = MARKS[finding.state]
        mark = f"{COLOURS[finding.state]}{mark}{PLAIN}" if coloured else mark
        lines += [f"{mark} {finding.check:<{column}}  {_wrap(finding.message, column + 4, width)}"]
        lines += [f"{' ' * (column + 4)}→ {_wrap(finding.fix, column + 6, width)}"] if finding.fix else []
    return "\n".join([*lines, "", summary(findings)])


def _wrap(text: str, indent: int, width: int) -> str:
    """`text` in lines that are not cut within words: paths and addresses can be copied."""
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
    return f"\n{' ' * indent}".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """One line on all."""
    count = Counter(finding.state for finding in findings)
    errors = f"{count['error']} of {len(findings)} checks would stop a run" if count["error"] else ""
    warnings = f"{count['warning']} {'warnings' if count['warning'] > 1 else 'warning'}" if count["warning"] else ""
    return ", ".join(filter(None, [errors, warnings])) or f"all {len(findings)} checks passed"


def as_json(findings: Sequence[Finding]) -> str:
    """{"fit": …, "findings": [{check, state, message, fix}, …]}."""
    fit = not any(finding.state == "error" for finding in findings)
    return json.dumps(
        {"fit": fit, "findings": [finding._asdict() for finding in findings]}, ensure_ascii=False, indent=1
    )
