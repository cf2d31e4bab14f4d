"Loaders of chapter 40: Fashion-MNIST and the .ts series; what is wrong with a file is named (the others: test_tasks)."
import gzip, zipfile
import pytest, torch
from deq_irnn import data
from deq_irnn.data import DataNotFound, fashion_mnist, time_series, ts_series
from deq_irnn.tasks import SERIES, Fashion, TimeSeries, get_task


def write_idx(path, t):
    path.write_bytes(gzip.compress(bytes([0, 0, 8, t.dim()]) + b''.join(n.to_bytes(4, 'big') for n in t.shape) + bytes(t.flatten().tolist())))

def fashion_files(folder, labels=range(4), size=28):
    g = torch.Generator().manual_seed(0)
    for split, n in (('train', 4), ('t10k', 2)):
        write_idx(folder/f'{split}-images-idx3-ubyte.gz', torch.randint(256, (n, size, size), generator=g, dtype=torch.uint8))
        write_idx(folder/f'{split}-labels-idx1-ubyte.gz', torch.tensor(list(labels)[:n] if split == 'train' else [9, 0], dtype=torch.uint8))

def test_fashion_by_rows_and_by_pixels(tmp_path):
    fashion_files(tmp_path)
    (images, y), _ = fashion_mnist(tmp_path)
    train, test = Fashion(folder=tmp_path).train_test()
    assert torch.equal(train.x, images.float()/255) and train.x.shape == (4, 28, 28) and test.y.tolist() == [9, 0]
    pixels, mixed = (get_task(name, folder=tmp_path).train_test()[0] for name in ('fashion_pixels', 'permuted_fashion_pixels'))
    assert torch.equal(pixels.x[..., 0], train.x.flatten(1))
    assert not torch.equal(mixed.x, pixels.x) and torch.equal(mixed.x.sort(1).values, pixels.x.sort(1).values)
    assert len(Fashion(folder=tmp_path, train_size=2).train_test()[0]) == 2
    with pytest.raises(ValueError, match='pixels=True'): Fashion(permuted=True)

def test_fashion_from_the_debian_package_and_from_nowhere(tmp_path, monkeypatch):
    package = tmp_path/'package'
    monkeypatch.setattr(data, 'FASHION_PACKAGE', package)
    with pytest.raises(DataNotFound, match='dataset-fashion-mnist'): Fashion(folder=tmp_path/'none').train_test()
    package.mkdir()
    fashion_files(package)
    assert len(Fashion(folder=tmp_path/'none').train_test()[0]) == 4

@pytest.mark.parametrize('labels, words', [((0, 1, 2), '3 classes for 4 samples'), ((0, 1, 2, 200), 'found 200')])
def test_fashion_labels_that_cannot_be(labels, words, tmp_path):
    fashion_files(tmp_path, labels)
    with pytest.raises(ValueError, match=f'train-labels.*{words}'): Fashion(folder=tmp_path).train_test()

def test_images_of_another_size_are_refused(tmp_path):
    fashion_files(tmp_path, size=27)
    with pytest.raises(ValueError, match='train-images.*28 × 28'): Fashion(folder=tmp_path).train_test()


HEAD = '# a comment\n@problemName x\n@classLabel true a b\n@data\n'

def series_files(folder, name, train, test=None):
    for split, rows in (('TRAIN', train), ('TEST', test or train)):
        (folder/f'{name}_{split}.ts').write_text(HEAD + '\n'.join(rows) + '\n')

def test_series_of_one_length(tmp_path):
    series_files(tmp_path, 'X', ['1,2,3:4,5,6:b', '3,4,5:6,7,8:a'], ['2,3,4:5,6,7:b'])
    task = TimeSeries('X', tmp_path)
    train, test = task.train_test()
    assert (task.length, task.input_size, task.output_size, task.chance) == (3, 2, 2, .5) and train.y.tolist() == [1, 0]
    assert train.x.mean((0, 1)).abs().max() < 1e-6 and torch.allclose(test.x[0, 1], torch.zeros(2))

def test_shorter_series_end_at_the_last_step(tmp_path):
    series_files(tmp_path, 'X', ['1,2,3:b', '3,4:a'])
    x = TimeSeries('X', tmp_path).train_test()[0].x
    assert x.shape == (2, 3, 2) and x[1, 0].tolist() == [0, 0] and x[..., 1].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert torch.allclose(x[1, 1:, 0].diff(), x[0, :, 0].diff()[:1])

def test_series_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path/'X.zip', 'w') as z:
        for split in ('TRAIN', 'TEST'): z.writestr(f'X_{split}.ts', HEAD + '1,2:a\n3,4:b\n')
    assert len(TimeSeries('X', tmp_path).train_test()[0]) == 2

@pytest.mark.parametrize('row, words', [('1,2:c', "sample 2: class 'c'"), ('1,nan:a', 'sample 2.*finite'), ('1,?:a', 'sample 2'),
                                        ('1,2:3:a', 'one length'), ('1,2:3,4:a', '2 channels'), ('a', 'one length')])
def test_a_wrong_sample_is_named(row, words, tmp_path):
    series_files(tmp_path, 'X', ['1,2:b', row])
    with pytest.raises(ValueError, match=f'X_TRAIN.ts.*{words}'): TimeSeries('X', tmp_path)

@pytest.mark.parametrize('text, words', [(b'1,2:a\n', '@data'), (b'@data\n1,2:a\n', '@classLabel'), (b'@classLabel true a\n@data\n', 'no samples'), (b'\x00\xff', '@data')])
def test_what_is_no_ts_file(text, words):
    with pytest.raises(ValueError, match=f'x.ts.*{words}'): ts_series(text, 'x.ts')

def test_test_files_of_another_set(tmp_path):
    series_files(tmp_path, 'X', ['1,2:b'])
    (tmp_path/'X_TEST.ts').write_text('@classLabel true a c\n@data\n1,2:a\n')
    with pytest.raises(ValueError, match='X_TEST.ts.*X_TRAIN.ts'): time_series(tmp_path, 'X')
    series_files(tmp_path, 'GunPoint', ['1,2:b'])
    with pytest.raises(ValueError, match='GunPoint: must have.*150'): TimeSeries('GunPoint', tmp_path).train_test()

def test_series_out_of_an_installed_aeon_which_is_not_imported(tmp_path, monkeypatch):
    home = tmp_path/'aeon/datasets/data/Y'
    home.mkdir(parents=True)
    (tmp_path/'aeon/__init__.py').write_text('raise RuntimeError("not to be imported")')
    series_files(home, 'Y', ['1,2:b'])
    with pytest.raises(DataNotFound, match='aeon'): TimeSeries('Z', tmp_path/'none')
    monkeypatch.syspath_prepend(tmp_path)
    assert len(TimeSeries('Y', tmp_path/'none').train_test()[0]) == 1

def test_known_series_need_no_file_until_they_are_read(tmp_path):
    for name in SERIES: assert TimeSeries(name, tmp_path).chance < 1
    with pytest.raises(DataNotFound, match='JapaneseVowels_TRAIN.ts'): TimeSeries(folder=tmp_path).train_test()
