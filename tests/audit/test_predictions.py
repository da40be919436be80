import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from keras_dmp.audit import _predictions

LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0], [0.0, 0.0, 1.5], [5.0, 1.0, 1.0]])


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def save(tmp_path):
    """Write entries to an npz and return its path."""

    def write(**entries):
        path = tmp_path / "predictions.npz"
        np.savez(path, **entries)
        return path

    return write


def outputs(member_outputs, nonmember_outputs=None, labels=(0, 1, 2, 0)):
    """Entries of outputs, in reverse for the nonmembers unless two are given."""
    other = member_outputs[::-1] if nonmember_outputs is None else nonmember_outputs
    return {
        "member_outputs": member_outputs,
        "member_labels": np.asarray(labels),
        "nonmember_outputs": other,
        "nonmember_labels": np.asarray(labels),
    }


def scores(member_scores=(1.0, 2.0), nonmember_scores=(0.0, 1.0, 3.0)):
    return {
        "member_scores": np.asarray(member_scores),
        "nonmember_scores": np.asarray(nonmember_scores),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_reads_scores(save, dtype, shape):
    members = np.array([1, 0, 1]).astype(dtype).reshape(shape)
    read = _predictions.read(save(member_scores=members, nonmember_scores=members[:2], other=7))
    assert [side.tolist() for side in read.scores] == [[1.0, 0.0, 1.0], [1.0, 0.0]]
    assert {side.dtype for side in read.scores} == {np.dtype("float64")}
    assert (read.outputs, read.labels, read.from_logits, read.num_classes) == (None,) * 4


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_tells_logits_from_probabilities(save, dtype):
    logits = LOGITS.astype(dtype)
    probabilities = softmax(LOGITS).astype(dtype)
    by_logits = _predictions.read(save(**outputs(logits)))
    assert by_logits.from_logits is True
    assert by_logits.num_classes == 3
    np.testing.assert_array_equal(by_logits.outputs[1], logits[::-1])
    assert _predictions.read(save(**outputs(probabilities))).from_logits is False
    # Log-probabilities are logits.
    assert _predictions.read(save(**outputs(np.log(softmax(LOGITS))))).from_logits is True
    for declared, values in ((True, logits), (False, probabilities)):
        read = _predictions.read(save(**outputs(values)), from_logits=declared)
        assert read.from_logits is declared


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_sigmoid_unit_has_to_be_declared(save, shape):
    unit = np.array([0.1, 0.9, 0.8, 0.5]).reshape(shape)
    path = save(**outputs(unit, labels=[0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"--from-logits or --probabilities.*one unit"):
        _predictions.read(path)
    for declared in (True, False):
        read = _predictions.read(path, from_logits=declared)
        assert (read.from_logits, read.num_classes) == (declared, 2)
        assert read.outputs[0].shape == (4, 1)
    assert _predictions.read(save(**outputs(3 * unit - 1, labels=[0, 1, 1, 0]))).from_logits is True


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2, 0], "uint8"),
        np.array([[0], [1], [2], [0]]),
        np.eye(3, dtype="float32")[[0, 1, 2, 0]],
        np.eye(3, dtype=bool)[[0, 1, 2, 0]],
    ],
)
def test_labels_of_every_form(save, labels):
    read = _predictions.read(save(**outputs(LOGITS, labels=labels)))
    for side in read.labels:
        assert side.dtype == np.int64
        assert side.tolist() == [0, 1, 2, 0]


def test_reads_scores_beside_outputs(save):
    both = outputs(LOGITS) | scores([1, 2, 3, 4], [4, 3, 2, 1])
    read = _predictions.read(save(**both))
    assert read.scores[1].tolist() == [4, 3, 2, 1]
    assert read.from_logits is True


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "entries member_scores and nonmember_scores, or .*Received: an empty file"),
        ({"member_score": np.ones(2)}, "Received: a file with 'member_score'"),
        ({f"k{i}": np.ones(1) for i in range(40)}, "'k11', and 28 more"),
        ({"member_scores": np.ones(2)}, "have nonmember_scores as well as member_scores"),
        (
            {"member_outputs": LOGITS, "nonmember_outputs": LOGITS},
            "have member_labels, nonmember_labels as well as member_outputs, nonmember_outputs",
        ),
        (scores() | {"member_outputs": LOGITS}, "as well as member_outputs"),
        (scores([1, np.nan]), "`member_scores` to be finite.*for 1 of 2 samples"),
        (scores([1], [np.inf]), "`nonmember_scores` to be finite"),
        (scores([]), "`member_scores` to have at least one sample"),
        (scores([1], []), "`nonmember_scores` to have at least one sample"),
        (scores(np.ones((2, 2))), r"shape \(n,\). Received: shape \(2, 2\)"),
        (scores(np.float64(3)), r"Received: shape \(\)"),
        (scores(np.array(["a", "b"])), "real numbers. Received: dtype <U1"),
        (scores(np.array([1j])), "real numbers. Received: dtype complex128"),
        (scores(np.array([1], "datetime64[s]")), "real numbers. Received: dtype datetime64"),
        (scores(np.zeros(2, [("a", "f4")])), "real numbers"),
        (outputs(LOGITS, LOGITS[:, :2]), "number of columns. Received: 3 and 2"),
        (outputs(LOGITS[None]), r"Received: shape \(1, 4, 3\)"),
        (outputs(LOGITS[:, :0]), r"Received: shape \(4, 0\)"),
        (outputs(np.where(LOGITS > 4.5, np.nan, LOGITS)), "NaN or infinite values for 1 of 4"),
        (outputs(LOGITS, labels=[0.0, 1.0, 2.0, 0.0]), "integers. Received: dtype float64; cast"),
        (outputs(LOGITS, labels=[0, 1, 2, 3]), r"in 0\.\.2.*Received: 1 of 4 labels .* position 3"),
        (
            outputs(LOGITS, labels=[0, 1, 2, -1]),
            "Received: 1 of 4 labels elsewhere, the first at position 3",
        ),
        (outputs(LOGITS, labels=[0, 1, 2]), "outputs of 4 and 4, labels of 3 and 3"),
        (outputs(LOGITS, labels=np.ones((4, 3), int)), "not one-hot"),
        (
            outputs(LOGITS, labels=np.ones((4, 2), int)),
            r"one-hot \(n, 3\). Received: shape \(4, 2\)",
        ),
        (outputs(LOGITS, LOGITS[:0], labels=[]), "`nonmember_outputs` to have at least one sample"),
        (outputs(LOGITS) | scores(), "scores of 2 and 3, outputs of 4 and 4"),
        (outputs(0.9 * softmax(LOGITS)), "--from-logits or --probabilities.*do not sum to 1"),
        (outputs(LOGITS, softmax(LOGITS)), "Received: logits of the members, prob"),
    ],
)
def test_refuses_what_is_no_prediction(save, entries, message):
    with pytest.raises(ValueError, match=message):
        _predictions.read(save(**entries))


@pytest.mark.parametrize(
    ("values", "declared", "message"),
    [
        (
            LOGITS,
            False,
            r"with --probabilities. Received: outputs outside 0\.\.1 in \d of 8 rows",
        ),
        (softmax(LOGITS), True, "logits with --from-logits. Received: rows in 0..1 that sum to 1"),
        (0.9 * softmax(LOGITS), False, r"Received: a row whose sum .* 0\.1"),
        (softmax(LOGITS) - 0.01, False, "Received: outputs outside 0.* of 8 rows"),
    ],
)
def test_refuses_a_contradiction(save, values, declared, message):
    with pytest.raises(ValueError, match=message):
        _predictions.read(save(**outputs(values)), from_logits=declared)


def test_half_a_side_of_bad_probabilities_is_undecided(save):
    entries = outputs(softmax(LOGITS), 0.9 * softmax(LOGITS))
    with pytest.raises(ValueError, match="do not sum to 1"):
        _predictions.read(save(**entries))
    assert _predictions.read(save(**entries), from_logits=True).from_logits is True


def test_refuses_a_kind_of_outputs_that_are_not_there(save):
    with pytest.raises(ValueError, match="Expected outputs with --probabilities"):
        _predictions.read(save(**scores()), from_logits=False)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_unpickled(tmp_path, save):
    sprung = tmp_path / "sprung"
    objects = np.array([Trap(sprung), 1.0], dtype=object)
    path = save(member_scores=objects, nonmember_scores=np.ones(2))
    with pytest.raises(ValueError, match=r"entry 'member_scores' cannot be read .*never unpickled"):
        _predictions.read(path)

    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match="not a zip archive"):
        _predictions.read(path)

    # A pickle that `zipfile` takes for an archive.
    archive = save(**scores()).read_bytes()
    path.write_bytes(pickle.dumps(Trap(sprung)) + archive)
    with pytest.raises(ValueError, match="not a zip archive"):
        _predictions.read(path)

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("member_scores.npy", pickle.dumps(Trap(sprung)))
        file.writestr("nonmember_scores.npy", pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match="`member_scores`"):
        _predictions.read(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap does not work"


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not an archive", b"\x93NUMPY\x01\x00", b"PK\x03\x04" + bytes(100)]
)
def test_refuses_other_files(tmp_path, content):
    path = tmp_path / "predictions.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"npz file as `numpy.savez` writes it.*not a zip archive"):
        _predictions.read(path)


def test_refuses_an_array_that_claims_more_than_it_has(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    )
    path = tmp_path / "predictions.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("member_scores.npy", header.getvalue())
        file.writestr("nonmember_scores.npy", header.getvalue())
    with pytest.raises(ValueError, match="entry 'member_scores' cannot be read"):
        _predictions.read(path)


def test_missing_files_and_folders_are_os_errors(tmp_path):
    for path in (tmp_path / "nothing.npz", tmp_path):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            _predictions.read(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_a_value_error(tmp_path, compressed):
    path = tmp_path / "predictions.npz"
    rng = np.random.default_rng(0)
    (np.savez_compressed if compressed else np.savez)(path, **outputs(LOGITS))
    whole = path.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        if rng.random() < 0.2:
            del damaged[rng.integers(len(damaged)) :]
        for place in rng.integers(len(damaged), size=3) if damaged else ():
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            _predictions.read(path)
        except ValueError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize(
    "scaled",
    [
        100 * softmax(LOGITS),
        np.round(100 * softmax(LOGITS), 1),
        np.round(255 * softmax(LOGITS)).astype("uint8"),
        1_000 * softmax(LOGITS),
        np.array([[12.0], [80.0], [55.5], [99.0]]),
    ],
)
def test_probabilities_on_another_scale_are_refused(save, scaled):
    labels = [0, 1, 1, 0] if scaled.shape[1] == 1 else (0, 1, 2, 0)
    path = save(**outputs(scaled, labels=labels))
    with pytest.raises(ValueError, match="no negative output"):
        _predictions.read(path)
    with pytest.raises(ValueError, match="outputs outside"):
        _predictions.read(path, from_logits=False)
    assert _predictions.read(path, from_logits=True).from_logits


def test_logits_without_negative_values_are_logits(save):
    assert _predictions.read(save(**outputs(LOGITS - LOGITS.min()))).from_logits


def test_the_same_samples_on_both_sides_are_refused(save):
    drawn = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.zeros(40, int)
    with pytest.raises(ValueError, match="Received: 40 of 40 nonmembers with the outputs"):
        _predictions.read(save(**outputs(drawn, drawn, labels=labels)))
    with pytest.raises(ValueError, match="Received: 40 of 40 nonmembers with the scores"):
        _predictions.read(save(**scores(drawn[:, 0], drawn[::-1, 0])))


INPUTS = {
    "numbers": np.random.default_rng(0).normal(size=(60, 2)),
    "images": np.random.default_rng(0).integers(256, size=(60, 4, 4, 1), dtype=np.uint8),
    "texts": np.array([f"record {each}" for each in range(60)]),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_tell_samples_apart_that_outputs_do_not(save, kind):
    labels = np.repeat(np.arange(3), 10)
    saved = outputs(np.eye(3)[labels], np.eye(3)[labels], labels=labels)
    with pytest.raises(ValueError, match=r"30 nonmembers with the outputs .*save their inputs too"):
        _predictions.read(save(**saved))
    members, nonmembers = INPUTS[kind][:30], INPUTS[kind][30:]
    sides = {"member_inputs": members, "nonmember_inputs": nonmembers}
    assert _predictions.read(save(**saved, **sides)).inputs[1].shape == nonmembers.shape
    for same in (members, members[::-1]):
        with pytest.raises(ValueError, match="30 of 30 nonmembers with the inputs of a member"):
            _predictions.read(save(**saved, **sides | {"nonmember_inputs": same}))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "saved.npz")
    with pytest.raises(ValueError, match=r"regular file. Received: '.*saved.npz'"):
        _predictions.read(tmp_path / "saved.npz")
