"""Whether the hot path is compiled (hatch_build.py) or interpreted: the same source either way."""

from importlib.util import find_spec
from typing import Final


_HOT: Final = find_spec("authz.pipeline")
IS_COMPILED: Final = _HOT is not None and not str(_HOT.origin).endswith(".py")
