"What is typed becomes a number, a list, a task, or an error that says what is allowed."
import argparse
import pytest
from deq_irnn.command import duration, rates, real_or_none, seeds, short_name, task_and_options
from deq_irnn.study import main, preset_name

@pytest.mark.parametrize('text, found', [('3', (0, 1, 2)), ('0-4', (0, 1, 2, 3, 4)), ('7-7', (7,)), ('0,2,5-7', (0, 2, 5, 6, 7)), ('2,2', (2,))])
def test_seeds(text, found): assert seeds(text) == found

@pytest.mark.parametrize('text', ['0', '', '-1', '4-', '-', '3-1', '1.5', 'a', '1,', '1,,2', '²'])
def test_wrong_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError, match='0-4'): seeds(text)

def test_rates():
    assert rates('3e-3') == 3e-3 and rates('1e-3,3e-3,1e-3') == (1e-3, 3e-3)
    for wrong in ('', '1e-3,', '0', '-1', 'inf', 'nan', '1;2'):
        with pytest.raises(argparse.ArgumentTypeError, match='above 0'): rates(wrong)

def test_no_clipping():
    assert real_or_none('none') is None and real_or_none('2') == 2
    with pytest.raises(argparse.ArgumentTypeError): real_or_none('off')

@pytest.mark.parametrize('seconds, said', [(9.4, '9 s'), (300, '5 min'), (9000, '2.5 h')])
def test_durations(seconds, said): assert duration(seconds) == said

def test_names_that_can_be_files(): assert short_name('my.module:net') == 'my.module.net' and '/' not in short_name('mlp/rotation/state')

def test_a_set_of_series_as_an_option():
    assert task_and_options('series:dataset=BasicMotions') == ('series', dict(dataset='BasicMotions'))
    with pytest.raises(argparse.ArgumentTypeError, match='Nowhere_TRAIN.ts'): task_and_options('series:dataset=Nowhere')

def test_what_is_allowed_is_said():
    "Presets with options of their own among them, and the word for no clipping."
    with pytest.raises(argparse.ArgumentTypeError, match="padded, words, memory; got 'digit'"): preset_name('digit')
    with pytest.raises(argparse.ArgumentTypeError, match="none or a number above 0; got 'off'"): real_or_none('off')

@pytest.mark.parametrize('text, name', [('def (:', 'SyntaxError'), ('1/0', 'ZeroDivisionError'), ('import nowhere', 'ModuleNotFoundError')])
def test_a_module_that_cannot_be_read(tmp_path, monkeypatch, text, name):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path/f'broken_{name}.py').write_text(text)
    with pytest.raises(argparse.ArgumentTypeError, match=f"cannot import module 'broken_{name}' .{name}"): task_and_options(f'broken_{name}:task')

def test_a_file_where_a_folder_should_be(tmp_path, capsys):
    (tmp_path/'file').write_text('')
    assert main(['study', '--models', 'lstm', '--seeds', '1', '--no-plots', '--task', 'adding:length=4,train_size=8,test_size=8', '--epochs', '1', '--out', str(tmp_path/'file')]) == 2
    assert capsys.readouterr().err.rstrip().splitlines()[-1].startswith('deq-irnn study: error: ')
