"""Workflow orchestration around `ssd`: stages that DVC runs, tools beside them, and the rooms that they stand on.

Arrows run one way: ssd ← params, settings ← store, tracking ← cluster ← training ← stages and tools. Stages do not
import each other. Each room's first lines say what it is for and which of its names others may use.
"""

__version__ = "0.2.0"
