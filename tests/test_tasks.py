"""Tasks: their contract, their reproducibility, and the loaders on small files in the true format."""
import builtins, gzip, io, math, struct, sys, tarfile, wave, zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from deq_irnn.tasks import (TASKS, AddingProblem, CharacterText, CopyMemory, DataFolder, DataNotFound, Digits, DSA19, HAR2,
                            InventedTask, PaddedCIFAR10, PaddedDigits, PixelMNIST, SpeechCommands, Split, Task, get_task)

offline = ['adding', 'copy', 'selective_copy', 'digits', 'permuted_digits', 'padded_digits', 'text']
fetched = ['mnist', 'permuted_mnist', 'padded_cifar10', 'har2', 'dsa19', 'speech', 'fashion', 'fashion_pixels', 'permuted_fashion_pixels', 'series']


# ---- the contract -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', offline)
def test_contract(name):
    task = get_task(name)
    assert task.name == name
    for split in task.train_test(seed=0):
        x, y = split.batch(torch.arange(5))
        assert x.shape == (5, task.length, task.input_size) and x.dtype == torch.float32 and torch.isfinite(x).all()
        out = torch.randn(5, task.output_size) if task.read == 1 else torch.randn(5, task.read, task.output_size)
        assert out.dim() == 2 or y.shape == (5, task.read)
        assert task.kind == 'classification' and y.dtype == torch.int64 or y.shape == (5, task.output_size)
        assert task.loss(out, y).shape == () and task.metric(out, y).shape == ()
        assert torch.equal(split.take(torch.tensor([3])).x[0], x[3])
    assert math.isfinite(task.chance) and repr(task)


@pytest.mark.parametrize('name', offline)
def test_same_seed_same_data_and_no_global_randomness(name):
    state = torch.get_rng_state()
    (a, _), (b, _) = get_task(name).train_test(seed=3), get_task(name).train_test(seed=3)
    i = torch.arange(20)
    assert all(torch.equal(u, v) for u, v in zip(a.batch(i), b.batch(i)))
    assert torch.equal(torch.get_rng_state(), state)


def test_registry():
    assert set(TASKS) == {*offline, *fetched}
    with pytest.raises(ValueError, match="task must be one of 'adding'.*got 'xor'"): get_task('xor')
    with pytest.raises(ValueError, match="'adding' has no option 'lenght'.*length, train_size"): get_task('adding', lenght=3)
    with pytest.raises(ValueError, match='no option'): get_task('permuted_digits', permuted=False)
    assert get_task('adding', length=7).length == 7


class Parity(InventedTask):
    "A task of somebody else."
    name, output_size, chance = 'parity', 2, .5
    def __init__(self, length=6): super().__init__(20, 10); self.length = length
    def draw(self, n, generator):
        x = torch.randint(2, (n, self.length, 1), generator=generator)
        return Split(x.float(), x.sum((1, 2)) % 2)


def test_a_task_of_ones_own_by_name_and_by_module(monkeypatch):
    monkeypatch.setitem(TASKS, 'parity', Parity)
    module = Parity.__module__
    assert module in sys.modules
    for name in ('parity', f'{module}:Parity'):
        train, test = get_task(name, length=9).train_test(1)
        assert train.x.shape == (20, 9, 1) and torch.equal(train.x.sum((1, 2)) % 2, train.y.float())
    for wrong, words in ((f'{module}:Purity', 'Purity'), ('nowhere_at_all:Task', 'nowhere_at_all'), ('math:pi', 'math:pi'),
                         ('builtins:dict', 'must make a Task')):
        with pytest.raises(ValueError, match=words): get_task(wrong)


def test_what_a_subclass_must_define_is_said():
    with pytest.raises(NotImplementedError, match='Task must define train_test'): Task().train_test()
    with pytest.raises(NotImplementedError, match='InventedTask must define draw'): InventedTask().train_test()


@pytest.mark.parametrize('make, error, words', [
    (lambda: AddingProblem(length=1), ValueError, 'length.*1'), (lambda: AddingProblem(length=2.5), TypeError, 'length.*2.5'),
    (lambda: AddingProblem(train_size=0), ValueError, 'train_size'), (lambda: CopyMemory(items=0), ValueError, 'items'),
    (lambda: CopyMemory(selective=2), ValueError, 'selective'),
    (lambda: Digits(permuted='yes'), ValueError, "permuted.*'yes'"), (lambda: PaddedDigits(length=4), ValueError, 'at least 8'), (lambda: PaddedDigits(copies=0), ValueError, 'copies.*0'),
    (lambda: PaddedCIFAR10(length=31), ValueError, 'at least 32'), (lambda: PixelMNIST(train_size=-1), ValueError, 'train_size'),
    (lambda: SpeechCommands(words='yes'), ValueError, 'words'), (lambda: CharacterText(length=30_000), ValueError, 'too few')])
def test_wrong_arguments_name_themselves(make, error, words):
    with pytest.raises(error, match=words): make()


# ---- invented tasks ---------------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(length=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_adding_is_the_sum_of_one_mark_in_each_half(length, seed):
    train, _ = AddingProblem(length, train_size=20, test_size=1).train_test(seed)
    value, mark = train.x.unbind(-1)
    assert (mark[:, :length//2].sum(1) == 1).all() and (mark[:, length//2:].sum(1) == 1).all()
    assert torch.allclose((value*mark).sum(1, keepdim=True), train.y)


@settings(max_examples=25, deadline=None)
@given(delay=st.integers(1, 40), items=st.integers(1, 12), symbols=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_copy_shows_blanks_and_one_signal_at_the_right_place(delay, items, symbols, seed):
    task = CopyMemory(delay, items, symbols, train_size=6, test_size=1)
    train, _ = task.train_test(seed)
    codes = train.x.argmax(-1)
    assert (train.x.sum(-1) == 1).all() and torch.equal(codes[:, :items], train.y)
    assert (codes[:, items + delay - 1] == symbols + 1).all()
    rest = torch.cat([codes[:, items:items + delay - 1], codes[:, items + delay:]], 1)
    assert (rest == symbols).all() and codes.shape[1] == task.length


@settings(max_examples=25, deadline=None)
@given(delay=st.integers(1, 40), items=st.integers(1, 12), symbols=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_selective_copy_keeps_the_order_of_what_it_scatters(delay, items, symbols, seed):
    task = CopyMemory(delay, items, symbols, train_size=6, test_size=1, selective=True)
    train, _ = task.train_test(seed)
    codes = train.x.argmax(-1)
    assert task.name == 'selective_copy' and codes.shape[1] == task.length
    for shown, answer in zip(codes, train.y):
        assert torch.equal(shown[shown < symbols], answer)
    assert (codes[:, items + delay - 1] == symbols + 1).all() and (codes == symbols + 1).sum() == 6
    assert (codes[:, items + delay:] == symbols).all()


def test_selective_copy_scatters_evenly():
    train, _ = CopyMemory(91, 10, 8, train_size=4000, selective=True).train_test(0)
    often = (train.x.argmax(-1) < 8).float().mean(0)[:100]
    assert (often - .1).abs().max() < 5*(.09/4000)**.5            # each of the 100 steps holds one in ten


def test_invented_tasks_refresh_reproducibly():
    task = AddingProblem(10, train_size=8)
    train, test = task.train_test(0)
    one, two = task.refresh(train, 0, 1), task.refresh(train, 0, 2)
    assert torch.equal(one.x, task.refresh(train, 0, 1).x) and not torch.equal(one.x, two.x) and not torch.equal(one.x, test.x[:8])
    digits, _ = Digits().train_test()
    assert Digits().refresh(digits, 0, 1) is digits


# ---- digits -----------------------------------------------------------------------------------------------------------------------

def test_digits_are_all_of_them_and_the_split_is_fixed():
    from sklearn.datasets import load_digits
    train, test = Digits().train_test(seed=0)
    other, _ = Digits().train_test(seed=5)
    assert torch.equal(train.x, other.x) and (len(train), len(test)) == (1437, 360)
    key = lambda x: sorted(map(tuple, (x.flatten(1)*16).int().tolist()))
    assert key(torch.cat([train.x, test.x])) == key(torch.from_numpy(load_digits().data)/16)


def test_padded_digits_hold_the_same_digits():
    plain, padded = Digits().train_test()[1], PaddedDigits(length=20).train_test()[1]
    assert torch.equal(plain.y, padded.y) and torch.equal(padded.x[:, :8].flatten(1), plain.x.flatten(1))
    assert not torch.equal(padded.x[0, 8:], padded.x[1, 8:])


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__
    def no_sklearn(name, *a, **k):
        if name.startswith('sklearn'): raise ImportError(name)
        return real(name, *a, **k)
    monkeypatch.setattr(builtins, '__import__', no_sklearn)
    with pytest.raises(ImportError, match=r'pip install .deq_irnn\[study\]'): Digits().train_test()


# ---- archives and missing data ----------------------------------------------------------------------------------------------------

def _tar(path, files, links=()):
    with tarfile.open(path, 'w:gz') as t:
        for name, content in files.items():
            info = tarfile.TarInfo(name); info.size = len(content); t.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name); info.type, info.linkname = tarfile.SYMTYPE, target; t.addfile(info)


def test_archives_are_read_and_never_unpacked(tmp_path):
    folder = tmp_path/'a'/'b'; folder.mkdir(parents=True)
    secret = tmp_path/'secret.txt'; secret.write_text('secret')
    _tar(folder/'x.tar.gz', {'../../escaped': b'1', '/absolute/y.txt': b'2'}, [('link.txt', str(secret))])
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w') as z: z.writestr('deep/z.txt', '3')
    with zipfile.ZipFile(folder/'outer.zip', 'w') as z: z.writestr('inner.zip', inner.getvalue()); z.writestr('../w.txt', '4')
    (folder/'v.txt.gz').write_bytes(gzip.compress(b'5'))
    files = DataFolder(folder, 'Put it there')
    assert [files.read(n) for n in ('absolute/y.txt', 'deep/z.txt', 'w.txt', 'v.txt')] == [b'2', b'3', b'4', b'5']
    assert 'link.txt' not in files
    with pytest.raises(DataNotFound, match="no file 'u.txt'.*Put it there"): files.read('u.txt')
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'b', 'outer.zip', 'secret.txt', 'v.txt.gz', 'x.tar.gz']


@pytest.mark.parametrize('name, words', [('mnist', 'train-images-idx3-ubyte.gz'), ('padded_cifar10', 'cifar-10-binary.tar.gz'),
                                         ('har2', 'UCI HAR Dataset'), ('dsa19', 'daily'), ('speech', 'speech_commands')])
def test_missing_data_say_what_to_put_where(name, words, tmp_path, monkeypatch):
    import sklearn.datasets
    def no_network(*a, **k): raise OSError('no network')
    monkeypatch.setattr(sklearn.datasets, 'fetch_openml', no_network)
    monkeypatch.setenv('DEQ_IRNN_DATA', str(tmp_path))
    with pytest.raises(DataNotFound) as e: get_task(name).train_test()
    assert words in str(e.value) and str(tmp_path) in str(e.value)


# ---- small files in the true format -----------------------------------------------------------------------------------------------

def _idx(t): return bytes([0, 0, 8, t.dim()]) + struct.pack(f'>{t.dim()}I', *t.shape) + bytes(t.flatten().tolist())


def _mnist_files(folder, n=6, m=3):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n + m, 28, 28), generator=g, dtype=torch.uint8); y = torch.arange(n + m, dtype=torch.uint8)
    for name, t in {'train-images-idx3': images[:n], 'train-labels-idx1': y[:n], 't10k-images-idx3': images[n:], 't10k-labels-idx1': y[n:]}.items():
        (folder/f'{name}-ubyte.gz').write_bytes(gzip.compress(_idx(t)))
    return images, y


def test_mnist_idx(tmp_path):
    images, y = _mnist_files(tmp_path)
    train, test = PixelMNIST(folder=tmp_path).train_test()
    assert torch.equal(train.x[..., 0], images[:6].flatten(1)/255) and test.y.tolist() == [6, 7, 8]
    mixed, _ = PixelMNIST(permuted=True, folder=tmp_path, train_size=2).train_test()
    assert len(mixed) == 2 and not torch.equal(mixed.x, train.x[:2]) and torch.equal(mixed.x.sort(1).values, train.x[:2].sort(1).values)


def test_damaged_idx_is_named(tmp_path):
    _mnist_files(tmp_path)
    path = tmp_path/'t10k-labels-idx1-ubyte.gz'
    path.write_bytes(gzip.compress(_idx(torch.arange(3, dtype=torch.uint8))[:-1]))
    with pytest.raises(ValueError, match='cut off'): PixelMNIST(folder=tmp_path).train_test()
    path.write_bytes(gzip.compress(b'<html>'))
    with pytest.raises(ValueError, match='not an IDX'): PixelMNIST(folder=tmp_path).train_test()


def test_openml_is_fetched_once_and_its_copy_is_checked(tmp_path, monkeypatch):
    import numpy as np, sklearn.datasets
    calls = []
    def fetch(name, version, as_frame, parser, data_home):
        calls.append((name, version, as_frame))
        n = 60_003 if name == 'mnist_784' else 50_002
        data = np.zeros((n, 784 if name == 'mnist_784' else 3), dtype=np.float64) + (np.arange(n) % 256)[:, None]
        if name == 'CIFAR_10': data = np.broadcast_to(data[:, :1], (n, 3072)).astype(np.uint8)
        return SimpleNamespace(data=data, target=np.array([str(i % 10) for i in range(n)], dtype=object))
    monkeypatch.setattr(sklearn.datasets, 'fetch_openml', fetch)
    for _ in range(2):
        train, test = PixelMNIST(folder=tmp_path, train_size=300).train_test()
        assert (len(train), len(test)) == (300, 3) and train.x[255, 0, 0] == 1 and test.y.tolist() == [0, 1, 2]
    assert calls == [('mnist_784', 1, False)]
    cifar, rest = PaddedCIFAR10(length=40, folder=tmp_path, train_size=4).train_test()
    assert cifar.x.shape == (4, 40, 96) and len(rest) == 2 and torch.allclose(cifar.x[3, :32], torch.tensor(3/255))
    path = tmp_path/'mnist_784.pt'
    content = bytearray(path.read_bytes()); content[-100] ^= 1; path.write_bytes(content)
    with pytest.raises(ValueError, match='SHA-256.*damaged'): PixelMNIST(folder=tmp_path).train_test()


def test_cifar10_binary_archive(tmp_path):
    g = torch.Generator().manual_seed(0)
    batches = {n: torch.randint(256, (2, 3072), generator=g, dtype=torch.uint8) for n in [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']}
    _tar(tmp_path/'cifar-10-binary.tar.gz', {f'cifar-10-batches-bin/{n}': b''.join(bytes([k]) + bytes(row.tolist()) for k, row in enumerate(t))
                                            for n, t in batches.items()})
    train, test = PaddedCIFAR10(length=50, folder=tmp_path).train_test()
    assert train.x.shape == (10, 50, 96) and test.x.shape == (2, 50, 96) and train.y.tolist() == [0, 1]*5
    red, green, blue = batches['data_batch_1.bin'][0].view(3, 32, 32)/255
    assert torch.equal(train.x[0, 7], torch.cat([red[7], green[7], blue[7]]))


def test_har2(tmp_path):
    root = tmp_path/'UCI HAR Dataset'
    g, raw = torch.Generator().manual_seed(0), {}
    for split, n in (('train', 12), ('test', 5)):
        (root/split/'Inertial Signals').mkdir(parents=True)
        (root/split/f'y_{split}.txt').write_text('\n'.join(str(1 + i % 6) for i in range(n)) + '\n')
        for s in HAR2.signals:
            raw[s, split] = torch.randn(n, 128, generator=g)*3 + 1
            (root/split/'Inertial Signals'/f'{s}_{split}.txt').write_text('\n'.join('  ' + ' '.join(f'{v: .7e}' for v in r) for r in raw[s, split].tolist()))
    train, test = HAR2(folder=tmp_path).train_test()
    assert train.x.shape == (12, 128, 9) and test.x.shape == (5, 128, 9) and train.y.tolist() == [0, 1, 0, 1, 0, 1]*2
    assert train.x.mean((0, 1)).abs().max() < 1e-4 and (train.x.std((0, 1)) - 1).abs().max() < 1e-4
    a, b = raw['body_gyro_y', 'train'], raw['body_gyro_y', 'test']
    assert torch.allclose(test.x[..., 4], (b - a.mean())/a.std(), atol=1e-4)
    (root/'train'/'Inertial Signals'/'total_acc_z_train.txt').unlink()
    with pytest.raises(DataNotFound, match='total_acc_z_train.txt'): HAR2(folder=tmp_path).train_test()


def test_dsa19(tmp_path):
    for a in range(1, 20):
        for p in (1, 8):
            (tmp_path/'data'/f'a{a:02d}'/f'p{p}').mkdir(parents=True)
            for s in (1, 2):
                text = '\n'.join(','.join(f'{a + .1*p + .01*s + t*.001 + c*.0001:.4f}' for c in range(45)) for t in range(125))
                (tmp_path/'data'/f'a{a:02d}'/f'p{p}'/f's{s:02d}.txt').write_text(text)
    train, test = DSA19(folder=tmp_path).train_test()
    assert train.x.shape == test.x.shape == (38, 125, 45) and train.y.bincount().tolist() == [2]*19
    train, test = DSA19(by_person=True, folder=tmp_path).train_test()
    assert train.y.bincount().tolist() == [2]*19 and (train.x.mean((1, 2)) < test.x.mean((1, 2))).all()       # person 1, person 8
    for f in (tmp_path/'data'/'a07').rglob('*.txt'): f.unlink()
    with pytest.raises(DataNotFound, match='a07/p1/s01.txt'): DSA19(folder=tmp_path).train_test()


def _wav(frequency, seconds=1., channels=1):
    out = io.BytesIO()
    with wave.open(out, 'wb') as w:
        w.setnchannels(channels); w.setsampwidth(2); w.setframerate(16_000)
        w.writeframes(b''.join(struct.pack('<h', int(20_000*math.sin(2*math.pi*frequency*t/16_000))) for t in range(int(16_000*seconds))))
    return out.getvalue()


def test_speech_commands(tmp_path):
    files = {f'./{w}/{i}_nohash_0.wav': _wav(f + 20*i, .9) for w, f in (('yes', 400), ('no', 2000), ('cat', 900)) for i in range(3)}
    _tar(tmp_path/'speech_commands_v0.02.tar.gz', files | {'./testing_list.txt': b'yes/2_nohash_0.wav\nno/2_nohash_0.wav\n'})
    train, test = SpeechCommands(words='no yes', folder=tmp_path).train_test()
    assert train.x.shape == (4, 98, 32) and train.y.tolist() == [0, 0, 1, 1] and test.y.tolist() == [0, 1]
    with pytest.raises(DataNotFound, match='dog'): SpeechCommands(words='no dog', folder=tmp_path).train_test()
    _tar(tmp_path/'speech_commands_v0.02.tar.gz', {'no/a.wav': _wav(9, .1, 2), 'yes/a.wav': _wav(9, .1), 'testing_list.txt': b''})
    with pytest.raises(ValueError, match='not 16-bit mono'): SpeechCommands(words='no yes', folder=tmp_path).train_test()


def test_text_from_a_file(tmp_path):
    path = tmp_path/'t.txt'; path.write_text('abcd'*300, encoding='utf-8')
    task = CharacterText(path=path, length=10)
    train, test = task.train_test()
    assert task.input_size == 4 and abs(task.chance - 2) < 1e-3           # four equally frequent letters: two bits
    certain = torch.nn.functional.one_hot((train.x.argmax(-1) + 1) % 4, 4)*50.
    assert task.metric(certain, train.y) < 1e-6 and len(test) == 11
    with pytest.raises(DataNotFound, match='missing.txt'): CharacterText(path=tmp_path/'missing.txt')
    assert not task.higher_is_better and task.metric_name == 'bits per character'


# ---- files that are wrong: each was accepted, or said nothing useful, in the first version ------------------------------------------

def test_a_class_for_each_sample_and_only_those_that_exist(tmp_path):
    _mnist_files(tmp_path)
    labels = tmp_path/'train-labels-idx1-ubyte.gz'
    labels.write_bytes(gzip.compress(_idx(torch.arange(5, dtype=torch.uint8))))
    with pytest.raises(ValueError, match='train-labels.*5 classes for 6 samples'): PixelMNIST(folder=tmp_path).train_test()
    labels.write_bytes(gzip.compress(_idx(torch.tensor([0, 1, 2, 3, 4, 200], dtype=torch.uint8))))
    with pytest.raises(ValueError, match='train-labels.*from 0 to 9; found 200'): PixelMNIST(folder=tmp_path).train_test()


def test_a_cut_off_cifar_file_is_named(tmp_path):
    for i in range(1, 6): (tmp_path/f'data_batch_{i}.bin').write_bytes(bytes(3073))
    (tmp_path/'test_batch.bin').write_bytes(bytes(3000))
    with pytest.raises(ValueError, match='test_batch.bin'): PaddedCIFAR10(length=40, folder=tmp_path).train_test()


@pytest.mark.parametrize('line, words', [(' '.join(['nan']*128), 'line 2.*nan'), ('0 1 2', 'body_acc_x_train'), ('x'*5, 'could not convert'), (None, '3 lines')])
def test_text_that_is_not_numbers_is_named(line, words, tmp_path):
    folder = tmp_path/'UCI HAR Dataset'
    good = ' '.join(['0.5']*128)
    for split in ('train', 'test'):
        (folder/split/'Inertial Signals').mkdir(parents=True)
        (folder/split/f'y_{split}.txt').write_text('1\n2\n3\n')
        for s in HAR2.signals: (folder/split/'Inertial Signals'/f'{s}_{split}.txt').write_text('\n'.join([good]*3))
    bad = folder/'train/Inertial Signals/body_acc_x_train.txt'
    bad.write_text('\n'.join([good, line, good] if line else [good]*2))
    with pytest.raises(ValueError, match='body_acc_x_train') as e: HAR2(folder=tmp_path).train_test()
    assert __import__('re').search(words, str(e.value))


def test_a_bomb_is_not_unpacked(tmp_path):
    "A zip in a zip: on disk some kilobytes, in memory 50 megabytes, which are never made."
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('x.txt', bytes(50_000_000))
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('bomb.zip', bytes(50_000_000))
        z.writestr('small.zip', inner.getvalue())
    with pytest.raises(ValueError, match='a.zip unpacks to 50,000,000 bytes'): DataFolder(tmp_path, largest=10**6)
    (tmp_path/'a.zip').write_bytes(inner.getvalue())
    (tmp_path/'y.gz').write_bytes(gzip.compress(bytes(50_000_000)))
    for name in ('x.txt', 'y'):
        with pytest.raises(ValueError, match='at most 1,000,000'): DataFolder(tmp_path, largest=10**6).read(name)


@pytest.mark.parametrize('name', ['torn.zip', 'torn.tar.gz', 'torn.tar'])
def test_a_broken_archive_is_named(name, tmp_path):
    (tmp_path/name).write_bytes(b'PK nothing of the kind')
    with pytest.raises(ValueError, match=name): DataFolder(tmp_path)


def test_a_broken_member_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('x.txt', 'some text that is long enough')
    content = (tmp_path/'a.zip').read_bytes().replace(b'some text', b'SOME TEXT')
    (tmp_path/'a.zip').write_bytes(content)
    (tmp_path/'y.txt.gz').write_bytes(gzip.compress(b'some text')[:-6])
    files = DataFolder(tmp_path)
    for name in ('x.txt', 'y.txt'):
        with pytest.raises(ValueError, match='cannot be read'): files.read(name)


def test_not_a_wave_file_is_named(tmp_path):
    _tar(tmp_path/'speech_commands_v0.02.tar.gz', {'no/a.wav': b'nothing', 'yes/b.wav': _wav(9, .1), 'testing_list.txt': b''})
    with pytest.raises(ValueError, match='no/a.wav'): SpeechCommands(words='no yes', folder=tmp_path).train_test()
