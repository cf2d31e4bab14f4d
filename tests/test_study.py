"The command line, as a user types it: a tiny run, its folder, wrong options, interruption, resumption."
import csv, json, os, shutil, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import pytest, torch
from torch import nn

from conftest import hearing
from deq_irnn.results import palette, read_results
from deq_irnn.runs import write_json
from deq_irnn.study import MODELS, PRESETS, Model, Plan, main, parser, plot, run_one, study, table
from deq_irnn.tasks import TASKS, AddingProblem

ROOT = Path(__file__).resolve().parents[1]

MAIN = 'import sys; from deq_irnn.study import main; sys.exit(main())'  # what `deq-irnn` runs
COMMAND = [sys.executable, '-c', MAIN]
TINY = ['--models', 'irnn-1,root-rotation', '--seeds', '1', '--epochs', '1', '--hidden', '8', '--task', 'adding:length=6,train_size=64,test_size=32', '--workers', '1']

def run(*args, **options):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'OMP_NUM_THREADS': '1'} | options.pop('env', {})
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, env=env, timeout=180, **options)

class Done:
    "What came of the command when it is called in this process, as `here` does: quick, where no process of its own is needed."
    def __init__(self, returncode, stdout, stderr): self.returncode, self.stdout, self.stderr = returncode, stdout, stderr

@pytest.fixture
def here(capfd, monkeypatch):
    def run(*args, cwd=None, env=()):
        monkeypatch.setattr(sys, 'path', list(sys.path))
        if cwd is not None: monkeypatch.chdir(cwd)
        for name, value in dict(env).items(): monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main([str(a) for a in args])
        return Done(code, *capfd.readouterr())
    return run

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A finished tiny study."
    out = tmp_path_factory.mktemp('runs')
    done = run('study', *TINY, '--out', out, '--name', 'tiny', '--save', out/'saved.json')
    assert done.returncode == 0, done.stderr
    assert '| irnn-1' in done.stdout and '| root-rotation' in done.stdout
    return out

def test_a_run_leaves_results_checkpoints_and_pictures(folder):
    names = {p.name for p in (folder/'tiny').iterdir()}
    assert names >= {'results.json', 'irnn-1-0.pt', 'root-rotation-0.pt', 'learning_curves.png', 'metric_time.png', 'gradient.png', 'residual.png'}
    results = json.loads((folder/'tiny/results.json').read_text())
    assert results == json.loads((folder/'saved.json').read_text())
    assert {r['model']: r['status'] for r in results['runs']} == {'irnn-1': 'finished', 'root-rotation': 'finished'}
    assert len(results['runs'][0]['history']) == 1 and results['plan']['epochs'] == 1 and 'versions' in json.dumps(results)

def test_an_existing_folder_is_not_overwritten(here, folder):
    before = (folder/'tiny/results.json').read_bytes()
    again = here('study', *TINY, '--out', folder, '--name', 'tiny')
    assert again.returncode == 2 and '--resume' in again.stderr and '--name' in again.stderr
    assert (folder/'tiny/results.json').read_bytes() == before

def test_resume_adds_what_is_missing(here, folder):
    more = here('study', '--resume', '--out', folder, '--name', 'tiny', '--models', 'irnn-1,root-rotation,rnn', '--workers', '1')
    assert more.returncode == 0, more.stderr
    assert {r['model'] for r in json.loads((folder/'tiny/results.json').read_text())['runs']} == {'irnn-1', 'root-rotation', 'rnn'}

def test_what_tell_returns_does_not_stop_the_training(tmp_path):
    plan = Plan('', 'adding', ('irnn-1',), dict(length=6, train_size=64, test_size=32), seeds=1, hidden=8, epochs=3)
    assert len(run_one(plan, 'irnn-1', 0, tmp_path, 'cpu', tell=lambda: True)['history']) == 3

def test_plot(here, folder):
    (folder/'tiny/gradient.png').unlink()
    assert here('plot', folder/'tiny').returncode == 0 and (folder/'tiny/gradient.png').exists()
    missing = here('plot', folder/'nothing')
    assert missing.returncode == 2 and 'results.json' in missing.stderr

def test_help_explains_every_option(here):
    text = here('study', '--help').stdout
    for option in 'preset models task seeds epochs batch-size lr trial-epochs finalists clip tol hidden params widest device threads out name resume save no-plots strict list'.split(): assert f'--{option}' in text
    assert '130' in here('--help').stdout + text                          # exit codes

@pytest.mark.parametrize('wrong, named', [(['--models', 'lstn'], 'lstn'), (['--seeds', '-1'], '-1'), (['--task', 'adding:size=3'], 'size'), (['--preset', 'all'], 'all'), (['--name', '../mine'], '../mine'), (['--name', '..'], '--name'),
                                          (['--device', 'tpu'], 'tpu'), (['--lr', 'fast'], 'fast'), (['--lr', '1e-3,0'], "'0'"), (['--seeds', '3-1'], '3-1'), (['--clip', '-1'], '-1'), (['--tol', '0'], "'0'"),
                                          (['--models', 'mlp/rotaton/state'], 'rotaton'), (['--colour', 'red'], '--colour')])
def test_wrong_options_name_themselves(here, wrong, named, tmp_path):
    done = here('study', *wrong, '--out', tmp_path)
    assert done.returncode == 2 and named in done.stderr and 'Traceback' not in done.stderr and not list(tmp_path.iterdir())

def test_interrupted_keeps_what_is_finished(tmp_path):
    "Ctrl-C after the first of two runs; then go on."
    slow = ['--models', 'irnn-1', '--seeds', '2', '--epochs', '40', '--hidden', '8', '--task', 'adding:length=20,train_size=640,test_size=32', '--workers', '1']
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([*COMMAND, 'study', *slow, '--out', tmp_path, '--name', 'cut'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True, preexec_fn=hearing)
    results, end = tmp_path/'cut/results.json', time.time() + 90
    while time.time() < end and process.poll() is None:
        if results.exists() and json.loads(results.read_text())['runs']: break
        time.sleep(.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and '--resume' in err, err
    assert [r['seed'] for r in json.loads(results.read_text())['runs']] == [0]


# ---- open from outside -------------------------------------------------------------------------------------------------

OWN = '''
import torch
from torch import nn
from deq_irnn.tasks import InventedTask, Split

class Net(nn.Module):
    "Batch first, and with a state."
    batch_first = True
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size, self.rnn = hidden_size, nn.GRU(input_size, hidden_size, batch_first=True)
    def forward(self, x, h=None): return self.rnn(x, h)

class Stateless(nn.Module):
    "Looks at a window of its inputs; returns no state."
    def __init__(self, input_size, hidden_size, length):
        super().__init__()
        self.length, self.hidden_size, self.lift = length, hidden_size, nn.Linear(input_size, hidden_size)
    def forward(self, x): return self.lift(x).cumsum(0)/self.length, None

class Parity(InventedTask):
    "Whether the number of ones is even."
    name, output_size, chance = 'parity', 2, .5
    def __init__(self, length=8): super().__init__(96, 32); self.length = length
    def draw(self, n, generator):
        x = torch.randint(2, (n, self.length, 1), generator=generator)
        return Split(x.float(), x.sum((1, 2)) % 2)
'''

@pytest.fixture
def own(tmp_path):
    "A user's module, in the folder where the command is given."
    (tmp_path/'my_nets.py').write_text(OWN)
    return tmp_path

def test_own_models_and_task_by_name_with_two_workers(own):
    models = 'my_nets:Net,my_nets:Stateless,lstm'
    done = run('study', '--models', models, '--task', 'my_nets:Parity:length=5', '--seeds', 1, '--epochs', 1, '--hidden', 4, '--workers', 2, cwd=own)
    assert done.returncode == 0, done.stderr
    folder = own/'runs/Parity'                                          # named after the task
    results = json.loads((folder/'results.json').read_text())
    assert {r['model']: r['status'] for r in results['runs']} == dict.fromkeys(models.split(','), 'finished')
    assert results['task']['name'] == 'parity' and results['task']['length'] == 5 and results['machine']['workers'] == 2
    assert {p.name for p in folder.iterdir()} >= {'my_nets.Net-0.pt', 'gradient.png'} and '| my_nets:Stateless' in done.stdout
    more = run('study', '--resume', '--task', 'my_nets:Parity:length=5', '--seeds', 2, '--workers', 2, cwd=own)
    assert more.returncode == 0, more.stderr
    assert len(json.loads((folder/'results.json').read_text())['runs']) == 6
    elsewhere = run('table', folder)                                    # a table needs none of it
    assert elsewhere.returncode == 0 and '| my_nets:Net' in elsewhere.stdout

def make_gru(F, D, T): return nn.GRU(F, D)                               # another process can import it

def tiny(**new):
    return replace(Plan('', 'adding', ('lstm',), dict(length=6, train_size=64, test_size=32), seeds=1, hidden=6, epochs=1), **new)

def test_an_addition_to_the_registry_reaches_the_workers(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, 'mine', Model(make_gru, 'my own'))
    monkeypatch.setitem(TASKS, 'short', AddingProblem)
    results = study(tiny(models=('mine', 'lstm'), task='short'), tmp_path/'a', 'cpu', workers=2, progress=False)
    assert [r['status'] for r in results['runs']] == ['finished']*2
    assert '| mine' in table(results) and len(plot(results, tmp_path/'a')) == 4

@pytest.mark.parametrize('workers', [1, 2])
def test_an_addition_that_cannot_reach_them_is_refused_before_training(workers, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, 'mine', lambda input_size, hidden_size: nn.GRU(input_size, hidden_size))
    plan = tiny(models=('mine', 'lstm'))
    if workers == 1: assert len(study(plan, tmp_path/'a', 'cpu', progress=False)['runs']) == 2
    else:
        with pytest.raises(ValueError, match="'mine'.*module:name"): study(plan, tmp_path/'a', 'cpu', workers=2, progress=False)
        assert not (tmp_path/'a').exists()

def test_every_network_has_a_colour():
    names = [f'net{i}' for i in range(25)]
    assert set(palette(names)) == set(names) and len(set(palette(names[:20]).values())) == 20


# ---- what was wrong in the first version -------------------------------------------------------------------------------

def test_plot_and_table_read_a_results_file(here, tmp_path):
    done = here('plot', ROOT/'results/digits.json', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    assert '| root-rotation' in done.stdout and len(list((tmp_path/'digits').glob('*.png'))) == 4
    both = here('table', ROOT/'results/digits.json', ROOT/'results/copy.json')
    assert both.returncode == 0 and both.stdout.count('| network') == 3 and 'side by side' in both.stdout
    other = here('table', ROOT/'results/nothing.json')
    assert other.returncode == 2 and 'nothing.json' in other.stderr and 'Traceback' not in other.stderr

def test_a_damaged_results_file_is_named(here, tmp_path):
    (tmp_path/'results.json').write_text('{"plan"')
    done = here('table', tmp_path)
    assert done.returncode == 2 and 'results.json' in done.stderr and 'Traceback' not in done.stderr

def test_without_matplotlib_it_says_so_before_training(tmp_path):
    (tmp_path/'lib/matplotlib').mkdir(parents=True)
    (tmp_path/'lib/matplotlib/__init__.py').write_text("raise ImportError('no matplotlib here')")
    paths = os.pathsep.join([str(tmp_path/'lib'), *filter(None, [os.environ.get('PYTHONPATH')])])
    options = dict(env={'PYTHONPATH': paths}, cwd=tmp_path)
    done = run('study', *TINY, '--name', 'x', **options)
    assert done.returncode == 2 and 'matplotlib' in done.stderr and '--no-plots' in done.stderr
    assert not (tmp_path/'runs').exists()
    done = run('study', *TINY, '--name', 'x', '--no-plots', **options)
    assert done.returncode == 0 and '| irnn-1' in done.stdout, done.stderr

def test_a_run_on_another_task_has_its_name(here, tmp_path):
    for name in ('adding', 'adding-2'):
        done = here('study', *TINY, '--models', 'rnn', '--no-plots', cwd=tmp_path)
        assert done.returncode == 0 and (tmp_path/'runs'/name/'results.json').exists(), done.stderr

@pytest.mark.parametrize('wrong, named', [(['--hidden', '3', '--task', 'digits', '--models', 'root-rotation'], 'hidden_size'),
                                          (['--task', 'adding:length=1.5'], '1.5'), (['--task', 'har2'], 'UCI HAR'),
                                          (['--task', 'text:path=/none'], '/none'), (['--threads', '100000'], '100000'),
                                          (['--task', 'nowhere:task'], 'nowhere'), (['--models', 'math:pi'], 'math:pi'),
                                          (['--models', 'nowhere:Net'], 'nowhere')])
def test_a_mistake_exits_with_2_and_leaves_no_folder(here, wrong, named, tmp_path):
    done = here('study', '--name', 'b2', '--seeds', '2', '--epochs', '1', '--workers', 1 + (named == 'UCI HAR'), *wrong, cwd=tmp_path, env={'DEQ_IRNN_DATA': str(tmp_path)})
    assert done.returncode == 2 and named in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert not (tmp_path/'runs/b2').exists()

def test_a_divergence_is_a_result(here, tmp_path):
    "With a loss that is not finite: exit 0 and a warning; with --strict, 1."
    (tmp_path/'bad.py').write_text('''
import math
from deq_irnn.tasks import AddingProblem
class Task(AddingProblem):
    name = 'bad'
    def __init__(self): super().__init__(6, 64, 32)
    def loss(self, out, y): return super().loss(out, y)*math.inf
''')
    options = ['--task', 'bad:Task', '--models', 'rnn', '--seeds', '1', '--epochs', '1', '--hidden', '4', '--no-plots']
    for strict in (False, True):
        done = here('study', *options, *['--strict']*strict, cwd=tmp_path)
        assert done.returncode == strict and 'warning: rnn seed 0 diverged' in done.stderr, done.stderr

def test_a_model_of_its_own_that_fails_is_reported_and_the_others_go_on(here, tmp_path):
    (tmp_path/'frail.py').write_text('''
from torch import nn
class Net(nn.GRU):
    def __init__(self, input_size, hidden_size): super().__init__(input_size, hidden_size)
    def forward(self, *a): raise OverflowError('my own mistake')
''')
    done = here('study', '--task', 'adding:length=6,train_size=64,test_size=32', '--models', 'frail:Net,rnn', '--seeds', '1', '--epochs', '1', '--hidden', '4', cwd=tmp_path)
    assert done.returncode == 1 and 'my own mistake' in done.stderr and '| rnn' in done.stdout
    assert {r['status'] for r in json.loads((tmp_path/'runs/adding/results.json').read_text())['runs']} == {'finished', 'failed'}
    chosen = here('study', '--task', 'adding:length=6,train_size=64,test_size=32', '--models', 'frail:Net,rnn', '--seeds', '1', '--epochs', '1', '--hidden', '4',
                  '--lr', '1e-3,1e-2', '--trial-epochs', '1', '--name', 'b', '--workers', '1', cwd=tmp_path)
    assert chosen.returncode == 1 and 'my own mistake' in chosen.stderr and 'failed' in chosen.stdout
    assert {r['model'] for r in read_results(tmp_path/'runs/b')['runs']} == {'rnn'}                 # nothing to choose from, so it is not trained

def test_a_killed_worker_is_told(here, tmp_path):
    (tmp_path/'dying.py').write_text('''
import os
from torch import nn
class Net(nn.GRU):
    def __init__(self, input_size, hidden_size): super().__init__(input_size, hidden_size)
    def forward(self, *a): os._exit(9)
''')
    done = here('study', '--task', 'adding:length=6,train_size=64,test_size=32', '--models', 'dying:Net', '--seeds', '2', '--epochs', '1', '--workers', 2, cwd=tmp_path)
    assert done.returncode == 1 and 'killed' in done.stderr and '--resume' in done.stderr

@pytest.mark.skipif(not shutil.which('deq-irnn', path=str(Path(sys.executable).parent)), reason='not installed')
def test_the_console_script_is_there():
    done = subprocess.run([Path(sys.executable).parent/'deq-irnn', '--version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('deq_irnn ')

def test_numbers_that_are_none_can_be_shown(tmp_path):
    results = study(tiny(), tmp_path/'a', 'cpu', progress=False)
    results['runs'][0]['history'][-1]['metric'] = None                 # what JSON has for NaN
    write_json(tmp_path/'a/results.json', results)
    results = read_results(tmp_path/'a')
    assert 'nan' in table(results) and len(plot(results, tmp_path/'a')) == 4

def test_a_preset_with_a_command_of_its_own(capsys):
    assert main(['study', '--preset', 'words', '--list']) == 0
    assert 'a5' in capsys.readouterr().out
    assert main(['study', '--preset=words', '--seeds', '0']) == 2 and '--seeds' in capsys.readouterr().err
    assert main(['study', '--list']) == 0 and 'words' in capsys.readouterr().out
    assert main(['study', '--preset', 'word']) == 2 and 'digits' in capsys.readouterr().err


# ---- learning rates, seeds, clip, tolerance; several files; times ------------------------------------------------------

@pytest.fixture(scope='module')
def chosen(tmp_path_factory):
    "A study that chose its learning rates."
    out = tmp_path_factory.mktemp('chosen')
    done = run('study', '--models', 'rnn,mlp/rotation/input,equilibrium/minus/none', '--lr', '1e-5,1e-2', '--trial-epochs', 2, '--seeds', '3-4', '--epochs', 2,
               '--clip', 'none', '--tol', '1e-2', '--params', 300, '--task', 'adding:length=6,train_size=64,test_size=40', '--workers', 2, '--out', out, '--name', 'a')
    assert done.returncode == 0, done.stderr
    return out/'a', done

def test_each_network_gets_its_learning_rate_from_held_out_data(chosen):
    folder, done = chosen
    results = read_results(folder)
    assert len(results['trials']) == 6 and {t['seed'] for t in results['trials']} == {1000}
    for name in results['plan']['models']:
        best = min((t for t in results['trials'] if t['model'] == name), key=lambda t: t['metric'])['lr']
        assert {r['lr'] for r in results['runs'] if r['model'] == name} == {best}
    assert {r['seed'] for r in results['runs']} == {3, 4} and results['plan']['clip'] is None and results['plan']['tol'] == .01
    assert 'chosen' in done.stdout and 'about' in done.stderr and 'process' in done.stderr
    assert abs(results['runs'][0]['parameters'] - 300) < 60
    assert all('valid_loss' not in row for r in results['runs'] for row in r['history'])           # the runs train on all of it

def test_a_study_that_chose_is_resumed_without_trying_again(here, chosen):
    folder, _ = chosen
    before = read_results(folder)['trials']
    more = here('study', '--resume', '--out', folder.parent, '--name', 'a', '--seeds', '3-5', '--workers', '1')
    assert more.returncode == 0, more.stderr
    results = read_results(folder)
    assert results['trials'] == before and {r['seed'] for r in results['runs']} == {3, 4, 5}
    other = here('study', '--resume', '--out', folder.parent, '--name', 'a', '--clip', '2')
    assert other.returncode == 2 and 'clip' in other.stderr

def test_differences_trials_and_values_for_a_spreadsheet(here, chosen):
    folder, _ = chosen
    paired = here('table', folder, '--against', 'rnn')
    assert paired.returncode == 0 and '95 % interval' in paired.stdout and 'mlp/rotation/input' in paired.stdout
    unknown = here('table', folder, '--against', 'lstm')
    assert unknown.returncode == 2 and "'lstm'" in unknown.stderr
    assert 'chosen' in here('table', folder, '--trials').stdout
    lines = here('table', folder, ROOT/'results/digits.json', '--csv').stdout.splitlines()
    assert lines[0].startswith('file,task') and len(lines) == 1 + sum(len(read_results(p)['runs']) for p in (folder, ROOT/'results/digits.json'))

def test_a_spreadsheet_of_any_results_and_of_several(capsys):
    for files in ([p] for p in sorted((ROOT/'results').glob('*.json'))):
        assert main(['table', *map(str, files), '--csv']) == 0
        head, *rows = csv.reader(capsys.readouterr().out.splitlines())
        assert head[0] == 'file' and rows and all(len(row) == len(head) and row[0] == files[0].stem for row in rows)
    assert main(['table', str(ROOT/'results/words.json'), str(ROOT/'results/digits.json'), '--csv']) == 0
    head, *rows = csv.reader(capsys.readouterr().out.splitlines())
    words = [dict(zip(head, row)) for row in rows if row[0] == 'words']
    far = next(r for r in words if (r['task'], r['model'], r['seed'], r['length']) == ('a5', 'householder-5', '0', '10000'))
    assert far['accuracy'] == '1.0' and far['trained'] == '32' and {row[0] for row in rows} == {'words', 'digits'}

def test_a_closed_pipe_is_no_error():
    files = ' '.join(str(ROOT/f'results/{name}.json') for name in ('words', 'scan', 'words', 'digits'))
    done = subprocess.run(f'{sys.executable} -m deq_irnn.study table {files} | head -1', shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count('\n') == 1 and 'BrokenPipe' not in done.stderr and 'Traceback' not in done.stderr

def test_the_list_can_be_read(capsys):
    assert main(['study', '--list']) == 0
    text = capsys.readouterr().out
    assert '@' not in text and 'permuted=True' in text and max(map(len, text.splitlines())) < 150
    with pytest.raises(SystemExit): parser().parse_args(['study', '--preset', 'nothing'])
    error = capsys.readouterr().err
    assert "got 'nothing'" in error and all(preset in error for preset in (*PRESETS, 'words', 'memory'))

def test_a_model_that_cannot_be_made_is_named(tmp_path, monkeypatch, capsys):
    class Wants(torch.nn.Module):
        def __init__(self, input_size, hidden_size): super().__init__(); self.rnn = torch.nn.GRU(input_size, 'many')
    monkeypatch.setitem(MODELS, 'wants', Model(lambda F, D, T: Wants(F, D), 'a mistake'))
    assert main(['study', '--models', 'wants,lstm', '--task', 'adding:length=5', '--out', str(tmp_path), '--no-plots', '--workers', '1']) == 2
    assert "model 'wants' cannot be made" in capsys.readouterr().err and not list(tmp_path.iterdir())

@pytest.mark.parametrize('name', sorted(p.name for p in (ROOT/'results').glob('*.json')))
def test_every_shipped_results_file_is_read(name, here, tmp_path):
    done = here('table', ROOT/'results'/name)
    assert done.returncode == 0 and '|--' in done.stdout, done.stderr
    drawn = here('plot', ROOT/'results'/name, '--out', tmp_path)
    if '| network' in done.stdout or name.startswith(('words', 'memory', 'demo')): assert drawn.returncode == 0 and list(tmp_path.rglob('*.png')), drawn.stderr
    else: assert drawn.returncode == 2 and 'no picture' in drawn.stderr and name in drawn.stderr

def test_several_studies_side_by_side(here, tmp_path):
    files = [ROOT/f'results/{name}.json' for name in ('copy', 'padded', 'adding')]
    done = here('plot', *files, '--to', tmp_path)
    assert done.returncode == 0 and (tmp_path/'side_by_side.png').stat().st_size > 5000, done.stderr
    assert '| network' in done.stdout and 'padded, accuracy' in done.stdout

def test_times_are_measured_apart_and_kept(here, chosen):
    folder, _ = chosen
    done = here('time', folder, '--rounds', 3)
    assert done.returncode == 0 and 'ms a step' in done.stdout, done.stderr
    results = read_results(folder)
    assert set(results['times']) == set(results['plan']['models'])
    assert 'measured apart' in here('table', folder).stdout
    times = results['times']['rnn']
    assert times['min'] <= times['step'] <= times['max'] and times['rounds'] == 3

def test_finalists(tmp_path):
    plan = tiny(models=('rnn', 'lstm', 'gru'), lr=(1e-5, 1e-2), trial_epochs=1, finalists=1, always=('gru',))
    results = study(plan, tmp_path/'a', 'cpu', progress=False)
    assert {r['model'] for r in results['runs']} >= {'gru'} and len(results['runs']) in (1, 2) and len(results['trials']) == 6

def test_an_interrupted_choice_goes_on_where_it_was(tmp_path, monkeypatch):
    plan = tiny(models=('rnn', 'lstm'), lr=(1e-5, 1e-2), trial_epochs=1)
    whole = study(plan, tmp_path/'whole', 'cpu', progress=False)
    calls = []
    import deq_irnn.study as module
    def cut(job, tell):
        calls.append(job)
        if len(calls) == 3: raise KeyboardInterrupt
        return job.run(tell)
    with monkeypatch.context() as m:
        m.setattr(module, 'do_job', cut)
        with pytest.raises(KeyboardInterrupt): study(plan, tmp_path/'cut', 'cpu', progress=False)
    assert len(read_results(tmp_path/'cut')['trials']) == 2
    again = study(plan, tmp_path/'cut', 'cpu', progress=False)
    def facts(results): return [(t['model'], t['lr'], t['metric']) for t in results['trials']], [(r['model'], r['lr'], r['scores']) for r in results['runs']]
    assert facts(again) == facts(whole)

def test_the_tolerance_reaches_a_model_of_ones_own(tmp_path):
    results = study(tiny(models=('equilibrium/minus/none',), tol=1e-6), tmp_path/'a', 'cpu', progress=False)
    loose = study(tiny(models=('equilibrium/minus/none',), tol=1e-1), tmp_path/'b', 'cpu', progress=False)
    assert results['runs'][0]['history'][0]['residual'] < 1e-5 < loose['runs'][0]['history'][0]['residual']

@pytest.mark.parametrize('wrong', [dict(lr=()), dict(lr=(1e-3, 0)), dict(seeds=()), dict(seeds=(1, -1)), dict(tol=0), dict(finalists=0), dict(models=('mlp/x/state',)), dict(clip=-1)])
def test_a_wrong_plan_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)): tiny(**wrong)
