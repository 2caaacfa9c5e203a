"""The shapes of filters, made from the tables of `webhookd.operate.filter`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import create_model

from webhookd.admin.route import Shape
from webhookd.admin.shapes import EventTypes, GivenTime, Text, left_out
from webhookd.operate.filter import Table, choose, filters_of

S = TypeVar("S", bound=Shape)
_VALUES: dict[type, Any] = {str: Text, datetime: GivenTime, tuple: EventTypes}


def filtered(table: type, **values: Any) -> Callable[[type[S]], type[S]]:
    """Gives a shape a field for each filter of a table, unless the shape has such a field. The filters come first.

    values: the types of filters that take other values than their kind says.
    """

    def add(shape: type[S]) -> type[S]:
        fields: dict[str, Any] = {
            one.name: (values.get(one.name, _VALUES[one.kind]), left_out(description=one.about.text))
            for one in filters_of(table)
            if one.name not in shape.model_fields
        }
        filters = create_model(shape.__name__, __base__=Shape, __module__=shape.__module__, **fields)
        bases = cast(tuple[type[S], ...], (shape, filters))
        return create_model(shape.__name__, __base__=bases, __module__=shape.__module__, __doc__=shape.__doc__)

    return add


def chosen(table: type[Table], query: Shape) -> Table:
    """Returns the filter that a query names."""
    return choose(table, query.model_dump(include={one.name for one in filters_of(table)}))
