"""Values that are made for every check: as frozen as the type checker holds them, and made at a quarter of the cost."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """
    A dataclass that is not changed once it is made.

    mypy refuses what would change one. At run time nothing does: `frozen=True` sets each field by way of
    `object.__setattr__`, which is most of what an object costs.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
