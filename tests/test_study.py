"The command line, as a user types it: a tiny run, its folder, wrong options, interruption, resumption."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from conftest import hearing
from deq_irnn.study import Plan, run_one

COMMAND = [Path(sys.executable).parent/'deq-irnn']
TINY = ['--models', 'irnn-1,root-rotation', '--seeds', '1', '--epochs', '1', '--hidden', '8', '--task', 'adding:length=6,train_size=64,test_size=32', '--workers', '1']

def run(*args, **options):
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'OMP_NUM_THREADS': '1'}
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, env=env, timeout=120, **options)

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

def test_an_existing_folder_is_not_overwritten(folder):
    before = (folder/'tiny/results.json').read_bytes()
    again = run('study', *TINY, '--out', folder, '--name', 'tiny')
    assert again.returncode == 2 and '--resume' in again.stderr and '--name' in again.stderr
    assert (folder/'tiny/results.json').read_bytes() == before

def test_resume_adds_what_is_missing(folder):
    more = run('study', '--resume', '--out', folder, '--name', 'tiny', '--models', 'irnn-1,root-rotation,rnn', '--workers', '1')
    assert more.returncode == 0, more.stderr
    assert {r['model'] for r in json.loads((folder/'tiny/results.json').read_text())['runs']} == {'irnn-1', 'root-rotation', 'rnn'}

def test_what_tell_returns_does_not_stop_the_training(tmp_path):
    plan = Plan('', 'adding', ('irnn-1',), dict(length=6, train_size=64, test_size=32), seeds=1, hidden=8, epochs=3)
    assert len(run_one(plan, 'irnn-1', 0, tmp_path, 'cpu', tell=lambda: True)['history']) == 3

def test_plot(folder):
    (folder/'tiny/gradient.png').unlink()
    assert run('plot', folder/'tiny').returncode == 0 and (folder/'tiny/gradient.png').exists()
    missing = run('plot', folder/'nothing')
    assert missing.returncode == 2 and 'results.json' in missing.stderr

def test_help_explains_every_option():
    text = run('study', '--help').stdout
    for option in 'preset models task seeds epochs batch-size lr hidden params device threads out name resume save list'.split(): assert f'--{option}' in text
    assert '130' in run('--help').stdout + text                          # exit codes

@pytest.mark.parametrize('wrong, named', [(['--models', 'lstn'], 'lstn'), (['--seeds', '-1'], '-1'), (['--task', 'adding:size=3'], 'size'), (['--preset', 'all'], 'all'),
                                          (['--device', 'tpu'], 'tpu'), (['--lr', 'fast'], 'fast'), (['--colour', 'red'], '--colour')])
def test_wrong_options_name_themselves(wrong, named, tmp_path):
    done = run('study', *wrong, '--out', tmp_path)
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
