"""The base of every stage of a configuration, and checks that several stages use."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, FailFast, ValidationInfo, field_validator, model_validator

#: keys of a stage and values of a list or mapping, at most: for each wrong one of them there is an error in memory
_MOST_KEYS = 1000
_MOST_VALUES = 100_000


class Stage(BaseModel):
    """Base of every stage: frozen, unknown keys forbidden, numbers finite.

    Numbers that decide how much memory or time something takes have upper bounds, far above what an experiment needs:
    a config may be a stranger's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MOST_KEYS:
            raise ValueError(f"{len(data):,} keys, where {len(cls.model_fields)} are known")
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _few_values_and_switches_only_where_meant(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        # A list that may be longer is read up to its first wrong value only.
        may_be_long = any(isinstance(one, FailFast) for one in field.metadata)
        if isinstance(value, list | tuple | dict) and len(value) > _MOST_VALUES and not may_be_long:
            raise ValueError(f"at most {_MOST_VALUES:,} values, got {len(value):,}")
        # Python counts True as 1: "epochs: true" would train one epoch.
        if bool not in (field.annotation, *get_args(field.annotation)) and _has_switch(value):
            raise ValueError("must not be true or false")
        return value


def _has_switch(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_switch, value)))


def check_filled(value: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse an empty list."""
    if not value:
        raise ValueError("needs at least one number, got []")
    return value
