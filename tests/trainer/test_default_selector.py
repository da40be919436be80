"""The default of `DMPTrainer`: the half of the reference with the lowest entropy."""

import json

import keras
import nets
import numpy as np
import pytest
import resumable
import tensorflow as tf

from keras_dmp import DMPTrainer, EntropyReferenceSelector, split_private

pytestmark = pytest.mark.filterwarnings("ignore:No chosen reference sample")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    return keras.Sequential([keras.Input((nets.FEATURES,)), keras.layers.Dense(nets.CLASSES)])


@pytest.fixture(scope="module")
def split():
    x, y = nets.prototypes(200)
    return split_private(x, y, members=40, nonmembers=40, seed=0)


def trained(split, reference, callbacks=None, **settings):
    trainer = DMPTrainer(build, seed=1, **settings)
    trainer.compile(keras.optimizers.SGD(0.1), LOSS, run_eagerly=True)
    trainer.fit(*split.members, reference=reference, callbacks=callbacks, batch_size=40, verbose=0)
    return trainer


def test_it_is_the_half_with_the_lowest_entropy(split):
    trainer = trained(split, split.reference)
    p = nets.softmax(trainer.teacher.predict(split.reference, verbose=0).astype(np.float64))
    entropy = -(p * np.log(p)).sum(axis=1)
    half = np.sort(np.argsort(entropy, kind="stable")[: len(entropy) // 2])
    np.testing.assert_array_equal(trainer.selector.indices_, half)
    same = trained(split, split.reference, selector=EntropyReferenceSelector(fraction=0.5))
    nets.assert_same_weights(trainer.student, nets.snapshot(same.student))


def test_of_a_dataset_it_is_the_same(split):
    trainer = trained(split, split.reference)
    dataset = tf.data.Dataset.from_tensor_slices(split.reference).batch(40)
    streamed = trained(split, dataset)
    np.testing.assert_array_equal(streamed.selector.indices_, trainer.selector.indices_)
    nets.assert_same_weights(streamed.student, nets.snapshot(trainer.student), atol=1e-6)


@pytest.mark.parametrize(("pool", "chosen"), [(2, 2), (3, 2), (4, 2), (5, 2), (7, 4)])
def test_of_a_tiny_pool_it_is_two_samples_at_least(split, pool, chosen):
    trainer = trained(split, split.reference[:pool])
    assert trainer.selector.summary.size == chosen
    assert trainer.selector.summary.pool_size == pool


def test_a_selector_among_the_callbacks_takes_its_place(split):
    own = EntropyReferenceSelector(size=30)
    trainer = trained(split, split.reference, [own])
    assert own.summary.size == 30
    assert trainer.selector.summary is None


def test_the_warning_names_the_remedy(split):
    # Two samples cannot show four classes.
    with pytest.warns(UserWarning, match="No chosen reference sample is predicted as class") as w:
        trained(split, split.reference[:3])
    assert "selector=EntropyReferenceSelector(..., balance_classes=True)" in str(w[0].message)
    assert w[0].filename == __file__


@pytest.mark.full
def test_a_run_resumes(tmp_path):
    def run(name, **changes):
        trainer = resumable.trainer_in(tmp_path / name, selector="lowest_half")
        return resumable.fit(trainer, **changes)

    stopping = resumable.BreakOff(0)
    with pytest.raises(KeyboardInterrupt):
        run("run", callbacks=[*resumable.arguments()["callbacks"], stopping])
    resumed = run("run", callbacks=[*resumable.arguments()["callbacks"], stopping])
    assert json.loads(resumed)[-1][0]
    assert resumed == run("whole")


def test_a_run_with_another_selector_among_the_callbacks_is_refused(split, tmp_path):
    settings = {"directory": tmp_path / "run"}
    trained(split, split.reference, [EntropyReferenceSelector(size=30)], **settings)
    with pytest.raises(ValueError, match=r"selector\.size is 30 there and 31 here"):
        trained(split, split.reference, [EntropyReferenceSelector(size=31)], **settings)
