"""What a shadow audit draws for each of its models: the half of the records, and a seed."""

import numpy as np


def drawn_half(seed: int, model: int, records: int, persons: np.ndarray | None) -> np.ndarray:
    """Which records are members of one model, (records,), bool: those of a random half of persons.

    Args:
        seed: Seed of the audit.
        model: Number of the model.
        records: Number of records.
        persons: Number of each record's person, from 0, or None: every record is a person.
    """
    rng = np.random.default_rng((seed, model))
    count = records if persons is None else int(persons.max()) + 1
    half = np.zeros(count, dtype=bool)
    half[rng.permutation(count)[: count // 2]] = True
    return half if persons is None else half[persons]


def job_seed(seed: int, job: int) -> int:
    """Seed of one job, below 2**31, independent of the other jobs' seeds."""
    return int(np.random.SeedSequence((seed, job)).generate_state(1)[0] >> 1)
