"""Attack a protected classifier as the strongest attacker would: with shadow models and canaries.

    python examples/shadow_audit.py            # latent shoppers, minutes on two cores; resumes
    python examples/shadow_audit.py --smoke    # a few seconds, on digits

The whole pipeline (teacher, selection, student) runs many times on random halves of the records,
among them canaries of several kinds. Teacher and student are trained alike. Writes `audit.json`
and `report.html`.
"""

# %% Imports, without TensorFlow's log messages about the machine
import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_dmp
from keras_dmp import DMPTrainer, EntropyReferenceSelector, datasets, models
from keras_dmp.audit import ShadowAudit, compare_audits, plant_canaries

SEED = 0
ATTACKS = ("loss", "lira", "lira_fixed", "lira_prior", "rmia")
KINDS = ("mislabelled", "mislabelled_duplicates", "outliers")


# %% The pipeline as one function, which contains everything that uses members
def pipeline(reference, num_classes, epochs, batch_size):
    """Return `train(x, y, seed)`, which returns the undefended and the protected model."""

    def train(x, y, seed):
        trainer = DMPTrainer(
            lambda: models.fully_connected(x.shape[1:], num_classes, hidden=(256, 128)),
            selector=EntropyReferenceSelector(fraction=0.5, balance_classes=True),
            seed=seed,
        )
        trainer.compile(
            optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        fit = {"epochs": epochs, "batch_size": batch_size, "verbose": 0}
        trainer.fit(x, y, reference=reference, **fit)
        return {"undefended": trainer.teacher, "dmp": trainer.student}

    return train


# %% All of it
def main(arguments=None):
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few models on few records")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/shadow_audit"))
    options = parser.parse_args(arguments)
    dataset, records, num_models = "latent_shoppers", 10_000, 32
    canaries, epochs, batch_size = 250, 20, 128
    if options.smoke:
        dataset, records, num_models = "digits", 600, 8
        canaries, epochs, batch_size = 30, 30, 64

    x, y = datasets.load(dataset)
    # The rest is the reference; two nonmembers are the fewest, and shadow models need none.
    split = keras_dmp.split_private(x, y, members=records, nonmembers=2, seed=SEED)
    planted = plant_canaries(*split.members, count=canaries, kind=KINDS, seed=SEED)
    print(planted)

    audit = ShadowAudit(
        pipeline(split.reference, int(y.max()) + 1, epochs, batch_size),
        planted.x,
        planted.y,
        num_shadow_models=num_models,
        repeats=planted.repeats,
        directory=options.output / "shadows",
        seed=SEED,
        config={"epochs": epochs, "batch_size": batch_size},
    )
    print(f"{audit.num_unfinished} of {num_models} shadow models to train")
    audit.run()

    # %% Results of the attacks: the worst-off first, then all other records
    reports = {
        name: audit.report(ATTACKS, model=name, canaries=planted.by_kind)
        for name in ("undefended", "dmp")
    }
    comparison = compare_audits(reports)
    print(comparison)
    for name, report in reports.items():
        for part in report.slices:
            found = report.slice(part)["lira_fixed"]
            tprs = ", ".join(
                f"{'too few' if tpr is None else f'{tpr:.3f}'} at an FPR of {fpr:g}"
                for fpr, tpr in found.tpr_at_fpr.items()
            )
            print(f"{name}, {part}: LiRA's AUC {found.auc:.3f}, TPR {tprs}")
    comparison.save(options.output / "audit.json")
    comparison.save_html(options.output / "report.html")
    print(f"Wrote audit.json and report.html to {options.output}")

    undefended, protected = reports["undefended"], reports["dmp"]
    assert undefended["lira_fixed"].auc > undefended["loss"].auc
    print("LiRA sees more of the undefended model than the loss attack")
    assert protected["lira_fixed"].auc < undefended["lira_fixed"].auc
    print("and less of the protected one")


if __name__ == "__main__":
    main()
