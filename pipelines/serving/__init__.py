"""The tool `serving`: a registered model behind HTTP on Ray Serve, `serve run pipelines.serving:app`.

`application` answers in batches, `requests` reads and checks what was sent, `following` loads the version that the
alias points to now.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`app`, which needs Ray Serve; the rest of the room does not."""
    if name == "app":
        from pipelines.serving.application import app

        return app
    raise AttributeError(name)
