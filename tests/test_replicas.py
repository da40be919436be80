"""Two replicas on one machine train as one device does at the same global batch."""

import keras
import nets
import numpy as np
import pytest
from nets import distil

from keras_dmp import SoftTargetKLDivergence

BATCH = 16


def run(replicas, make_optimizer, x, *, teacher, labels="soft", sample_weight=None, **fit):
    """Losses of the steps, history and weights of a student with a regularizer."""
    strategy = nets.mirrored(replicas)
    assert strategy.num_replicas_in_sync == replicas
    steps = nets.Steps()
    with strategy.scope():
        student = nets.classifier(seed=12, kernel_regularizer=keras.regularizers.L2(0.01))
        _, history = distil(
            student,
            x,
            teacher=teacher,
            settings={"labels": labels},
            compile={"optimizer": make_optimizer(), "metrics": ["accuracy"]},
            batch_size=BATCH,
            sample_weight=sample_weight,
            callbacks=[steps],
            **fit,
        )
    return steps.losses, history, nets.snapshot(student)


def assert_replicas_agree(*arguments, steps=True, **options):
    (losses, history, weights), (losses_2, history_2, weights_2) = (
        run(replicas, *arguments, **options) for replicas in (1, 2)
    )
    if steps:
        np.testing.assert_allclose(losses_2, losses, atol=1e-4)
    for name, values in history.items():
        np.testing.assert_allclose(history_2[name], values, atol=1e-4, err_msg=name)
    for one, two in zip(weights, weights_2, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)


def sgd():
    return keras.optimizers.SGD(0.5, momentum=0.9)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_sgd(reference, labelled, teacher, labels):
    assert_replicas_agree(
        sgd, reference, teacher=teacher, labels=labels, epochs=3, validation_data=labelled
    )


def test_sample_weights_and_shuffled_epochs(reference, teacher):
    weights = np.random.default_rng(0).random(len(reference)).astype("float32")
    options = {"sample_weight": weights, "shuffle": True, "epochs": 3}
    results = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(3)
        results.append(run(replicas, sgd, reference, teacher=teacher, **options))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-4)


@pytest.mark.parametrize("samples", [69, 65], ids=["a batch of 5", "a batch of 1"])
def test_last_batches_that_do_not_divide(reference, labelled, teacher, samples):
    x, y = labelled
    # What Keras shows after a step is the mean of the replicas' running means, which leaves out
    # that one has seen more; at the end of an epoch it is right.
    assert_replicas_agree(
        sgd,
        reference[:samples],
        teacher=teacher,
        steps=False,
        epochs=3,
        validation_data=(x[:33], y[:33]),
    )


def test_adam_agrees_in_its_first_twenty_steps(teacher):
    x, _ = nets.prototypes(20 * BATCH, seed=4)
    results = [
        run(replicas, lambda: keras.optimizers.Adam(1e-2), x, teacher=teacher, epochs=1)
        for replicas in (1, 2)
    ]
    assert len(results[0][0]) == 20
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-4)


def test_the_loss_divides_by_the_replicas(reference, teacher, student):
    outputs = np.array(teacher(reference)), np.array(student(reference))
    loss = SoftTargetKLDivergence()
    alone = float(loss(*outputs))
    strategy = nets.mirrored()
    each = strategy.run(lambda: loss(*outputs))
    assert [float(value) for value in strategy.experimental_local_results(each)] == pytest.approx(
        [alone / 2] * 2
    )
