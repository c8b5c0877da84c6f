"""The loader of the public archives: their layout, and every way in which they can be damaged."""

import pickle
import pickletools

import numpy as np
import pytest

from benchmarks.forgetting.tasks.cifar import archives
from benchmarks.forgetting.tasks.cifar.archives import ArchiveError
from tests.benchmarks.cifar_archives import FortyTwo, python2_pickle, write_cifar10, write_cifar100


def pixels_of(rows):
    """Row by row as the archives' page says: 1,024 bytes of red, green and blue each, row after row of the image."""
    images = np.zeros((len(rows), 32, 32, 3), np.uint8)
    for channel in range(3):
        for y in range(32):
            begin = 1024 * channel + 32 * y
            images[:, y, :, channel] = rows[:, begin : begin + 32]
    return images


def assert_images(found, files):
    assert found.pixels.dtype == np.uint8
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(found.pixels, np.concatenate([pixels_of(rows) for rows, _ in files]))
    np.testing.assert_array_equal(found.labels, np.concatenate([labels for _, labels in files]))


def test_both_archives(tmp_path):
    ten, hundred = write_cifar10(tmp_path), write_cifar100(tmp_path)
    old, new = archives.cifar10(tmp_path), archives.cifar100(tmp_path)
    assert_images(old.train, [ten[f"data_batch_{i}"] for i in range(1, 6)])
    assert_images(old.test, [ten["test_batch"]])
    assert_images(new.train, [hundred["train"]])
    assert_images(new.test, [hundred["test"]])


def test_the_test_files_are_what_python_2_wrote(tmp_path):
    write_cifar10(tmp_path)
    content = (tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert "BINSTRING" in opcodes
    assert not any("BYTES" in name or "UNICODE" in name for name in opcodes)
    assert b"numpy.core.multiarray" in content


def test_pickles_of_python_3_are_read_too(tmp_path):
    files = write_cifar100(tmp_path)
    rows, labels = files["train"]
    content = pickle.dumps({b"data": rows, b"fine_labels": labels}, protocol=4)
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    assert_images(archives.cifar100(tmp_path).train, [files["train"]])


def test_a_missing_file_is_an_error_that_names_it_and_says_where_to_get_it(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(ArchiveError, match=r"data_batch_4 is missing: get the archive .* unpack it"):
        archives.cifar10(tmp_path)
    with pytest.raises(ArchiveError, match="cifar-100-python/train is missing"):
        archives.cifar100(tmp_path)


def test_the_first_images_are_those_with_their_labels(tmp_path):
    labels = write_cifar10(tmp_path)["data_batch_1"][1]
    train = archives.cifar10(tmp_path).train
    assert train.first(3).labels.tolist() == labels[:3]
    np.testing.assert_array_equal(train.first(3).pixels, train.pixels[:3])
    assert len(train.first(100).labels) == 20


def test_a_truncated_pickle_is_an_error_that_names_it(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArchiveError, match=r"data_batch_2 cannot be read .*get the archive again"):
        archives.cifar10(tmp_path)


ROWS = np.zeros((3, 3072), np.uint8)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({b"data": ROWS}, "cannot be read .KeyError: b'labels'"),
        ([1, 2], "cannot be read .TypeError"),
        ({b"data": ROWS[:, :-1], b"labels": [0, 1, 2]}, r"no file of CIFAR-10 .* has uint8 \[3, 3071\], and 3 labels"),
        ({b"data": ROWS.astype(np.float32), b"labels": [0, 1, 2]}, "no file of CIFAR-10 .* has float32"),
        ({b"data": ROWS, b"labels": [0, 1]}, r"no file of CIFAR-10 .* has uint8 \[3, 3072\], and 2 labels"),
        *(({b"data": ROWS, b"labels": [0, 1, x]}, "no file of CIFAR-10 .* from 0 to 9;") for x in (10, -1, 0.5)),
    ],
)
def test_what_is_no_batch_is_an_error_that_says_why(tmp_path, entries, problem):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(python2_pickle(entries))
    with pytest.raises(ArchiveError, match=f"data_batch_1 (is )?{problem}"):
        archives.cifar10(tmp_path)


def test_labels_of_cifar_100_end_at_99(tmp_path):
    write_cifar100(tmp_path)
    content = python2_pickle({b"data": ROWS, b"fine_labels": [0, 99, 100]})
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    with pytest.raises(ArchiveError, match="labels from 0 to 99"):
        archives.cifar100(tmp_path)


def test_a_pickle_may_not_run_code(tmp_path, capsys):
    write_cifar10(tmp_path)
    content = python2_pickle({b"data": ROWS, b"labels": FortyTwo()})
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"data_batch_1 cannot be read .*: it asks for __builtin__\.print"):
        archives.cifar10(tmp_path)
    assert capsys.readouterr().out == ""
    pickle.loads(content, encoding="bytes")
    assert capsys.readouterr().out == "42\n"
