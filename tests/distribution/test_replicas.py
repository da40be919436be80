"""Two replicas on one machine train as one device does at the same global batch."""

import keras
import nets
import numpy as np
import pytest
import tensorflow as tf
import worker_tasks
from nets import distil

from keras_dmp import DistillationTrainer, SoftTargetKLDivergence
from keras_dmp._classifier.forward import predict
from keras_dmp.audit import audit_membership
from keras_dmp.distribution.replicas import WholeBatchLoss, shared_out, whole_batch

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


@pytest.mark.parametrize("labels", ["soft", pytest.param("hard", marks=pytest.mark.slow)])
def test_sgd(reference, labeled, teacher, labels):
    assert_replicas_agree(
        sgd, reference, teacher=teacher, labels=labels, epochs=3, validation_data=labeled
    )


def test_sample_weights_and_shuffled_epochs(reference, teacher):
    weights = np.random.default_rng(0).random(len(reference)).astype("float32")
    options = {"sample_weight": weights, "shuffle": True, "epochs": 3}
    results = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(3)
        results.append(run(replicas, sgd, reference, teacher=teacher, **options))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-4)


@pytest.mark.parametrize(
    "samples",
    [pytest.param(69, marks=pytest.mark.slow), pytest.param(65, marks=pytest.mark.full)],
    ids=["a batch of 5", "a batch of 1"],
)
def test_last_batches_that_do_not_divide(reference, labeled, teacher, samples):
    x, y = labeled
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


@pytest.fixture(scope="module")
def alone():
    return worker_tasks.dmp_figures(tf.distribute.get_strategy())


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [nets.mirrored, lambda: tf.distribute.OneDeviceStrategy("CPU:1")],
    ids=["two replicas", "one device"],
)
def test_all_of_dmp(alone, strategy):
    found = worker_tasks.dmp_figures(strategy())
    assert found["indices"] == alone["indices"]
    assert sorted(found) == sorted(alone)
    for name, values in alone.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("samples", [1, 2, 3, 50])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_forward_passes_are_shared_out_in_order(samples, batch_size):
    x = np.random.default_rng(0).normal(size=(samples, nets.FEATURES)).astype("float32")
    model = nets.classifier(seed=3)
    with nets.mirrored().scope():
        shared = nets.classifier(seed=3)
    np.testing.assert_allclose(
        predict(shared, x, batch_size=batch_size), np.asarray(model(x)), atol=1e-6
    )


def test_each_replica_computes_its_part():
    def forward(x):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return x + tf.cast(replica, tf.float32)

    whole = tf.function(shared_out(forward, nets.mirrored()))
    np.testing.assert_array_equal(whole(tf.zeros([7, 1]))[:, 0], [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(whole(tf.zeros([1, 1]))[:, 0], [0])


def test_audits_use_the_models_replicas(labeled):
    x, y = labeled
    reports = []
    for replicas in (1, 2):
        with nets.mirrored(replicas).scope():
            model = nets.classifier(seed=3)
        sides = (x[:23], y[:23]), (x[23:], y[23:])
        reports.append(
            audit_membership(model, *sides, attacks=("loss",), slices=(), seed=0, from_logits=True)
        )
    one, two = reports
    assert two["loss"].auc == pytest.approx(one["loss"].auc, abs=1e-6)
    assert two.member_loss == pytest.approx(one.member_loss, abs=1e-6)


def test_the_students_strategy_is_the_trainers(reference, teacher):
    strategy = nets.mirrored()
    with strategy.scope():
        student = nets.classifier(seed=12)
    for given in (None, strategy):
        trainer = DistillationTrainer(student, teacher, distribution_strategy=given)
        assert trainer.distribute_strategy is strategy
        trainer.compile("sgd", metrics=["accuracy"])
        trainer.fit(reference, epochs=1, batch_size=BATCH, verbose=0)


def test_what_is_outside_of_the_scope_is_refused(student):
    strategy = nets.mirrored()
    with pytest.raises(ValueError, match="Expected the student to be built in the scope of"):
        DistillationTrainer(student, distribution_strategy=strategy)
    with pytest.raises(
        TypeError, match=r"a tf.distribute.Strategy.* distribution_strategy of type str"
    ):
        DistillationTrainer(student, distribution_strategy="mirrored")
    with strategy.scope():
        inside = nets.classifier(seed=12)
    trainer = DistillationTrainer(inside)
    with pytest.raises(ValueError, match=r"Expected `optimizer` to be created in the scope.*SGD"):
        trainer.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match=r"Expected `metrics` to be created.*CategoricalAccuracy"):
        trainer.compile("sgd", metrics=[keras.metrics.CategoricalAccuracy()])


@pytest.mark.parametrize(
    ("loss", "wrapped"),
    [
        (keras.losses.CategoricalCrossentropy(), True),
        ("sparse_categorical_crossentropy", True),
        ("SparseCategoricalCrossentropy", True),
        (keras.losses.MeanSquaredError("sum"), False),
        ("mse", False),
        (keras.losses.mean_squared_error, False),
    ],
)
def test_losses_of_the_whole_batch(loss, wrapped):
    assert whole_batch(loss) is loss
    with nets.mirrored().scope():
        made = whole_batch(loss)
    assert isinstance(made, WholeBatchLoss) is wrapped
    if wrapped and not isinstance(loss, str):
        assert made.loss is loss
    if not wrapped:
        assert made is loss
