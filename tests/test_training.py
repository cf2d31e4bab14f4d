"""Training: settings, divergence, checkpoints, kill -9 and resume to the bit, Ctrl-C, two processes against one."""
import builtins, json, math, os, pickle, shutil, signal, subprocess, sys, threading

import pytest
import torch
from torch import nn

import deq_irnn.training as training
from conftest import hearing
from deq_irnn.fixed_point import ConvergenceError, Solution, SolvingModule, Status
from deq_irnn.tasks import AddingProblem, Split, Task, get_task
from deq_irnn.training import (SCHEDULES, History, SequenceModel, Settings, Team, TrainingDiverged,
                               append_row, evaluate, fit, learning_rate, load_checkpoint,
                               save_checkpoint, solutions)

quick = dict(progress=False, device='cpu')


def small(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return SequenceModel(nn.GRU(2, 8, num_layers=2, dropout=dropout, batch_first=True), 1)


def adding(**k): return AddingProblem(**dict(dict(length=12, train_size=200, test_size=50), **k))
def same(a, b): return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


# ---- model and settings -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('rnn', [nn.LSTM(3, 8, batch_first=True), nn.GRU(3, 8), nn.RNN(3, 8, num_layers=2, bidirectional=True), nn.LSTM(3, 8, proj_size=4),
                                 nn.GRU(3, 8, bidirectional=True, batch_first=True)])
def test_sequence_model_answers_from_final_states(rnn):
    torch.manual_seed(0)
    model, x = SequenceModel(rnn, 5), torch.randn(4, 9, 3)
    h = rnn(x if rnn.batch_first else x.transpose(0, 1))[1]
    h = h[0] if isinstance(h, tuple) else h
    final = torch.cat([h[-2], h[-1]], -1) if rnn.bidirectional else h[-1]
    assert torch.allclose(model(x), model.head(final), atol=1e-6)
    assert SequenceModel(rnn, 5, read=3)(x).shape == (4, 3, 5)


@pytest.mark.parametrize('wrong, error', [
    (dict(epochs=0), ValueError), (dict(epochs=1.5), TypeError), (dict(batch_size=0), ValueError), (dict(lr=0), ValueError), (dict(lr=math.nan), ValueError),
    (dict(weight_decay=-1), ValueError), (dict(clip=0), ValueError), (dict(schedule='fast'), ValueError), (dict(warmup=1.), ValueError),
    (dict(validation=-.1), ValueError), (dict(patience=0), ValueError), (dict(seed=-1), ValueError), (dict(device='abacus'), ValueError),
    (dict(autocast='yes'), ValueError), (dict(compile='fast'), ValueError)])
def test_wrong_settings_name_themselves(wrong, error):
    (name, value), = wrong.items()
    with pytest.raises(error, match=name) as e: Settings(**wrong)
    assert str(value) in str(e.value)


def test_settings_are_plain():
    s = Settings(lr=1e-2)
    assert pickle.loads(pickle.dumps(s)) == s and 'lr=0.01' in repr(s)
    with pytest.raises(TypeError): fit(small(), adding(), epoch=3)


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules(name):
    s = Settings(lr=2., schedule=name, warmup=.25)
    rates = [learning_rate(s, i, 100) for i in range(100)]
    assert rates[0] < .1 and all(0 < r <= 2 for r in rates) and rates[:25] == sorted(rates[:25])
    assert all(a >= b for a, b in zip(rates[25:], rates[26:])) and learning_rate(Settings(lr=2., schedule=name), 0, 100) == 2.


def test_the_learning_rate_of_a_run_is_that_of_the_schedule():
    task, settings = adding(train_size=64), Settings(epochs=3, batch_size=16, warmup=.2)
    history = fit(small(), task, settings, **quick)
    assert history['lr'] == pytest.approx([learning_rate(settings, 4*e + 3, 12) for e in range(3)], rel=1e-12)


def test_a_network_without_a_width_says_so():
    class Bare(nn.Module):
        def forward(self, x): return x, None
    with pytest.raises(ValueError, match='features must be given: Bare'): SequenceModel(Bare(), 3)
    assert SequenceModel(Bare(), 3, features=2)(torch.randn(5, 7, 2)).shape == (5, 3)


# ---- fit --------------------------------------------------------------------------------------------------------------------------

def test_it_learns_digits():
    torch.manual_seed(0)
    task = get_task('digits')
    model = SequenceModel(nn.LSTM(1, 32, batch_first=True), 10)
    history = fit(model, task, epochs=8, lr=1e-2, **quick)
    assert history[-1]['metric'] > .5 and history[-1]['train_loss'] < history[0]['train_loss'] and not model.training
    result = evaluate(model, task, task.train_test()[1])
    assert result['metric'] == pytest.approx(history[-1]['metric'], abs=1e-6) and result['loss'] == pytest.approx(history[-1]['test_loss'])


@pytest.mark.parametrize('name, options', [('copy', dict(delay=3, items=2)), ('padded_digits', dict(length=12)), ('text', dict(length=20, chars=5000)),
                                           ('adding', dict(length=10))])
def test_every_kind_of_task_trains(name, options):
    task = get_task(name, **options)
    torch.manual_seed(0)
    model = SequenceModel(nn.GRU(task.input_size, 8), task.output_size, read=task.read)
    row = fit(model, task, epochs=1, batch_size=64, **quick)[-1]
    assert math.isfinite(row['train_loss']) and {'epoch', 'step', 'lr', 'test_loss', 'metric', 'grad_norm', 'seconds'} <= set(row)


def test_fit_is_reproducible_and_leaves_the_global_random_state_alone():
    a, b = small(), small()
    state = torch.get_rng_state()
    fit(a, adding(), epochs=2, **quick)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    fit(b, adding(), epochs=2, **quick)
    assert same(a, b)
    c = small(); fit(c, adding(), epochs=2, seed=1, **quick)
    assert not same(a, c)


def test_one_step_is_adamw_by_hand():
    task = adding(train_size=16)
    a, b = small(dropout=0.), small(dropout=0.)
    fit(a, task, epochs=1, batch_size=16, clip=.01, lr=.1, weight_decay=.1, **quick)
    split = task.refresh(task.train_test(0)[0], 0, 0)
    optimizer = torch.optim.AdamW(b.parameters(), lr=.1, weight_decay=.1)
    task.loss(b(split.x), split.y).backward(); nn.utils.clip_grad_norm_(b.parameters(), .01); optimizer.step()
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(a.parameters(), b.parameters()))


def test_early_stopping_watches_held_out_samples_only():
    class Noise(Task):                                      # labels without any relation to x: only learnable by heart
        name, input_size, output_size, length, chance = 'noise', 2, 2, 5, .5
        def train_test(self, seed=0):
            g = torch.Generator().manual_seed(0)
            split = Split(torch.randn(80, 5, 2, generator=g), torch.randint(2, (80,), generator=g))
            return split, split                             # the test loss falls all the time
    torch.manual_seed(0)
    history = fit(SequenceModel(nn.GRU(2, 32), 2), Noise(), epochs=60, lr=2e-2, schedule='constant', validation=.25, patience=3, **quick)
    assert len(history) < 60 and history.stale(3) and history[-1]['test_loss'] < history[0]['test_loss']
    assert min(history['valid_loss'][-3:]) >= min(history['valid_loss'][:-3])


def test_history():
    h = History([dict(epoch=0, train_loss=3.), dict(epoch=1, train_loss=2.), dict(epoch=2, train_loss=2.5)])
    assert h['train_loss'] == [3., 2., 2.5] and h['nothing'] == [None]*3 and h[-1]['epoch'] == 2
    assert h.stale(1) and not h.stale(2) and not h.stale(None) and json.loads(json.dumps(h)) == list(h)


def test_callbacks_see_every_epoch_and_can_stop(tmp_path):
    path, seen = tmp_path/'rows.jsonl', []
    path.write_text('{"epoch": "an older one"}\n')
    def stop(model, history): seen.append(len(history)); return len(history) == 2
    history = fit(small(), adding(), epochs=9, callbacks=[stop, append_row(path)], **quick)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert seen == [1, 2] and rows[0]['epoch'] == 'an older one' and rows[1:] == list(history)


def test_progress_with_and_without_tqdm(capsys, monkeypatch):
    fit(small(), adding(), epochs=1, device='cpu', progress='GRU')
    assert 'GRU' in capsys.readouterr().err
    real = builtins.__import__
    def no_tqdm(name, *a, **k):
        if name == 'tqdm': raise ImportError(name)
        return real(name, *a, **k)
    monkeypatch.setattr(builtins, '__import__', no_tqdm)
    fit(small(), adding(), epochs=2, device='cpu', progress='GRU')
    assert capsys.readouterr().err.count('GRU epoch') == 2
    fit(small(), adding(), epochs=1, **quick)
    assert capsys.readouterr().err == ''


def test_autocast():
    seen = []
    model = small(); model.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    history = fit(model, adding(), epochs=1, autocast=True, **quick)
    assert set(seen) == {torch.bfloat16} and math.isfinite(history[-1]['metric']) and next(model.parameters()).dtype == torch.float32


def test_float64_model():
    model = small().double()
    class Double(AddingProblem):
        def loss(self, out, y): return super().loss(out, y.double())
    assert math.isfinite(fit(model, Double(10, train_size=50, test_size=10), epochs=1, **quick)[-1]['train_loss'])


def test_compile_is_passed_on_and_the_checkpoint_is_that_of_the_model(tmp_path, monkeypatch):
    calls = []
    def compile(model, mode=None): calls.append(mode); return lambda x: model(x)
    monkeypatch.setattr(torch, 'compile', compile)
    for value in (True, 'reduce-overhead'): fit(small(), adding(), epochs=1, compile=value, checkpoint=tmp_path/f'{value}.pt', **quick)
    assert calls == [None, 'reduce-overhead'] and set(load_checkpoint(tmp_path/'True.pt')['model']) == set(small().state_dict())


class Tiny(nn.Module):
    "A recurrent network that torch.compile sees through."
    hidden_size, batch_first = 4, True
    def __init__(self): super().__init__(); self.lift = nn.Linear(2, 4)
    def forward(self, x): return self.lift(x).cumsum(1), None


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='torch.compile needs a C++ compiler')
def test_compiled_equals_plain():
    torch.manual_seed(0); a = SequenceModel(Tiny(), 1)
    torch.manual_seed(0); b = SequenceModel(Tiny(), 1)
    task = adding(train_size=64)
    x, y = fit(a, task, epochs=2, **quick), fit(b, task, epochs=2, compile=True, **quick)
    assert x['train_loss'] == pytest.approx(y['train_loss'], rel=1e-4)


# ---- solvers and divergence -------------------------------------------------------------------------------------------------------

def _solution(residual, iterations=3):
    r = torch.tensor(residual)
    return Solution(None, r < 1e-3, torch.full(r.shape, iterations), r, iterations, torch.where(r < 1e-3, Status.CONVERGED, Status.MAX_ITER))


class Layer(SolvingModule):
    "A layer that says it solved something."
    def forward(self, x, sol):
        self.solution = sol
        return x


class Solving(nn.Module):
    "A recurrent network of three solving layers, of which two solve together and one is never called."
    hidden_size, batch_first = 4, True
    def __init__(self, fail_at=None):
        super().__init__()
        self.lift, self.calls, self.fail_at = nn.Linear(2, 4), 0, fail_at
        self.layers = nn.ModuleList(Layer() for _ in range(4))
    def forward(self, x):
        self.calls += 1
        shared = _solution([1e-5, 2e-2], 7)
        if self.calls == self.fail_at: raise ConvergenceError('solve: 1 of 2 samples did not converge', shared)
        for layer, sol in zip(self.layers, (_solution([1e-4, 1e-6]), shared, shared)): x = layer(x, sol)
        return self.lift(x).cumsum(1), None


def test_solver_numbers_reach_the_history():
    model = SequenceModel(Solving(), 1)
    assert solutions(model) == []
    history = fit(model, adding(), epochs=2, **quick)
    assert len(solutions(model)) == 2                        # the shared one counts once
    assert history[-1]['residual'] == pytest.approx(2e-2) and history[-1]['iterations'] == 5 and history[-1]['unconverged'] == .25
    assert 'residual' not in fit(small(), adding(), epochs=1, **quick)[-1]


class Poisoned(AddingProblem):
    "An adding problem whose loss is not finite at one step."
    calls, at, bad = 0, 5, math.nan
    def loss(self, out, y):
        self.calls += torch.is_grad_enabled()
        return super().loss(out, y)*(self.bad if torch.is_grad_enabled() and self.calls == self.at else 1.)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_divergence_stops_before_the_step_with_a_report(bad, tmp_path):
    task, model = Poisoned(12, train_size=200, test_size=20), small()
    task.bad = bad
    with pytest.raises(TrainingDiverged) as e: fit(model, task, epochs=3, batch_size=50, checkpoint=tmp_path/'m.pt', **quick)
    r = e.value.report
    assert (r['epoch'], r['step']) == (1, 4) and not math.isfinite(r['loss']) and set(r['grad_norms']) == {n for n, _ in model.named_parameters()}
    assert r['lr'] > 0 and 'head.weight' in r['not_finite'] and 'step 4' in str(e.value) and 'learning rate' in str(e.value)
    assert all(p.isfinite().all() for p in model.parameters()) and len(load_checkpoint(tmp_path/'m.pt')['history']) == 1
    assert pickle.loads(pickle.dumps(e.value)).report.keys() == r.keys()


def test_divergence_reports_the_residual_and_a_solver_that_raises():
    task = Poisoned(12, train_size=200, test_size=20)
    with pytest.raises(TrainingDiverged, match='worst residual 2.0e-02') as e: fit(SequenceModel(Solving(), 1), task, epochs=3, batch_size=50, **quick)
    assert e.value.report['residual'] == pytest.approx(2e-2) and e.value.report['iterations'] == 5
    with pytest.raises(TrainingDiverged, match='did not converge') as e: fit(SequenceModel(Solving(fail_at=3), 1), adding(), epochs=1, **quick)
    assert isinstance(e.value.__cause__, ConvergenceError) and len(e.value.report['recent_losses']) == 2


# ---- checkpoints ------------------------------------------------------------------------------------------------------------------

def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path/'deep'/'m.pt'
    save_checkpoint(path, epoch=1)
    def half(content, f, *a): f.write(b'half'); raise OSError('disk full')
    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError): save_checkpoint(path, epoch=2)
    assert load_checkpoint(path) == {'epoch': 1} and [p.name for p in path.parent.iterdir()] == ['m.pt']


def test_loading_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/ran',)
    torch.save({'model': Evil()}, tmp_path/'evil.pt')
    with pytest.raises(ValueError, match='evil.pt'): load_checkpoint(tmp_path/'evil.pt')
    with pytest.raises(ValueError, match='evil.pt'):
        fit(small(), adding(), checkpoint=tmp_path/'evil.pt', resume=True, **quick)
    assert not (tmp_path/'ran').exists()


def test_existing_checkpoints_are_never_overwritten_silently(tmp_path):
    path = tmp_path/'m.pt'
    done = small(); fit(done, adding(), epochs=2, checkpoint=path, **quick)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match='resume=True'): fit(small(), adding(), epochs=2, checkpoint=path, **quick)
    with pytest.raises(ValueError, match='lr: 0.003 there, 0.1 here'): fit(small(), adding(), epochs=2, lr=.1, checkpoint=path, resume=True, **quick)
    with pytest.raises(ValueError, match="task: 'adding' there, 'copy' here"): fit(small(), get_task('copy'), epochs=2, checkpoint=path, resume=True, **quick)
    again = small(seed=5)
    history = fit(again, adding(), epochs=2, checkpoint=path, resume=True, **quick)      # nothing left to do
    assert len(history) == 2 and same(done, again) and path.read_bytes() == before
    content = load_checkpoint(path, small())
    assert content['settings']['epochs'] == 2 and content['made']['task']['task'] == 'adding' and content['versions']['torch'] == str(torch.__version__)


# each of the following fails on the first version of the library
@pytest.mark.parametrize('other, words', [
    (dict(task=dict(length=13)), 'length: 12 there, 13 here'),
    (dict(task=dict(train_size=201)), 'train_size: 200 there, 201 here'),
    (dict(model=lambda: nn.RNN(2, 8, nonlinearity='relu', batch_first=True)), "mode: 'RNN_TANH' there, 'RNN_RELU' here"),
    (dict(model=lambda: nn.RNN(2, 8, batch_first=True, dropout=0., bidirectional=False)), None)])
def test_a_checkpoint_of_another_task_or_network_is_refused(other, words, tmp_path):
    def model(make=lambda: nn.RNN(2, 8, batch_first=True)):
        torch.manual_seed(0)
        return SequenceModel(make(), 1)
    fit(model(), adding(), epochs=1, checkpoint=tmp_path/'m.pt', **quick)
    def again():
        task = adding(**other.get('task', {}))
        fit(model(**({'make': other['model']} if 'model' in other else {})), task, epochs=1,
            checkpoint=tmp_path/'m.pt', resume=True, **quick)
    if words is None: again()
    else:
        with pytest.raises(ValueError, match=words): again()


@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b[:-60], lambda b: b'PK' + b[2:300], lambda b: b'no checkpoint'])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    path = tmp_path/'hurt.pt'
    fit(small(), adding(), epochs=1, checkpoint=path, **quick)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match='hurt.pt'): load_checkpoint(path)
    with pytest.raises(ValueError, match='hurt.pt'): fit(small(), adding(), epochs=2, checkpoint=path, resume=True, **quick)


def test_a_checkpoint_of_other_weights_or_of_nothing_is_named(tmp_path):
    save_checkpoint(tmp_path/'a.pt', model=nn.Linear(2, 3).state_dict())
    save_checkpoint(tmp_path/'b.pt', epoch=1)
    for name in ('a.pt', 'b.pt'):
        with pytest.raises(ValueError, match=name): load_checkpoint(tmp_path/name, small())
    with pytest.raises(FileNotFoundError): load_checkpoint(tmp_path/'c.pt')


def test_two_writers_of_one_checkpoint_do_not_mix(tmp_path, monkeypatch):
    "Both are in the middle of writing at the same time; each writes a file of its own."
    path, real, meet, errors = tmp_path/'m.pt', torch.save, threading.Barrier(2, timeout=30), []
    def save(content, file):
        meet.wait()
        real(content, file)
        meet.wait()
    monkeypatch.setattr(torch, 'save', save)
    def write(k):
        try: save_checkpoint(path, who=k, x=torch.full((10_000,), k))
        except Exception as e: errors.append(e)
    threads = [threading.Thread(target=write, args=(k,)) for k in (1, 2)]
    for t in threads: t.start()
    for t in threads: t.join()
    content = load_checkpoint(path)
    assert not errors and (content['x'] == content['who']).all() and [p.name for p in tmp_path.iterdir()] == ['m.pt']


_script = '''
import os, sys, torch
from torch import nn
from deq_irnn.tasks import AddingProblem
from deq_irnn.training import SequenceModel, fit, save_checkpoint
torch.set_num_threads(1)
torch.manual_seed(0)
path, die_at = sys.argv[1], int(sys.argv[2])
class Task(AddingProblem):
    steps = 0
    def loss(self, out, y):
        self.steps += torch.is_grad_enabled()
        if self.steps == die_at:
            print('in the middle', flush=True)
            import time; time.sleep(120)                     # here we are killed
        return super().loss(out, y)
model = SequenceModel(nn.GRU(2, 8, num_layers=2, dropout=.2, batch_first=True), 1)
history = fit(model, Task(12, train_size=200, test_size=50), epochs=4, batch_size=20, checkpoint=path, resume=True, progress=False, device='cpu')
save_checkpoint(path + '.final', model=model.state_dict(), losses=history['train_loss'], metric=history['metric'])
'''


def _start(tmp_path, name, die_at):
    script = tmp_path/'script.py'; script.write_text(_script)
    return subprocess.Popen([sys.executable, str(script), str(tmp_path/name), str(die_at)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)


def _finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT] if os.name == 'posix' else [])
def test_killed_in_mid_epoch_and_resumed_is_the_same_to_the_bit(tmp_path, how):
    whole, hurt = _start(tmp_path, 'whole.pt', -1), _start(tmp_path, 'hurt.pt', 25)          # step 25 is in the middle of the third epoch
    assert 'in the middle' in hurt.stdout.readline()
    hurt.send_signal(how); hurt.communicate(timeout=60)
    assert hurt.returncode != 0 and len(load_checkpoint(tmp_path/'hurt.pt')['history']) == 2
    _finish(whole); _finish(_start(tmp_path, 'hurt.pt', -1))
    a, b = load_checkpoint(tmp_path/'whole.pt.final'), load_checkpoint(tmp_path/'hurt.pt.final')
    assert a['losses'] == b['losses'] and a['metric'] == b['metric'] and all(torch.equal(v, b['model'][k]) for k, v in a['model'].items())
    assert not list(tmp_path.glob('*.part'))


# ---- several processes ------------------------------------------------------------------------------------------------------------

_team = '''
import sys, torch
from torch import nn
from deq_irnn.tasks import AddingProblem
from deq_irnn.training import SequenceModel, fit, save_checkpoint, Team
torch.set_num_threads(1)
torch.manual_seed(0)
model = SequenceModel(nn.GRU(2, 8, batch_first=True), 1)
# 65 samples in batches of 16: the last batch has one sample, so that one of two processes gets none
task = AddingProblem(12, train_size=65, test_size=33)
seen = []
history = fit(model, task, epochs=3, batch_size=16, checkpoint=sys.argv[1], progress=False, device='cpu', callbacks=[lambda m, h: seen.append(len(h))])
team = Team('cpu')
save_checkpoint(f'{sys.argv[1]}.rank{team.rank}', size=team.size, model=model.state_dict(), seen=seen, history=[{k: v for k, v in r.items() if k != 'seconds'} for r in history])

'''


@pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without distributed')
def test_two_processes_compute_what_one_does(tmp_path):
    script = tmp_path/'team.py'; script.write_text(_team)
    env = dict(os.environ, OMP_NUM_THREADS='1')
    one = subprocess.run([sys.executable, str(script), str(tmp_path/'one.pt')], env=env, capture_output=True, text=True, timeout=120)
    assert one.returncode == 0, one.stderr
    two = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', str(script), str(tmp_path/'two.pt')],
                         env=env, capture_output=True, text=True, timeout=180)
    assert two.returncode == 0, two.stderr
    a, b, c = (load_checkpoint(tmp_path/n) for n in ('one.pt.rank0', 'two.pt.rank0', 'two.pt.rank1'))
    assert (a['size'], b['size'], c['size']) == (1, 2, 2) and b['seen'] == [1, 2, 3] and c['seen'] == []
    for key in ('train_loss', 'test_loss', 'metric', 'lr', 'step'):
        assert [r[key] for r in a['history']] == pytest.approx([r[key] for r in b['history']], rel=1e-4)
        assert [r[key] for r in b['history']] == [r[key] for r in c['history']]
    for k, v in a['model'].items():
        assert torch.allclose(v, b['model'][k], atol=1e-5) and torch.equal(b['model'][k], c['model'][k])
    content = load_checkpoint(tmp_path/'two.pt')                                     # written once, and resumable by one process
    assert len(content['history']) == 3 and all(torch.equal(v, b['model'][k]) for k, v in content['model'].items())


def test_alone_is_a_team_of_one():
    team = Team('cpu')
    assert (team.rank, team.size) == (0, 1) and team.share(torch.arange(3))[1:] == (3, 1.) and team.reduce([1, 2.5]) == [1, 2.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_is_used_by_itself():
    model = small(); history = fit(model, adding(), epochs=2, progress=False)
    assert next(model.parameters()).is_cuda and math.isfinite(history[-1]['metric'])


def test_held_out_samples_are_held_out_with_their_copies():
    from deq_irnn.training import Run
    task = get_task('padded_digits', length=8, copies=3)
    run = Run(SequenceModel(nn.GRU(8, 4), 10), task, Settings(validation=.2))
    n = len(task.train_test()[0])//3
    assert len(run.valid) == 3*round(.2*n) and len(run.train) + len(run.valid) == 3*n
    seen, held = ({tuple(image) for image in split.x.flatten(1).tolist()} for split in (run.train, run.valid))
    assert not seen & held

def test_the_score_of_each_sample():
    from deq_irnn.training import sample_scores
    class Knows(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
        def forward(self, x): return torch.nn.functional.one_hot((x[:, 0, 0] > .5).long(), 2).float() + self.w
    class Half(Task):
        output_size, length = 2, 1
        def train_test(self, seed=0):
            split = Split(torch.tensor([0., 1., 0., 1.]).view(4, 1, 1), torch.tensor([0, 0, 1, 1]))
            return split, split
    model = Knows().train()
    assert sample_scores(model, Half(), Half().train_test()[1], 3) == [1, 0, 0, 1] and model.training
