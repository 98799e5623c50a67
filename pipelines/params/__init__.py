"""`params.yaml`, read strictly: every error names the file, the key and the fix.

All that others use can be imported from here. `sections` are the parts that `ssd/` knows nothing of, `reading` makes
`Params` of the file, and `draft` is the file as it is written, where some values may be `auto`.
"""

from pipelines.params.draft import Draft, load_draft, load_stated
from pipelines.params.reading import PARAMS_FILE, Params, ParamsError, Stated, load_params, merge
from pipelines.params.sections import (
    SEARCHED,
    EvaluateParams,
    GateParams,
    GenerateParams,
    PrepareParams,
    Range,
    RegistryParams,
    TuneParams,
)

__all__ = [
    "PARAMS_FILE",
    "SEARCHED",
    "Draft",
    "EvaluateParams",
    "GateParams",
    "GenerateParams",
    "Params",
    "ParamsError",
    "PrepareParams",
    "Range",
    "RegistryParams",
    "Stated",
    "TuneParams",
    "load_draft",
    "load_params",
    "load_stated",
    "merge",
]
