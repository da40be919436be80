"""What one training tells about shadow models' findings, on the grocery baskets.

    python benchmarks/free_estimates.py                                # 64 models: hours; resumes
    python benchmarks/free_estimates.py --records 4000 --models 16     # minutes

Shadow models are trained on random halves of the records, and targets on further halves, with
`LossTraces`. LiRA (with a prior on the variance) with all shadow models attacks each target. Prints
for each, at false-positive rates of 1 and 0.1 %: the TPR of LiRA, of the loss attack, and the tail
estimate of it; and of the 1 % of the members with the largest inter-quartile range of their loss
over the epochs, how many are among those that LiRA recognises, beside the 1 % with the highest loss
at the end. Members chosen at random would be recognised as often as all: the TPR of LiRA.
"""

import argparse
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Measured

from keras_dmp import LossTraces, datasets, models
from keras_dmp.audit import MembershipScores, ShadowAudit, loss_scores, scaled_logits

FPRS = (0.01, 0.001)
SHARE, BATCH_SIZE, CLASSES, FEATURES = 0.01, 128, 100, 600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Measured):
    """One target at one false-positive rate."""

    target: int
    epochs: int
    shadow_models: int
    members: int
    fpr: float
    lira: float
    loss: float
    tail: float
    precision_of_ranges: float
    precision_of_losses: float


def trained(x, y, seed, epochs, callbacks=()):
    """The paper's fully connected net, trained on these records."""
    keras.utils.set_random_seed(seed)
    model = models.fully_connected((FEATURES,), CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, callbacks=list(callbacks), verbose=0)
    return model


def shadow_statistics(x, y, options):
    """Outputs of the shadow models, which are trained where they are missing."""
    audit = ShadowAudit(
        lambda x, y, seed: trained(x, y, seed, options.epochs),
        x,
        y,
        num_shadow_models=options.models,
        directory=options.directory,
        config={"epochs": options.epochs},
    )
    return audit.run().statistics()


def measure(options):
    """Yield the rows of each target."""
    x, y = datasets.load("grocery_baskets")
    rng = np.random.default_rng(options.seed)
    chosen = rng.permutation(len(x))[: options.records]
    x, y = x[chosen], y[chosen]
    statistics = shadow_statistics(x, y, options)
    for target in range(options.targets):
        start = time.perf_counter()
        is_member = rng.permutation(len(x)) < len(x) // 2
        traces = LossTraces((x[is_member], y[is_member]))
        seed = options.seed + 1_000_000 + target
        model = trained(x[is_member], y[is_member], seed, options.epochs, [traces])
        outputs = model.predict(x, verbose=0)
        observed = scaled_logits(outputs, y, from_logits=True)
        lira = statistics.scores_of(observed[:, None], "lira_prior")
        known = np.isfinite(lira)
        attack = MembershipScores(lira[known & is_member], lira[known & ~is_member])
        losses = loss_scores(outputs, y, from_logits=True)
        simple = MembershipScores(losses[is_member], losses[~is_member])
        ranges, mine = traces.interquantile_range(), known[is_member]
        for fpr in FPRS:
            if attack.tpr_at_fpr(fpr) is None:
                continue
            threshold = np.quantile(attack.nonmember_scores, 1 - fpr)
            recognised = lira[is_member][mine] > threshold
            top = max(1, round(SHARE * mine.sum()))
            by_range = np.argsort(-ranges[mine])[:top]
            by_loss = np.argsort(losses[is_member][mine])[:top]
            yield Row(
                target=target,
                epochs=options.epochs,
                shadow_models=options.models,
                members=int(mine.sum()),
                fpr=fpr,
                lira=attack.tpr_at_fpr(fpr),
                loss=simple.tpr_at_fpr(fpr),
                tail=simple.tnr_at_fnr(fpr),
                precision_of_ranges=float(recognised[by_range].mean()),
                precision_of_losses=float(recognised[by_loss].mean()),
                seconds=time.perf_counter() - start,
                seed=options.seed,
            )


def main(arguments=None):
    """Train what is missing and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--targets", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=pathlib.Path, default=pathlib.Path("runs/free"))
    parser.add_argument("--output", type=pathlib.Path, help="append rows as JSON lines")
    options = parser.parse_args(arguments)

    print("| target | FPR | LiRA | loss | tail estimate | top 1 % by range | top 1 % by loss |")
    print("|---|---|---|---|---|---|---|")
    for row in measure(options):
        rates = (row.lira, row.loss, row.tail, row.precision_of_ranges, row.precision_of_losses)
        cells = (
            str(row.target),
            f"{100 * row.fpr:g} %",
            *(f"{100 * rate:.1f} %" for rate in rates),
        )
        print(f"| {' | '.join(cells)} |", flush=True)
        if options.output:
            with options.output.open("a") as lines:
                lines.write(row.to_json() + "\n")


if __name__ == "__main__":
    main()
