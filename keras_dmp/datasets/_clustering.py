"""Class labels from k-means clustering, the method behind the classes of Purchase100."""

import numpy as np
import scipy.sparse
from sklearn.cluster import KMeans, kmeans_plusplus

_ITERATIONS = 30
# Run on all of 50,000 records, k-means++ takes twice as long as the 30 iterations.
_START_RECORDS = 10_000


def cluster_labels(
    records: np.ndarray | scipy.sparse.csr_matrix, num_classes: int, *, seed: int
) -> np.ndarray:
    """Cluster of every record: k-means++ on a sample, then at most 30 iterations on all records.

    Args:
        records: Dense or CSR matrix, float32, of shape `(records, features)`.
        num_classes: Integer, the number of clusters.
        seed: Integer, the seed of the sample and the initial centres. Sums in float32 differ
            between BLAS builds, so two machines may still disagree on a few records.

    Returns:
        int64 array of shape `(records,)`.

    Raises:
        ValueError: If there are fewer records than classes.
    """
    if records.shape[0] < num_classes:
        raise ValueError(
            f"Expected `num_classes` to be at most the number of records, {records.shape[0]}. "
            f"Received: num_classes={num_classes}"
        )
    generator = np.random.default_rng(seed)
    sample_size = min(_START_RECORDS, records.shape[0])
    sample = np.sort(generator.choice(records.shape[0], sample_size, replace=False))
    centers, _ = kmeans_plusplus(records[sample], num_classes, random_state=seed)
    k_means = KMeans(num_classes, init=centers, n_init=1, max_iter=_ITERATIONS, random_state=seed)
    return k_means.fit_predict(records).astype(np.int64)
