"""The messages of all errors that a user can act on, and their lists in docs/when-something-goes-wrong.md.

`python -m tests.messages` writes the lists anew, after a message was changed or added.
"""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/when-something-goes-wrong.md"
GAP = "…"  # what the message names: a file, a number, a reason
# A section's heading names its rooms; its last block lists their messages.
SECTION = re.compile(r"^## (?P<heading>[^\n]*\(`[^\n]*`\))\n(?P<text>.*?)^```text\n(?P<messages>.*?)^```$", re.M | re.S)


@cache
def trees():
    """(room, syntax tree) of each file in pipelines/."""
    folder = ROOT / "pipelines"
    paths = sorted(folder.rglob("*.py"))
    return [(path.relative_to(folder).parts[0].removesuffix(".py"), ast.parse(path.read_text())) for path in paths]


def name_of(node):
    return getattr(node, "id", getattr(node, "attr", ""))


def user_errors():
    """Names of `UserError` and all classes below it."""
    classes = [node for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found, before = {"UserError"}, set()
    while found != before:
        before = set(found)
        found |= {node.name for node in classes if before & {name_of(base) for base in node.bases}}
    return found


def template(node):
    """A message's constant parts, with a gap for each other one."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(template, node.values))
        case ast.BinOp(op=ast.Add()):
            return template(node.left) + template(node.right)
        case _:
            return GAP


def messages():
    """Room → templates of its messages, in their order; without those that are a name and a reason from elsewhere."""
    errors, found = user_errors(), {}
    for room, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and name_of(node.exc.func) in errors:
                text = re.sub(f"{GAP}+", GAP, " ".join(template(node.exc.args[0]).split()))
                if re.search(r"\w{3}.*\w{3}", text):
                    found.setdefault(room, {})[text] = None
    return {room: list(texts) for room, texts in found.items()}


def rooms_of(heading):
    """The rooms that a heading names."""
    return re.findall(r"`(\w+)`", heading)


def rewritten(page):
    """The page with the lists that the code gives."""
    found = messages()

    def with_list(section):
        lines = [line for room in rooms_of(section["heading"]) for line in found.get(room, [])]
        return f"## {section['heading']}\n{section['text']}```text\n" + "".join(f"{line}\n" for line in lines) + "```"

    return SECTION.sub(with_list, page)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
