"""The guide's tables of payloads, made from the tables that samples are made from."""

from __future__ import annotations

from datetime import UTC, datetime

from webhookd.authorizenet.notification import PREFIX
from webhookd.authorizenet.sampling import sample
from webhookd.authorizenet.shapes import FIELDS, SHAPES

_NUMBER = 4711
_DATE = datetime(2026, 3, 29, 12, 30, 15, 123456, UTC)
_TITLES = {
    "transaction": "Transactions",
    "customerProfile": "Customer profiles",
    "customerPaymentProfile": "Payment profiles",
    "subscription": "Subscriptions",
}


def payloads() -> str:
    """Returns for each entity a table of its fields, and a table of its event types with a sample of each."""
    parts = []
    for entity, title in _TITLES.items():
        names = [name for name, shape in SHAPES.items() if shape.entity == entity]
        rows = ["| field | JSON | keyword | meaning | absent from | not confirmed in |", "|---|---|---|---|---|---|"]
        for field in FIELDS[entity]:
            keyword = f"`{field.keyword}`" if field.keyword else ""
            path = field.path.partition("[]")[0]
            likely = ", ".join(f"`{name}`" for name in names if path in SHAPES[name].likely)
            rows.append(f"| `{field.path}` | {field.kind} | {keyword} | {field.meaning} | {_absent(path, names)} | {likely} |")
        rows += ["", "| event type | reports | confirmed | payload |", "|---|---|---|---|"]
        for name in names:
            shape = SHAPES[name]
            rows.append(f"| `{name}` | {shape.reports} | {'yes' if shape.confirmed else 'no'} | `{_sample(name)}` |")
        parts.append("\n".join((f"## {title}", "", *rows)))
    return "\n\n".join(parts) + "\n"


def _absent(path: str, names: list[str]) -> str:
    """Returns the types of which no event has the field, and whether other events lack it."""
    never = [name for name in names if path not in SHAPES[name].possible]
    always = [name for name in names if path in SHAPES[name].fields]
    if len(always) == 1 and len(never) == len(names) - 1 > 1:
        return f"all types but `{always[0]}`"
    sometimes = ["some events"] if len(always) + len(never) < len(names) else []
    return ", ".join((*sometimes, *(f"`{name}`" for name in never)))


def _sample(name: str) -> str:
    return sample(PREFIX + name, _NUMBER, _DATE).body.decode().partition('"payload":')[2].removesuffix("}")
