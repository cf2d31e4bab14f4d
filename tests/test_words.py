"The study of words: automata, what counts by construction, the recipe, resumption, the command."
import json, math, os, shutil, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deq_irnn.isometry import Householder, InputRotation, Orthogonal
from deq_irnn.words import (AUTOMATA, HELD_OUT, NETWORKS, Automaton, Network, Recipe, TokenOrthogonal, WordsPlan, at_the_end, build,
                            carries, carries_at_rest, count, cyclic, even_pairs, find_automaton, find_network, flip_flop, group, in_a_line, load_words,
                            memories, modular_arithmetic, quarter_octaves, right_answers, span, symmetric, train, width_for, words_jobs,
                            words_estimate, words_main, words_picture, words_results, words_study, words_table)

def seeded(n=0): return torch.Generator().manual_seed(n)

# ---- automata

@pytest.mark.parametrize('name', AUTOMATA)
def test_answers_follow_the_table(name):
    a = find_automaton(name)
    x, y = a.draw(40, 7, seeded())
    assert x.shape == y.shape == (40, 7) and x.max() < a.tokens and y.max() < a.classes
    for b in range(7):
        state = a.start
        for t in range(40):
            state = a.delta[state, x[t, b]]
            assert y[t, b] == (state if a.answers is None else a.answers[state])

@pytest.mark.parametrize('name', ['parity', 'mod5', 's3', 'a4', 'a5', 's5'])
def test_groups_are_groups(name):
    "delta[state, token] = token · state: neutral element, inverses, associativity."
    d = find_automaton(name).delta
    n = len(d)
    assert torch.equal(d[0], torch.arange(n)) and torch.equal(d[:, 0], torch.arange(n)) and (d == 0).any(0).all()
    a, b, c = torch.randint(n, (3, 500), generator=seeded())
    assert torch.equal(d[d[a, b], c], d[a, d[b, c]])

def test_sizes_and_chance():
    assert [find_automaton(n).states for n in AUTOMATA] == [2, 5, 6, 12, 60, 120, 5, 5, 5, 2]
    assert even_pairs().classes == 2 and symmetric(3).chance == pytest.approx(1/6) and modular_arithmetic().chance == pytest.approx(1/3)
    x, y = modular_arithmetic().draw(2000, 50, seeded())
    assert (y[100:] == 0).float().mean() == pytest.approx(1/3, abs=.01)

def test_arithmetic():
    "+3 ·2 ·0 +4, from 0."
    x = torch.tensor([3, 5 + 2, 5 + 0, 4])[:, None]
    assert modular_arithmetic().run(x).flatten().tolist() == [3, 1, 0, 4]

@pytest.mark.parametrize('wrong', [dict(delta=torch.zeros(2, 2)), dict(delta=torch.tensor([[2]])), dict(delta=torch.tensor([0])),
                                   dict(delta=torch.tensor([[0]]), start=1), dict(delta=torch.tensor([[0]]), answers=torch.tensor([0, 1]))])
def test_a_wrong_automaton_is_refused(wrong):
    with pytest.raises(ValueError, match='must'): Automaton('x', **wrong)

def test_names(monkeypatch, tmp_path):
    for find, word in ((find_automaton, 'task'), (find_network, 'model')):
        with pytest.raises(ValueError, match=word): find('nothing')
    (tmp_path/'mine_words.py').write_text('import torch\nfrom torch import nn\nfrom deq_irnn.words import Automaton\n'
                                          'toggle = Automaton("toggle", torch.tensor([[1], [0]]))\nnumber = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert find_automaton('mine_words:toggle').states == 2
    assert find_network('torch.nn:GRU').make is nn.GRU
    with pytest.raises(ValueError, match='Automaton'): find_automaton('mine_words:number')
    with pytest.raises(ValueError, match='Network'): find_network('mine_words:number')

# ---- transitions and networks

@pytest.mark.parametrize('shape', [(2, 2), (9, 5)])  # few and many tokens
def test_tokens_are_looked_up_exactly(shape):
    torch.manual_seed(0)
    quick, slow = (kind(6, 10, block=5, parametrization=Householder(4)) for kind in (TokenOrthogonal, Orthogonal))
    slow.load_state_dict(quick.state_dict())
    x = F.one_hot(torch.randint(6, shape), 6).float()
    h0, b = torch.randn(shape[1], 10), torch.randn(*shape, 10)
    for added in (None, b):
        torch.testing.assert_close(quick(x, added, h0), slow(x, added, h0))
        grads = [torch.autograd.grad(n(x, added, h0).pow(3).sum(), list(n.parameters())) for n in (quick, slow)]
        for g, h in zip(*grads): torch.testing.assert_close(g, h, atol=1e-3, rtol=1e-3)

@pytest.mark.parametrize('change', [lambda x: 2*x, lambda x: x + .1, lambda x: 0*x, lambda x: x + x.roll(1, -1)])
def test_other_inputs_are_refused(change):
    net = TokenOrthogonal(4, 4, block=2)
    x = F.one_hot(torch.randint(4, (9, 5)), 4).float()
    with pytest.raises(ValueError, match='one-hot'): net(change(x), None, torch.ones(5, 4))

@pytest.mark.parametrize('name', NETWORKS)
def test_networks_read_in_pieces_and_never_ahead(name):
    torch.manual_seed(0)
    S3 = symmetric(3)
    net = build(NETWORKS[name], S3, width_for(NETWORKS[name], S3, 2000, 24)).eval()
    x, _ = S3.draw(12, 3, seeded())
    whole = net(x)[0]
    assert whole.shape == (12, 3, 6)
    torch.testing.assert_close(net(x[:7])[0], whole[:7], atol=1e-5, rtol=1e-4)
    state = net(x[:7])[1]
    if state is not None: torch.testing.assert_close(net(x[7:], state)[0], whole[7:], atol=1e-5, rtol=1e-4)
    whole.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)

def test_widths():
    S5 = symmetric(5)
    sizes = {name: count(build(n, S5, width_for(n, S5))) for name, n in NETWORKS.items()}
    assert all(size < 1.05*sizes['lstm'] for name, size in sizes.items() if NETWORKS[name].orbit)
    assert sizes['lstm'] == pytest.approx(36_000, rel=.02) and sizes['gru'] == pytest.approx(36_000, rel=.1)
    assert width_for(NETWORKS['householder-5'], symmetric(3)) == 10 and width_for(NETWORKS['householder-5'], flip_flop()) == 60
    before = torch.get_rng_state()
    width_for(NETWORKS['lstm'], S5)
    assert torch.equal(before, torch.get_rng_state())

# ---- by construction

@pytest.mark.parametrize('n', [2, 5, 12])
def test_an_angle_counts_at_any_length(n):
    net = InputRotation(n, 2)
    with torch.no_grad():
        net.log_angle.fill_(-100.)
        net.weight_angle.copy_(torch.arange(n)*2*math.pi/n)
    x, y = cyclic(n).draw(10_000, 8, seeded())
    h = net(F.one_hot(x, n).float(), None, torch.tensor([[1., 0.]]).expand(8, 2))
    assert torch.equal(torch.round(torch.atan2(h[..., 1], h[..., 0])*n/(2*math.pi)).long() % n, y)

# ---- recipe and measure

@pytest.mark.parametrize('wrong', [dict(steps=0), dict(lr=0), dict(label_smoothing=2), dict(shortest=64), dict(growing='no'), dict(bar=-1)])
def test_a_wrong_recipe_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))): Recipe(**wrong)

def test_a_lesson_is_learned_and_repeats_itself():
    def once():
        torch.manual_seed(3)
        net = build(NETWORKS['householder-5'], cyclic(2), 5)
        return net, train(net, cyclic(2), Recipe(steps=400), 3)
    (net, went), (_, again) = once(), once()
    assert went.length == 32 and len(went.grown) == 4 and went.status == 'finished'
    assert again.loss == pytest.approx(went.loss, rel=1e-4) and again.grown == went.grown     # to rounding
    found = carries(net, cyclic(2), (32, 200, 1000), 16)
    assert found['last'][:2] == [1, 1] and found['all'][0] == 1 and found['lengths'] == [32, 200, 1000]
    assert [n for n, _ in found['curve']][-1] == 1000

def test_the_length_may_be_fixed():
    net = build(NETWORKS['rnn'], cyclic(2), 8)
    assert train(net, cyclic(2), Recipe(steps=2, growing=False)).length == 32

def test_a_training_that_diverges_says_so():
    class Bad(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(2))
        def forward(self, x, state=None): return (self.w*math.inf).expand(*x.shape, 2), None
    assert train(Bad(), cyclic(2), Recipe(steps=3)).status == 'diverged'

def test_the_rate_falls_in_the_last_third():
    r = Recipe(steps=300, lr=1., final=.01)
    assert r.rate(0) == r.rate(200) == 1 and r.rate(250) == pytest.approx(.1) and r.rate(300) == pytest.approx(.01)

class Knows(nn.Module):
    "Right for the first `until` letters of a word, and wrong for ever after."
    def __init__(self, automaton, until):
        super().__init__()
        self.automaton, self.until = automaton, until
    def forward(self, x, state=None):
        s, t = (torch.full(x.shape[1:], self.automaton.start), 0) if state is None else state
        out = []
        for token in x:
            s, t = self.automaton.delta[s, token], t + 1
            out.append(F.one_hot((s + (t > self.until)) % self.automaton.states, self.automaton.states))
        return torch.stack(out).float(), (s, t)

def test_the_measure_tells_where_it_ends():
    a = symmetric(3)
    right = right_answers(Knows(a, 300), a, 600, 4)
    assert right[:300].all() and not right[300:].any() and at_the_end(right, 300) == 1
    found = carries(Knows(a, 300), a, (32, 600, 1000), 4)
    assert found['last'] == [1, 0, 0] and found['all'] == pytest.approx([1, .5, .3]) and 300 < found['half'] <= 362
    assert carries(Knows(a, 2000), a, (32, 1000), 4)['half'] is None

def test_quarter_octaves():
    assert quarter_octaves(16) == [8, 10, 11, 13, 16] and quarter_octaves(4) == [4] and quarter_octaves(10_000)[-1] == 10_000

# ---- the study

TINY = WordsPlan(('parity', 's3'), ('rotation', 'lstm'), seeds=2, params=500, recipe=Recipe(steps=4), rates=(1e-2, 3e-3), trial_steps=3,
                 lengths=(8, 32, 600), samples=4)

def test_order():
    plan = WordsPlan(seeds=2)
    jobs = words_jobs(plan, 'nowhere')
    assert len(jobs) == len(plan.tasks)*len(plan.models)*3
    first = jobs[:24]
    assert {j.task for j in first} == {'a5', 's5', 'parity', 'mod5'} and {j.model for j in first} == {'householder-5', 'lstm'}
    assert [j.seed for j in first] == [None]*8 + [0]*8 + [1]*8

def test_a_study_goes_on_where_it_was(tmp_path):
    results = words_study(TINY, tmp_path/'a', progress=False)
    assert len(results['runs']) == 8 and len(results['rates']) == 4 and {r['lr'] for r in results['runs']} <= {1e-2, 3e-3}
    file = tmp_path/'a/runs/s3.lstm.1.json'
    old = json.loads(file.read_text())
    file.unlink()
    kept = json.loads((tmp_path/'a/results.json').read_text())
    (tmp_path/'a/results.json').write_text(json.dumps({**kept, 'runs': kept['runs'][:-1]}))
    assert [str(j.file) for j in words_jobs(TINY, tmp_path/'a')] == [str(file)]
    words_study(TINY, tmp_path/'a', progress=False)
    new = json.loads(file.read_text())
    assert {**new, 'seconds': 0} == {**old, 'seconds': 0} and load_words(tmp_path/'a')[1] == TINY
    assert words_table(results).count('\n| ') == 4 and words_picture(results, tmp_path/'p.png') and (tmp_path/'p.png').exists()
    assert 'seed 1' in in_a_line(new) and 'learning rate' in in_a_line(results['rates'][0])

def test_what_lost_its_files_goes_on_from_results(tmp_path, capsys):
    command('--tasks', 'parity', '--models', 'rotation', '--steps', 3, '--lr', '1e-2,3e-2', '--seeds', 2, '--workers', 1, '--no-plots',
            '--out', tmp_path)
    before = load_words(tmp_path/'words')[0]
    shutil.rmtree(tmp_path/'words/runs')
    assert command('--resume', '--out', tmp_path, '--workers', 1, '--no-plots', '--seeds', 3) == 0
    after = load_words(tmp_path/'words')[0]
    assert '1 run to do' in capsys.readouterr().err and after['rates'] == before['rates'] and after['runs'][:2] == before['runs']
    assert [r['seed'] for r in after['runs']] == [0, 1, 2]

def test_at_rest_the_state_is_put_right_and_the_network_left_as_it_was():
    torch.manual_seed(0)
    S3 = symmetric(3)
    net = build(NETWORKS['householder-5'], S3, 10)
    train(net, S3, Recipe(steps=300, longest=16))
    free = carries(net, S3, (16, 4096), 16)
    found = carries_at_rest(net, S3, 8, 16, (16, 4096), 16)
    assert set(found) == {'at rest every 8', 'looked up every 8'} and carries(net, S3, (16, 4096), 16) == free
    assert free['last'][1] < .9 and all(f['last'] == [1, 1] for f in found.values())
    X, y = memories(net, S3, 16), net.head(memories(net, S3, 16)).argmax(-1)
    assert X.shape == (6, 10) and torch.equal(y, torch.arange(6))          # the network calls each memory by its name

def test_rest_is_asked_of_orbits_alone_and_has_lines_of_its_own(tmp_path):
    plan = WordsPlan(('parity',), ('householder-5', 'lstm'), seeds=(0, 3), params=500, recipe=Recipe(steps=4), rates=(1e-2,), lengths=(8, 600),
                     samples=4, rest=16)
    results = words_study(plan, tmp_path, progress=False)
    assert load_words(tmp_path)[1] == plan and [r['seed'] for r in results['runs']] == [0, 3, 0, 3]
    assert ['at_rest' in r for r in results['runs']] == [True, True, False, False]
    lines = words_table(results).splitlines()[2:6]
    assert [line.split('|')[2].strip() for line in lines] == ['householder-5', 'householder-5, at rest every 16',
                                                             'householder-5, looked up every 16', 'lstm']
    labels = [text.get_text() for text in words_picture(results).legends[0].get_texts()]
    assert len(labels) == 4
    old = {**results, 'plan': {k: v for k, v in results['plan'].items() if k != 'rest'}}      # as files before `rest` are
    (tmp_path/'old.json').write_text(json.dumps({**old, 'runs': [{k: v for k, v in r.items() if k != 'at_rest'} for r in old['runs']]}))
    read, asked = load_words(tmp_path/'old.json')
    assert asked == replace(plan, rest=None) and words_table(read).count('\n| ') == 2 and words_picture(read)

def test_an_estimate_grows_with_what_is_to_be_done(tmp_path):
    plan = replace(TINY, models=('rotation',), tasks=('parity',), rates=(1e-2,))
    few, many = (words_jobs(replace(plan, seeds=1, recipe=Recipe(steps=n)), tmp_path) for n in (100, 10_000))
    assert 10 < words_estimate(many)/words_estimate(few) < 1000 and words_estimate([]) == 0

def test_two_workers_find_the_same(tmp_path):
    plan = replace(TINY, models=('rotation',), tasks=('parity',))
    one = words_study(plan, tmp_path/'one', progress=False)
    two = words_study(plan, tmp_path/'two', workers=2, progress=False)
    def rows(r): return [{**row, 'seconds': 0} for row in r['runs']]
    assert rows(one) == rows(two)

def test_tables_of_little(tmp_path):
    empty = words_results(TINY, tmp_path)
    assert words_table(empty) and words_picture(empty)
    diverged = dict(task='s3', model='rnn', seed=0, lr=1., parameters=3, trained=32, length=2, status='diverged', seconds=1.)
    assert '| s3' in words_table({**empty, 'runs': [diverged]}) and words_picture({**empty, 'runs': [diverged]})
    assert span([.9996, 1.]) == '0.999–1.000' and span([1., 1.]) == '1.000' and span([]) == '–'

def command(*args): return words_main([*map(str, args)])

def test_command(tmp_path, capsys):
    few = ['--tasks', 'parity', '--models', 'rotation', '--steps', 3, '--lr', .01, '--workers', 1, '--out', tmp_path]
    assert command(*few, '--seeds', 1, '--save', tmp_path/'saved.json') == 0
    assert '| parity' in capsys.readouterr().out and (tmp_path/'words/words.png').exists()
    assert len(json.loads((tmp_path/'saved.json').read_text())['runs']) == 1
    assert command('--resume', '--out', tmp_path, '--seeds', 2, '--workers', 1, '--no-plots') == 0
    assert len(load_words(tmp_path/'words')[0]['runs']) == 2 and HELD_OUT not in range(2)
    assert command('--resume', '--out', tmp_path, '--steps', 5) == 2 and 'recipe' in capsys.readouterr().err
    assert command('--list') == 0 and 'flip_flop' in capsys.readouterr().out
    for wrong in (['--tasks', 'nope'], ['--models', 'nope'], ['--seeds', 0], ['--lengths', '8,0'], ['--rest', 0], ['--lr', '1e-2,'], ['--label-smoothing', 3], ['--models', ',']):
        assert command(*wrong, '--out', tmp_path) == 2
    assert command('--name', 'words', '--out', tmp_path) == 2 and '--resume' in capsys.readouterr().err

def test_as_a_user_types_it_with_an_automaton_of_ones_own(tmp_path):
    (tmp_path/'my_words.py').write_text('import torch\nfrom deq_irnn.words import Automaton\n'
                                        'toggle = Automaton("toggle", torch.tensor([[1], [0]]))\n')
    options = '--tasks my_words:toggle --models torch.nn:RNN --seeds 2 --steps 3 --lr .01 --workers 2 --no-plots --out .'
    root = Path(__file__).resolve().parents[1]
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(root)}
    done = subprocess.run([sys.executable, '-m', 'deq_irnn.words', *options.split()], cwd=tmp_path, env=env, capture_output=True,
                          text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert '| my_words:toggle' in done.stdout and (tmp_path/'words/runs/my_words.toggle.torch.nn.RNN.1.json').exists()
