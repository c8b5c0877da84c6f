"""The loader of the public archives: their layout, and every way in which they can be damaged."""

import pickle
import pickletools

import numpy as np
import pytest

from benchmarks.forgetting.tasks.cifar import archives
from benchmarks.forgetting.tasks.cifar.archives import ArchiveError
from tests.benchmarks.cifar_archives import FortyTwo, pack, python2_pickle, write_cifar10, write_cifar100

LOAD10 = {"train_images": 20, "test_images": 3}
LOAD100 = {"train_images": 6, "test_images": 3}


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


@pytest.mark.parametrize("suffix", [None, ".tar.gz", ".tar"])
def test_both_archives_packed_and_unpacked(tmp_path, suffix):
    ten, hundred = write_cifar10(tmp_path), write_cifar100(tmp_path)
    if suffix:
        pack(tmp_path, "cifar10", suffix)
        pack(tmp_path, "cifar100", suffix)
    old, new = archives.cifar10(tmp_path, **LOAD10), archives.cifar100(tmp_path, **LOAD100)
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
    assert_images(archives.cifar100(tmp_path, **LOAD100).train, [files["train"]])


def test_fewer_images_are_the_first_ones_and_need_no_other_files(tmp_path):
    files = write_cifar10(tmp_path)
    for i in (3, 4, 5):
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{i}").unlink()
    found = archives.cifar10(tmp_path, train_images=6, test_images=2)
    labels = files["data_batch_1"][1] + files["data_batch_2"][1]
    assert found.train.labels.tolist() == labels[:6]
    assert found.test.labels.tolist() == files["test_batch"][1][:2]


def test_a_missing_training_file_is_an_error_unless_fewer_images_are_asked_for(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(ArchiveError, match=r"data_batch_4 is missing: get the whole .* archive, or ask for fewer"):
        archives.cifar10(tmp_path, **LOAD10)
    assert len(archives.cifar10(tmp_path, 12, 3).train.labels) == 12


def test_a_missing_file_of_a_packed_archive_is_named(tmp_path):
    write_cifar100(tmp_path)
    (tmp_path / "cifar-100-python" / "test").unlink()
    pack(tmp_path, "cifar100")
    with pytest.raises(ArchiveError, match=r"cifar-100-python\.tar\.gz/test is missing"):
        archives.cifar100(tmp_path, **LOAD100)


def test_too_few_images_are_an_error(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(ArchiveError, match=r"holds 20 images in data_batch_1.*and 21 were asked for"):
        archives.cifar10(tmp_path, train_images=21, test_images=3)
    with pytest.raises(ArchiveError, match=r"holds 3 images in test_batch, and 10000 were asked for"):
        archives.cifar10(tmp_path, train_images=20)


def test_no_archive_says_what_was_expected_where(tmp_path):
    with pytest.raises(ArchiveError, match=r"has no CIFAR-100: expected the folder cifar-100-python or the file"):
        archives.cifar100(tmp_path)


def test_a_truncated_pickle_is_an_error_that_names_it(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArchiveError, match=r"data_batch_2 cannot be read .*get the archive again"):
        archives.cifar10(tmp_path, **LOAD10)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize("damaged", [lambda content: content[:30_000], lambda content: b"<html>not found</html>"])
def test_a_damaged_archive_is_an_error_that_names_it(tmp_path, suffix, damaged):
    write_cifar10(tmp_path)
    path = pack(tmp_path, "cifar10", suffix)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(ArchiveError, match=rf"(?s)cifar-10-python{suffix} is damaged .*get the archive again"):
        archives.cifar10(tmp_path, **LOAD10)


def test_bytes_changed_inside_of_a_packed_archive_are_noticed(tmp_path):
    write_cifar10(tmp_path)
    path = pack(tmp_path, "cifar10")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="get the archive again"):
        archives.cifar10(tmp_path, **LOAD10)


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
        archives.cifar10(tmp_path, **LOAD10)


def test_labels_of_cifar_100_end_at_99(tmp_path):
    write_cifar100(tmp_path)
    content = python2_pickle({b"data": ROWS, b"fine_labels": [0, 99, 100]})
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    with pytest.raises(ArchiveError, match="labels from 0 to 99"):
        archives.cifar100(tmp_path, train_images=3, test_images=3)


def test_a_pickle_may_not_run_code(tmp_path, capsys):
    write_cifar10(tmp_path)
    content = python2_pickle({b"data": ROWS, b"labels": FortyTwo()})
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"data_batch_1 cannot be read .*: it asks for __builtin__\.print"):
        archives.cifar10(tmp_path, **LOAD10)
    assert capsys.readouterr().out == ""
    pickle.loads(content, encoding="bytes")
    assert capsys.readouterr().out == "42\n"
