"""What is wrong with a run config, in a line for each field: where, what, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def lines(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Args: model: that was validated."""
    for problem in error.errors():
        where = problem["loc"]
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            message = f"unknown field{_nearest(str(where[-1]), _fields(model, where[:-1]))}"
        yield f"{'.'.join(map(str, where))}: {message}"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(known))}"


def _fields(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Names, as they are written, of the fields in the section that is there."""
    here = model
    for part in where:
        types = [field.annotation for name, field in here.model_fields.items() if part in (name, field.alias)]
        here = next(_models(types), here)
    return [field.alias or name for name, field in here.model_fields.items()]


def _models(types: list[Any]) -> Iterator[type[BaseModel]]:
    """Sections among types, and among what these are made of."""
    for one in types:
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one
        yield from _models(list(get_args(one)))
