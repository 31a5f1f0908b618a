"""Which classes rows can be returned as, and how their instances are made."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypedDict

import attrs
import pydantic
import pytest
from pydantic import v1

from aioupsert import UsageError
from aioupsert._plan.row_classes import row_class

ROW: Final = {"k": 1, "note": "x"}


@dataclass(frozen=True)
class Data:
    k: int
    note: str
    twice: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.k)


class Tuple(NamedTuple):
    k: int
    note: str | None = None


class Dict(TypedDict):
    k: int
    note: str


class MoreDict(Dict, total=False):
    other: int


@attrs.define
class Attrs:
    k: int
    note: str
    twice: int = attrs.field(init=False, default=2)


@attrs.define
class PrivateAttrs:
    k: int
    _note: str


class Model(pydantic.BaseModel):
    k: int
    note: str


class Aliased(pydantic.BaseModel):
    k: int = pydantic.Field(alias="theK")
    note: str = pydantic.Field(validation_alias=pydantic.AliasChoices("note", "n"))


class OldModel(v1.BaseModel):
    k: int = v1.Field(alias="theK")
    note: str


@pydantic.dataclasses.dataclass
class ModelData:
    k: int
    note: str


CASES: Final[dict[str, tuple[type[Any], Callable[[Any], Any]]]] = {
    "dataclass": (Data, lambda r: (r.k, r.note, r.twice // 2)),
    "named tuple": (Tuple, lambda r: (r.k, r.note, 1)),
    "TypedDict": (Dict, lambda r: (r["k"], r["note"], len(r) - 1)),
    "attrs": (Attrs, lambda r: (r.k, r.note, r.twice // 2)),
    "pydantic": (Model, lambda r: (r.k, r.note, 1)),
    "pydantic with aliases": (Aliased, lambda r: (r.k, r.note, 1)),
    "pydantic 1": (OldModel, lambda r: (r.k, r.note, 1)),
    "pydantic dataclass": (ModelData, lambda r: (r.k, r.note, 1)),
}


@pytest.mark.parametrize(("cls", "cells"), CASES.values(), ids=list(CASES))
def test_an_instance_is_made_of_a_row(
    cls: type[Any], cells: Callable[[Any], Any]
) -> None:
    names, make = row_class(cls)
    assert sorted(names) == ["k", "note"]
    assert cells(make(ROW)) == (1, "x", 1)


def test_every_field_is_a_column() -> None:
    assert sorted(row_class(MoreDict).names) == ["k", "note", "other"]
    names, make = row_class(PrivateAttrs)
    assert names == ("k", "_note")
    assert make({"k": 1, "_note": "x"}) == PrivateAttrs(1, "x")


@pytest.mark.parametrize("cls", [int, dict, object, Exception])
def test_a_class_without_fields_is_refused(cls: type[Any]) -> None:
    with pytest.raises(UsageError, match="a class with fields"):
        row_class(cls)
