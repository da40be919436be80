"""What all data sets share: the door, the reading, and preparing once and completely."""

import importlib
import importlib.util
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_dmp.datasets
from keras_dmp.datasets import _reading
from keras_dmp.datasets.digits import Digits


def test_names_are_the_documented_ones():
    assert keras_dmp.datasets.names() == (
        "grocery_baskets",
        "latent_shoppers",
        "fashion_mnist",
        "adult",
        "twenty_newsgroups",
        "digits",
        "purchase100",
        "texas100",
        "location30",
        "cifar10",
        "cifar100",
    )


def test_every_name_has_a_builder():
    for name in keras_dmp.datasets.names():
        module = f"keras_dmp.datasets.{name}"
        if importlib.util.find_spec(module) is None:
            assert tfds.builder_cls(name).name == name
        else:
            assert callable(importlib.import_module(module).prepared_builder)


def test_preparing_leaves_no_temporary_files(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    x, _ = keras_dmp.datasets.load("digits", data_dir=tmp_path / "data")
    assert len(x) == 1_797
    assert list(temporary.iterdir()) == []


def test_importing_the_package_loads_nothing_heavy():
    program = (
        "import sys, keras_dmp.datasets; keras_dmp.datasets.names(); "
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'keras', 'sklearn', 'pandas') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError, match=r"one of 'grocery_baskets', .*'cifar100'\. Received: name="
    ):
        keras_dmp.datasets.load("purchase")


@pytest.mark.parametrize("option", ["as_supervised", "with_groups", "download"])
def test_options_are_booleans(option, tmp_path):
    """A word such as "no" must not give permission to download."""
    with pytest.raises(ValueError, match=rf"`{option}` to be True or False.*{option}='no'"):
        keras_dmp.datasets.load("digits", data_dir=tmp_path, **{option: "no"})


def test_permission_to_download_does_not_matter_where_nothing_is_missing(tmp_path):
    permitted = keras_dmp.datasets.load("digits", download=True, data_dir=tmp_path)
    usual = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    for found, expected in zip(permitted, usual, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_groups_only_where_there_are_groups():
    with pytest.raises(ValueError, match=r"'grocery_baskets'\. Received: name='digits', with_g"):
        keras_dmp.datasets.load("digits", with_groups=True)


def test_groups_do_not_go_with_pairs():
    with pytest.raises(ValueError, match="as_supervised=True, with_groups=True"):
        keras_dmp.datasets.load("grocery_baskets", as_supervised=True, with_groups=True)


def test_pairs_are_the_arrays_in_the_same_order(tmp_path):
    x, y = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    pairs = keras_dmp.datasets.load("digits", as_supervised=True, data_dir=tmp_path)
    assert pairs.element_spec == (tf.TensorSpec((64,), tf.float32), tf.TensorSpec((), tf.int64))
    assert pairs.cardinality() == len(x)
    xs, ys = zip(*pairs.as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(np.stack(xs), x)
    np.testing.assert_array_equal(np.stack(ys), y)


def test_second_load_reads_what_the_first_wrote(tmp_path, monkeypatch):
    x, y = keras_dmp.datasets.load("digits", data_dir=tmp_path)

    def refuse(self):
        raise AssertionError("prepared twice")

    monkeypatch.setattr(Digits, "_records", refuse)
    again_x, again_y = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    np.testing.assert_array_equal(again_x, x)
    np.testing.assert_array_equal(again_y, y)


def test_default_data_dir_is_that_of_tfds(tmp_path, monkeypatch):
    # TFDS reads the environment variable once, when it is imported.
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    keras_dmp.datasets.load("digits")
    assert (tmp_path / "digits" / "1.0.0" / "dataset_info.json").is_file()


def test_preparing_says_nothing_on_standard_output(tmp_path, capfd):
    keras_dmp.datasets.load("digits", data_dir=tmp_path)
    assert capfd.readouterr().out == ""


def test_preparing_that_broke_off_is_done_again_in_full(tmp_path, monkeypatch):
    whole = Digits._generate_examples

    def broken(self):
        for count, example in enumerate(whole(self)):
            if count == 100:
                raise OSError("disk full")
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(Digits, "_generate_examples", broken)
        with pytest.raises(OSError, match="disk full"):
            keras_dmp.datasets.load("digits", data_dir=tmp_path)
    x, _ = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    assert len(x) == 1797


def test_what_a_killed_process_left_behind_is_not_read(tmp_path):
    left = tmp_path / "digits" / "incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    (left / "digits-train.tfrecord-00000-of-00001").write_bytes(b"half a rec")
    x, _ = keras_dmp.datasets.load("digits", data_dir=tmp_path)
    assert len(x) == 1797


def test_folder_without_finished_data_is_refused(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"dataset_info\.json.*Remove the folder"):
        keras_dmp.datasets.load("digits", data_dir=tmp_path)


class TinyImagesForReading(tfds.core.GeneratorBasedBuilder):
    """Stands for the stock image builders: PNG images, two splits, shuffled files."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(5, 4, 3)),
                    "label": tfds.features.ClassLabel(num_classes=7),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples(50, 1), "train": self._generate_examples(200, 0)}

    def _generate_examples(self, count, seed):
        pixels = np.random.default_rng(seed)
        for index in range(count):
            image = pixels.integers(0, 256, (5, 4, 3), np.uint8)
            yield index, {"image": image, "label": index % 7}


def test_images_are_read_as_tfds_reads_them_and_scaled(tmp_path):
    builder = TinyImagesForReading(data_dir=tmp_path)
    builder.download_and_prepare()
    expected = [
        (example["image"] / np.float32(255), example["label"])
        for split in ("train", "test")
        for example in builder.as_dataset(split=split).as_numpy_iterator()
    ]
    expected_x, expected_y = map(np.stack, zip(*expected, strict=True))

    x, y = _reading.arrays(builder)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert x.min() == 0
    assert x.max() == 1
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_array_equal(y, expected_y)

    pairs = list(_reading.supervised_dataset(builder).as_numpy_iterator())
    np.testing.assert_array_equal(np.stack([x for x, _ in pairs]), expected_x)
    np.testing.assert_array_equal(np.stack([y for _, y in pairs]), expected_y)


@pytest.mark.parametrize("data_dir", [3, b"data"])
def test_a_folder_that_is_no_path_is_named(data_dir):
    with pytest.raises(TypeError, match=rf"`data_dir` to be a string.*data_dir={data_dir!r}"):
        keras_dmp.datasets.load("digits", data_dir=data_dir)
