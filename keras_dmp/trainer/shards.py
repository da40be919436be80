"""Disjoint shards of the members, one for each teacher of a consensus."""

from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_dmp._training.labeled_data import GROUPED, LabeledData, require_fixed_order
from keras_dmp._training.resident import new_seed
from keras_dmp._warnings import warn
from keras_dmp.trainer.consensus import Consensus
from keras_dmp.trainer.run import Run

# Classes that a warning names.
_NAMED = 10


def drawn_shards(run: Run, consensus: Consensus, members: LabeledData) -> list[np.ndarray]:
    """Positions of the members of each shard.

    Args:
        run: Models, data and settings.
        consensus: Settings of the consensus.
        members: The members, with a hash of each record in their order.

    Raises:
        ValueError: If there are fewer members, or groups of members, than shards.
    """
    groups, seed = run.arguments.groups, run.settings.seed
    if groups is not None:
        plan = run.plan
        records = plan.members.x, plan.members.digests
        require_fixed_order(*records, "x", plan.student, why=GROUPED)
    return draw_shards(
        members.digests,
        None if groups is None else np.asarray(groups["members"]),
        consensus.num_shards,
        new_seed() if seed is None else seed,
    )


def draw_shards(digests: np.ndarray, groups: Any, num_shards: int, seed: int) -> list[np.ndarray]:
    """Draw disjoint shards of nearly equal size; what belongs together stays together.

    Equal records and all records of one group (person) go to one shard, so that neither a record
    nor a person has more than one vote.

    Groups are dealt, or records by position without groups, whatever is equal among them. A bundle
    of equal records or connected groups then follows its first. So a record that is replaced moves
    no others, except those that equal the old or the new record, with the groups of these. This
    does not hold where that would leave a shard empty, since most records are equal: bundles are
    then dealt, and one that changes moves others.

    Args:
        digests: Hash of each record as the model sees it, (samples,).
        groups: Group of each record, (samples,), or None.
        num_shards: Number of shards.
        seed: Seed of the draw.

    Returns:
        Positions of each shard's records, ascending int64.

    Raises:
        ValueError: If there are fewer bundles of records than shards.
    """
    bundles = bundles_of(digests, groups)
    count = int(bundles.max(initial=-1)) + 1
    if count < num_shards:
        kind = "different records" if groups is None else "groups without a record in common"
        raise ValueError(
            f"Expected at most as many shards as there are {kind} among the members. Received: "
            f"num_shards={num_shards} with {count} {kind}"
        )
    units = np.arange(len(bundles)) if groups is None else _numbered(groups)
    dealt = partition(units, num_shards, seed)
    _, first = np.unique(bundles, return_index=True)
    shard_of = dealt[first][bundles]
    if len(np.unique(shard_of)) < num_shards:
        shard_of = partition(bundles, num_shards, seed)
    return [np.flatnonzero(shard_of == shard) for shard in range(num_shards)]


def partition(bundles: np.ndarray, num_parts: int, seed: int) -> np.ndarray:
    """Part of each record, (samples,) int64, at random; the parts differ in size by little.

    Args:
        bundles: Number of the bundle of each record, from 0; a bundle is in one part.
        num_parts: Number of parts.
        seed: Seed of the draw.
    """
    sizes = np.bincount(bundles)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sizes))
    # The largest first, each into the smallest part: sizes then differ by little.
    order = order[np.argsort(-sizes[order], kind="stable")]
    part_of, filled = np.empty(len(sizes), np.int64), np.zeros(num_parts, np.int64)
    for bundle in order:
        part = int(filled.argmin())
        part_of[bundle] = part
        filled[part] += sizes[bundle]
    return part_of[bundles]


def warn_of_missing_classes(
    shards: list[np.ndarray], labels: np.ndarray, weights: np.ndarray | None = None
) -> None:
    """Warn of classes that some shards lack: their teachers cannot vote for them.

    Args:
        shards: Positions of each shard's records.
        labels: Class of each record.
        weights: Weight of each record, or None. Those of weight 0 teach nothing.
    """
    if weights is not None:
        shards = [rows[weights[rows] > 0] for rows in shards]
    present = np.unique(labels[np.concatenate(shards)])
    lacking = missing_classes(shards, labels, present, "shard")
    if lacking:
        warn(
            "Some shards of the members lack a class, so that their teachers cannot vote for it: "
            f"{lacking}. Use fewer shards"
        )


def missing_classes(
    parts: list[np.ndarray], labels: np.ndarray, present: np.ndarray, name: str
) -> str:
    """Which parts lack which classes, in words; empty if none does.

    Args:
        parts: Positions of each part's records.
        labels: Class of each record.
        present: The classes that all parts should have, ascending.
        name: What a part is called.
    """
    lacking = []
    for number, rows in enumerate(parts, start=1):
        missing = np.setdiff1d(present, labels[rows])
        if len(missing):
            named = ", ".join(str(label) for label in missing[:_NAMED])
            more = len(missing) - _NAMED
            lacking.append(f"{name} {number} lacks {named}" + f" and {more} more" * (more > 0))
    return "; ".join(lacking)


def bundles_of(digests: np.ndarray, groups: Any = None) -> np.ndarray:
    """Number of the bundle of each record, from 0.

    A bundle is of records that are equal or of one group, transitively. There can be at most as
    many shards as bundles.
    """
    records = _numbered(digests)
    if groups is None:
        return records
    persons = _numbered(groups)
    # Records and persons are the two sides of a graph; a bundle is a connected part of it.
    count = int(records.max()) + 1
    size = count + int(persons.max()) + 1
    links = coo_array((np.ones(len(records), np.int8), (records, count + persons)), (size, size))
    _, parts = connected_components(links, directed=False)
    return _numbered(parts[records])


def _numbered(values: Any) -> np.ndarray:
    """Numbers of values in the order in which they appear, (samples,).

    In sorted order, one replaced record would renumber, and so move, many others.
    """
    _, first, found = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[found]
