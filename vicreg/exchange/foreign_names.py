"""Which of a file's tensors are an encoder's, whatever stands before their names.

`module.`, `_orig_mod.`, `backbone.`, `encoder_q.`, `student.` and the like, alone or nested, and the entries that a
checkpoint has (`state_dict`, `model_ema`, `teacher`): a prefix is what is left of a name when the encoder's own is
taken from its end, so no list of them is kept. Only where a file holds several networks do words in them decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vicreg.exchange.encoder_file import listed

Containers = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each entry of a file, by their names; "" for a file that is its own entry."""

CLASSIFIERS = ("fc", "head", "heads", "head_dist", "classifier", "aux1", "aux2", "AuxLogits")
"""Where torchvision and timm keep classifiers, auxiliary ones included."""
HEADS = ("projection_head", "prototypes", "projector", "projection", "predictor", "expander", "mask_token")
"""What methods keep among the layers of an encoder that has no name of its own (SwAV, DINO, MAE)."""
EXPANDERS = ("projector", "expander", "projection_head", "projection")
"""What methods call the network behind the encoder, beside which it stands."""
AVERAGED = {"ema", "averaged", "swa"}
MOMENTUM = {"k", "key", "momentum", "target"}  # a method's helper, which its paper does not evaluate (MoCo, BYOL)
SIDES = ("student", "teacher")
_NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""A ResNet that was put into a sequence of its parts (lightly, yaox12/BYOL-PyTorch)."""
_COUNTER = ".num_batches_tracked"  # which files from before PyTorch 0.4.1 lack


@dataclass(frozen=True)
class Place:
    """Where a file has a network."""

    entry: str
    prefix: str
    """Before every name; empty, or it ends with a dot."""
    numbered: bool = False
    """Whether the parts of a ResNet have numbers for names."""

    @property
    def path(self) -> str:
        """Entry and prefix in one, by which a user names it."""
        return ".".join(part for part in (self.entry, self.prefix.rstrip(".")) if part)

    @property
    def words(self) -> set[str]:
        """Of the path."""
        return set(re.split(r"[._]", self.path.lower()))

    def said(self) -> str:
        """In words and brackets, for who wants to know what was taken off; empty where nothing was."""
        entry = [f"entry {self.entry}"] if self.entry else []
        prefix = [f"{self.prefix} taken off the names"] if self.prefix else []
        return f" ({', '.join(entry + prefix)})" if entry or prefix else ""


@dataclass(frozen=True)
class Taken:
    """The tensors of one network in a file."""

    place: Place
    tensors: dict[str, Tensor]
    """By the encoder's names; with what else stands under the same prefix, but a method's heads."""
    expander: dict[str, Tensor]
    """By the names in the network beside it that methods call projector or expander; empty where there is none."""
    left_out: tuple[str, ...]
    """What else the entries hold."""
    note: str = ""
    """Why this one, where there were several."""


def take(containers: Containers, own: Mapping[str, Tensor], wanted: str = "") -> Taken:
    """The network whose names and shapes are `own`, or the nearest to it.

    `wanted` chooses where there are several: a word of its place (student, teacher, ema) or the whole of it. ValueError
    with the places where it is needed.
    """
    votes = _votes(containers, own)
    whole = [place for place in votes if _fits(containers[place.entry], place, own)]
    note = ""
    if wanted:
        place = _named(wanted, whole or list(votes))
    elif whole:
        place, note = _preferred(whole)
    elif votes:
        place = max(votes, key=lambda place: votes[place])
    else:
        place = Place(max(containers, key=lambda entry: len(containers[entry])), "")
    others = [other for other, count in votes.items() if other != place and 2 * count >= votes.get(place, 0)]
    return _taken(containers, place, others, own, note)


def _votes(containers: Containers, own: Mapping[str, Tensor]) -> Counter[Place]:
    """How many of the encoder's names stand behind each prefix that any name has."""
    needed = {name for name in own if not name.endswith(_COUNTER)}
    numbers = {_numbered(name): name for name in needed} if {"conv1.weight", "bn1.weight"} <= needed else {}
    votes: Counter[Place] = Counter()
    for entry, tensors in containers.items():
        for name in tensors:
            parts = _current(name).split(".")
            for at in range(len(parts)):
                tail, prefix = ".".join(parts[at:]), "".join(f"{part}." for part in parts[:at])
                if tail in needed:
                    votes[Place(entry, prefix)] += 1
                if tail in numbers:
                    votes[Place(entry, prefix, numbered=True)] += 1
    return votes


def _fits(tensors: Mapping[str, Tensor], place: Place, own: Mapping[str, Tensor]) -> bool:
    """Whether all of the encoder is there, in its shapes."""
    inside = _inside(tensors, place)
    return all(
        name in inside and inside[name].shape == tensor.shape
        for name, tensor in own.items()
        if not name.endswith(_COUNTER)
    )


def _named(wanted: str, places: Sequence[Place]) -> Place:
    found = [place for place in places if place.path == wanted] or [place for place in places if wanted in place.words]
    if len(found) == 1:
        return found[0]
    there = ", ".join(place.path or "(no prefix)" for place in found or places)
    raise ValueError(f"{wanted!r} names {len(found) or 'none'} of the networks that are there; allowed: {there}")


def _preferred(places: Sequence[Place]) -> tuple[Place, str]:
    """The one that is meant where nobody says, and why: averaged weights first, a momentum encoder last."""
    if len(places) == 1:
        return places[0], ""
    left = list(places)
    sides = [side for side in SIDES if any(side in place.words for place in places)]
    if len(sides) == len(SIDES):
        raise ValueError(f"it holds a student and a teacher; choose one: {_listed(places)}")
    left = [place for place in left if place.words & AVERAGED] or left
    left = [place for place in left if not place.words & MOMENTUM] or left
    if len(left) > 1:
        raise ValueError(f"it holds {len(left)} networks with these names and shapes; choose one: {_listed(left)}")
    others = [place.path or "those without a prefix" for place in places if place != left[0]]
    kind = "averaged weights" if left[0].words & AVERAGED else "weights"
    return left[0], f"the {kind} of {left[0].path} were taken, not {listed(others)}" if others else ""


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(place.path or "(no prefix)" for place in places)


def _inside(tensors: Mapping[str, Tensor], place: Place) -> dict[str, Tensor]:
    """What stands under a prefix, by the names of today."""
    found = {
        _current(name.removeprefix(place.prefix)): tensor
        for name, tensor in tensors.items()
        if name.startswith(place.prefix)
    }
    return {_lettered(name): tensor for name, tensor in found.items()} if place.numbered else found


def _taken(
    containers: Containers, place: Place, others: Sequence[Place], own: Mapping[str, Tensor], note: str
) -> Taken:
    tensors = containers[place.entry]
    elsewhere = tuple(
        other.prefix
        for other in others
        if other.entry == place.entry
        and len(other.prefix) > len(place.prefix)
        and other.prefix.startswith(place.prefix)
    )
    mine = {name: tensor for name, tensor in tensors.items() if not (elsewhere and name.startswith(elsewhere))}
    inside = _inside(mine, place)
    roots = {name.split(".")[0] for name in own}
    heads = {
        name
        for name in inside
        if name.split(".")[0] not in roots and (name.split(".")[0] in HEADS or name.startswith("decoder_"))
    }
    parent = place.prefix[: place.prefix.rstrip(".").rfind(".") + 1] if place.prefix else ""
    beside = [
        name for name in tensors if not name.startswith(place.prefix) or (elsewhere and name.startswith(elsewhere))
    ]
    left_out = _count_by_place([*(name.removeprefix(parent) for name in beside), *sorted(heads)])
    left_out += [f"entry {entry}" for entry in containers if entry != place.entry]
    return Taken(
        place,
        {name: tensor for name, tensor in inside.items() if name not in heads},
        _expander(tensors, parent),
        tuple(left_out),
        note,
    )


def _expander(tensors: Mapping[str, Tensor], parent: str) -> dict[str, Tensor]:
    for kind in EXPANDERS:
        prefix = f"{parent}{kind}."
        found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if found:
            return found
    return {}


def _count_by_place(names: Sequence[str]) -> list[str]:
    counts = Counter(name.split(".")[0] for name in names)
    return [f"{place} ({count} tensors)" for place, count in counts.items()]


def _numbered(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{_NUMBERS.get(first, first)}.{rest}"


def _lettered(name: str) -> str:
    first, _, rest = name.partition(".")
    letters = {number: letter for letter, number in _NUMBERS.items()}
    return f"{letters.get(first, first)}.{rest}"


def _current(name: str) -> str:
    """torchvision's DenseNet files still have the names of its first version, such as denselayer1.norm.1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
