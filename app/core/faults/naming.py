"""Joins the faults of all features that are made of a field into one fault of that field, named as in the events.

For each field, the fault that is nearest to it leads: that of the field itself, then of a known function of it, then of
a window over it, then of what is made of several fields. It explains what the features behind it show: a constant
amount has a constant logarithm, a missing one may leave a comparison constant. What it does not explain stays a fault
of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.core.faults.fault import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.core.faults.fault import Fault, FaultKind
    from app.core.features.origins import Origins

_SHAPES: frozenset[FaultKind] = frozenset({"unit_changed", "out_of_range", "stand_in_value", "clipped"})
_VALUES: frozenset[FaultKind] = frozenset({"vocabulary_changed", "category_vanished", "constant"})
_MISSING: frozenset[FaultKind] = frozenset({"missing_values", "missing_values_filled", "infinite_values"})
#: With one of these faults in a key, lookups and sums by that key find nothing.
_OF_KEYS: frozenset[FaultKind] = frozenset({"vocabulary_changed", "missing_values", "constant"})
#: What the fault of a field may look like in a feature that is made of it.
_EXPLAINS: Mapping[FaultKind, AbstractSet[FaultKind]] = {
    # What is beyond all limits is beyond the limit of a comparison, too.
    "unit_changed": _SHAPES | {"constant"},
    "out_of_range": _SHAPES | {"constant"},
    "stand_in_value": _SHAPES,
    "clipped": _SHAPES,
    "constant": _SHAPES | _VALUES | _MISSING,
    "missing_values": _SHAPES | _VALUES | _MISSING,
    "missing_values_filled": _SHAPES | _MISSING,
    "infinite_values": _SHAPES | _MISSING,
    "vocabulary_changed": _VALUES | _MISSING,  # a lookup does not find a value under another name
    "category_vanished": _VALUES | _MISSING,
    "columns_displaced": _SHAPES | _VALUES,
    "columns_swapped": _SHAPES | _VALUES,
}


def name_fields(
    faults: Iterable[Fault], origins: Origins, signalled: AbstractSet[str], order: Sequence[str]
) -> list[Fault]:
    """Put the faults of one field together, and say which field it is.

    Parameters
    ----------
    faults
        Of metrics.
    signalled
        Metrics that have moved: those that are made of the field are named with its fault, if nothing else is wrong.
    order
        The features, in signature order.
    """
    every = list(faults)
    waiting = sorted(
        every, key=lambda fault: (not _is_key(fault, every, origins), _distance(fault, origins), -fault.strength)
    )
    groups: list[tuple[Fault, tuple[str, ...], set[str]]] = []
    for lead in waiting[:]:
        if lead not in waiting:
            continue
        waiting.remove(lead)
        fields = _fields(lead, waiting, origins)
        behind = [
            fault
            for fault in waiting
            if fault.kind in _EXPLAINS[lead.kind]
            and any(_is_made(name, fields, origins) or _is_found_by(name, lead, origins) for name in fault.metrics)
        ]
        waiting = [fault for fault in waiting if fault not in behind]
        groups.append((lead, fields, {name for fault in behind for name in fault.metrics} - set(lead.metrics)))
    at_fault = {name for lead, _, behind in groups for name in (*lead.metrics, *behind)}
    named = []
    for lead, fields, explained in groups:
        followers = {name for name in signalled - at_fault if _is_made(name, fields, origins)}
        at_fault |= followers
        named.append(_said(lead, fields, [name for name in order if name in explained | followers], origins))
    return named


def _distance(fault: Fault, origins: Origins) -> int:
    return -1 if fault.kind.startswith("columns") else min(origins[name].distance for name in fault.metrics)


def _is_key(fault: Fault, others: Sequence[Fault], origins: Origins) -> bool:
    return any(_is_found_by(name, fault, origins) for other in others for name in other.metrics)


def _is_made(name: str, fields: Sequence[str], origins: Origins) -> bool:
    return not set(fields).isdisjoint(origins[name].fields)


def _is_found_by(name: str, lead: Fault, origins: Origins) -> bool:
    """Whether a feature is looked up, or summed up, by the very field that a fault is of."""
    own = origins[lead.metrics[0]]
    if name in lead.metrics:
        return False
    return lead.kind in _OF_KEYS and own.distance == 0 and own.fields[0] in origins[name].keys


def _fields(lead: Fault, others: Sequence[Fault], origins: Origins) -> tuple[str, ...]:
    """The field that a fault is of; of several in one feature, the one that most others of its kind are made of."""
    if lead.kind.startswith("columns"):
        fields_of = [origins[name].fields for name in lead.metrics]
        return tuple(dict.fromkeys(field for fields in fields_of for field in fields))
    fields = origins[lead.metrics[0]].fields
    if len(fields) < 2:
        return fields
    shared = [
        sum(fault.kind == lead.kind and _is_made(fault.metrics[0], [field], origins) for fault in others)
        for field in fields
    ]
    most = max(shared)
    return (fields[shared.index(most)],) if most and shared.count(most) == 1 else fields


def _said(lead: Fault, fields: tuple[str, ...], behind: Sequence[str], origins: Origins) -> Fault:
    metrics = (*lead.metrics, *behind)
    sentence = lead.sentence[:-1]
    own = origins[lead.metrics[0]]
    if lead.kind.startswith("columns"):
        sentence = _of_fields(sentence, lead.metrics, origins)
        behind = [name for name in metrics if name in behind or origins[name].fields != (name,)]
    elif len(fields) == 1 and (own.distance == 0 or (lead.kind == "unit_changed" and own.path is not None)):
        # The sentence on a unit is about the field; so is any other on the field itself.
        sentence = sentence.replace(f"`{lead.metrics[0]}`", f"`{fields[0]}`", 1)
        behind = [name for name in metrics if name in behind or own.distance]
    elif len(fields) == 1:
        sentence = f"`{fields[0]}` looks wrong: {sentence}"
    elif fields:
        sentence = f"{sentence}. It is made of {listed(fields)}"
    if behind and len(fields) == 1:
        sentence += f"; {listed(behind)} moved with it"
    elif behind:
        sentence += f"; {listed(behind)} moved with {'them' if lead.kind.startswith('columns') else 'it'}"
    return replace(lead, metrics=metrics, sentence=f"{sentence}.", fields=fields)


def _of_fields(sentence: str, metrics: Sequence[str], origins: Origins) -> str:
    """A sentence on columns, with the fields that these are functions of."""
    names = {name: origins[name].fields[0] for name in metrics if origins[name].distance < 3}
    parts = sentence.split("`")
    return "`".join(names.get(part, part) if at % 2 else part for at, part in enumerate(parts))
