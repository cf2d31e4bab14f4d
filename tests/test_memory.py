"Memory: attractors and their basins, rests within layers, forecasts, memories without labels, checks, the study."
import copy, io, json, math, os, shutil, subprocess, sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deq_irnn.equilibrium_rnn import AttractorCell, EquilibriumRNN
from deq_irnn.isometry import InputRotation, Transition, orthogonal_scan
from deq_irnn.memory import (Attractors, Lookup, ParityChecks, answer_means, basins, class_means, distances, forecast, modes, pull,
                             safe_interval, scale, sharpness, transition_errors)
from deq_irnn.memory_study import (JOINT, CopyTask, Drawn, MemoryPlan, RestingLSTM, Tracker, copying_lstm, in_a_line, k_means, learned_together,
                                   load_memory, lstm_memories, memory_jobs, memory_main, memory_picture, memory_study, memory_table, misread,
                                   on_a_line, saturating_counter, slot_memories, slots_apart)
from deq_irnn.root_irnn import IsometricRNN, Rest, RootIRNN
from deq_irnn.scan import affine_scan
from deq_irnn.time_parallel import time_parallel
from deq_irnn.words import NETWORKS, Automaton, Recipe, TokenOrthogonal, at_the_end, build, cyclic, flip_flop, right_answers, symmetric, train

def seeded(n=0): return torch.Generator().manual_seed(n)
def sphere(n, d, seed=0): return F.normalize(torch.randn(n, d, generator=seeded(seed), dtype=torch.float64), dim=1)

# ---- one set of memories

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('beta', [4., 10., None])
def test_the_guaranteed_disc_comes_home(seed, beta):
    "Many states just within the radius; and just outside of a basin's true edge they need not."
    X = torch.randn(12, 4, generator=seeded(seed), dtype=torch.float64)
    rest = Attractors(X, beta, tol=1e-10, max_iter=2000)
    (inner,), (outer,) = rest.basins()
    assert (outer <= distances(X).amin(1)/2).all()
    for i in outer.nonzero().flatten():
        z = rest(X[i] + .999*outer[i]*sphere(40, 4, seed))
        assert ((z - X[i]).norm(dim=1) <= inner[i] + 1e-8).all()
        assert (z - z[0]).norm(dim=1).max() < 1e-6                       # one equilibrium
    if beta is None: assert (outer >= .4*distances(X).min() - 1e-9).all()

def test_pull_is_a_bound():
    X = torch.randn(9, 3, generator=seeded(), dtype=torch.float64)
    rest = Attractors(X, 5.)
    for r in (.1, .3, .6):
        z = X + r*sphere(9, 3)
        assert ((rest.step(z) - X).norm(dim=1) <= pull(distances(X), 5., torch.full((9,), r, dtype=torch.float64)) + 1e-12).all()

def test_merged_wells_have_no_basin():
    X = torch.tensor([[0., 0], [.1, 0], [5., 0]])
    inner, outer = basins(X, 4.)
    assert outer[:2].eq(0).all() and inner[:2].isnan().all() and outer[2] > 2
    assert (Attractors(X, 4., max_iter=1000)(X)[:2] - torch.tensor([.05, 0])).abs().max() < .01

def test_a_single_memory():
    rest = Attractors(torch.tensor([[1., 2]]))
    assert torch.equal(rest(torch.randn(5, 2)), torch.tensor([[1., 2]]).expand(5, 2)) and rest.basins().outer.item() > 0

def test_blocks_are_solved_apart():
    X = torch.randn(3, 5, 2, generator=seeded())
    h = torch.randn(7, 6, generator=seeded(1))
    both = Attractors(X, 8.)(h)
    for k in range(3):
        torch.testing.assert_close(both[:, [k, k + 3]], Attractors(X[k], 8.)(h[:, [k, k + 3]]), atol=1e-4, rtol=1e-4)
    assert torch.equal(Lookup(X)(h)[:, [1, 4]], X[1][Lookup(X).nearest(h)[:, 1]])

@pytest.mark.parametrize('wrong, word', [(dict(memories=torch.zeros(3)), 'memories'), (dict(memories='x'), 'memories'),
    (dict(memories=torch.zeros(2, 2)), 'memories'), (dict(memories=torch.full((2, 2), math.inf)), 'memories'),
    (dict(memories=torch.eye(2).long()), 'memories'), (dict(memories=torch.zeros(0, 2)), 'memories'), (dict(beta=0), 'beta'),
    (dict(beta='x'), 'beta'), (dict(every=0), 'every'), (dict(every=1.5), 'every'), (dict(tol=-1), 'tol'), (dict(solver=0), 'solver')])
def test_wrong_arguments_name_themselves(wrong, word):
    with pytest.raises((ValueError, TypeError), match=word): Attractors(**{'memories': torch.eye(2), **wrong})

def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match='4 units'): Attractors(torch.eye(4))(torch.zeros(2, 3))
    with pytest.raises(ValueError, match='4 units'): IsometricRNN(2, 6, rest=Attractors(torch.eye(4)))(torch.zeros(3, 1, 2))

def test_kept_in_the_state_dict():
    X = torch.randn(5, 4, generator=seeded())
    rnn = IsometricRNN(3, 4, rest=Attractors(X, 7.))
    file = io.BytesIO(); torch.save(rnn.state_dict(), file); file.seek(0)
    new = IsometricRNN(3, 4, rest=Attractors(torch.randn(5, 4), 1.))
    new.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(6, 2, 3)
    assert torch.equal(new(x)[0], rnn(x)[0]) and new.last[0].rest.beta == 7
    assert torch.equal(copy.deepcopy(rnn)(x)[0], rnn(x)[0])

# ---- in the layer

class Rounded(Rest):
    def forward(self, h): return h.round()

@pytest.mark.parametrize('kind', [IsometricRNN, RootIRNN])
@pytest.mark.parametrize('options', [{}, dict(num_layers=2), dict(bidirectional=True), dict(batch_first=True)])
def test_the_layer_rests(kind, options):
    rnn = kind(3, 4, rest=lambda D: Rounded(every=3), **options)
    x = torch.randn(11, 2, 3)
    out, h_n = rnn(x.transpose(0, 1) if options.get('batch_first') else x)
    assert torch.equal(h_n, h_n.round())
    if options.get('batch_first'): out = out.transpose(0, 1)
    if not options.get('bidirectional'):
        at_rest = (out == out.round()).all(-1).all(1)
        assert at_rest[[2, 5, 8, 10]].all() and not at_rest[[0, 1, 3, 4]].any()
    out.sum().backward()
    assert all(p.grad is not None for p in rnn.parameters())

def test_off_by_default_and_step_by_step_by_hand():
    torch.manual_seed(0)
    free, rnn = IsometricRNN(3, 4), IsometricRNN(3, 4, rest=Rounded(every=4))
    assert free.last[0].rest is None
    rnn.load_state_dict(free.state_dict())
    x, h = torch.randn(10, 2, 3), torch.zeros(1, 2, 4)
    for t in range(10):
        out, h = free(x[t:t + 1], h)
        if t % 4 == 3 or t == 9: h = h.round()
    torch.testing.assert_close(rnn(x)[1], h)
    assert torch.equal(rnn.step(x[0])[0], rnn.step(x[0])[0].round())

def test_pieces_of_a_stream():
    rnn = IsometricRNN(3, 4, 2, rest=lambda D: Attractors(torch.eye(D), every=5))
    x = torch.randn(20, 2, 3)
    whole, h_n = rnn(x)
    h, outs = None, []
    for piece in (x[:5], x[5:15], x[15:]):
        out, h = rnn(piece, h)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs), whole)
    torch.testing.assert_close(h, h_n)

def test_compiled_as_elsewhere():
    rnn = IsometricRNN(3, 4, rest=Attractors(torch.eye(4), every=5))
    x = torch.randn(10, 2, 3)
    torch.testing.assert_close(torch.compile(rnn)(x)[0], rnn(x)[0])

@pytest.mark.parametrize('rest, layers', [(3, 1), (nn.Linear(2, 2), 1), (Rounded(), 2), (lambda D: nn.Linear(D, D), 1)])
def test_a_wrong_rest_is_refused(rest, layers):
    with pytest.raises(TypeError, match='rest'): IsometricRNN(3, 4, layers, rest=rest)

def test_a_rest_of_another_shape_is_refused():
    class Short(Rest):
        def forward(self, h): return h[:, :2]
    with pytest.raises(RuntimeError, match='Short'): IsometricRNN(3, 4, rest=Short())(torch.zeros(3, 1, 3))
    with pytest.raises(NotImplementedError, match='forward'): IsometricRNN(3, 4, rest=Rest())(torch.zeros(3, 1, 3))

def test_token_matrices_are_made_once_a_sequence(monkeypatch):
    "The same states and gradients as in pieces that each make their own."
    torch.manual_seed(0)
    rnn = IsometricRNN(6, 8, injection=None, transition=lambda N, D: TokenOrthogonal(N, D, block=4), rest=Rounded(every=5))
    x = F.one_hot(torch.randint(6, (33, 3), generator=seeded()), 6).float()
    weights, made, matrices = torch.randn(33, 3, 8, generator=seeded(1)), [], TokenOrthogonal.matrices
    monkeypatch.setattr(TokenOrthogonal, 'matrices', lambda self, x: (made.append(len(x)), matrices(self, x))[1])
    def asked():
        rnn.zero_grad()
        h = rnn(x)[0]
        (h*weights).sum().backward()
        return [h.detach(), *(p.grad.clone() for p in rnn.parameters())]
    once = asked()
    assert made == [6] and rnn.last[0].transition.table is None                    # and nothing is kept
    monkeypatch.setattr(TokenOrthogonal, 'prepared', Transition.prepared)
    monkeypatch.setattr(TokenOrthogonal, 'forward', lambda self, x, b, h0: orthogonal_scan(self.matrices(x), b, h0))
    for a, b in zip(once, asked()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(made) == 1 + 7

# ---- as a cell

def counters(K=2, n=5, off=.02, weight=.9):
    "K counters modulo n, a block of two units for each; letter i·n + k adds k to counter i, by an angle that is a little too large."
    turn = InputRotation(K*n, 2*K, dtype=torch.float64)
    digit, which = torch.arange(K*n) % n, torch.arange(K*n)//n
    with torch.no_grad():
        turn.log_angle.fill_(-30)
        turn.weight_angle.copy_((digit*2*math.pi/n + off)*(which == torch.arange(K)[:, None]))
    angle = torch.arange(n).double()*2*math.pi/n
    X = torch.stack((angle.cos(), angle.sin()), 1).expand(K, n, 2)
    return AttractorCell(Attractors(X, learn=True, tol=1e-12), turn, weight)

def letters(T, B, N=10): return F.one_hot(torch.randint(N, (T, B), generator=seeded()), N).double()

def test_the_cell_counts_and_streams():
    cell, x = counters(), letters(300, 4)
    rnn = EquilibriumRNN(cell, tol=1e-10)
    out, h_n = rnn(x)
    added = torch.stack([(x*(torch.arange(10)//5 == k)).mul(torch.arange(10) % 5).sum((0, 2)) for k in (0, 1)], 1)
    assert torch.equal(cell.rest.nearest(h_n.detach()), added.long() % 5) and rnn.solution.converged.all()
    first, h = rnn(x[:120])
    torch.testing.assert_close(torch.cat((first, rnn(x[120:], h)[0])), out)
    layer = IsometricRNN(10, 4, injection=None, transition=lambda N, D: cell.transition, rest=cell.rest, dtype=torch.float64)
    start = cell.initial_state(4, x)[None]
    assert torch.equal(cell.rest.nearest(layer(x, start)[1][0].detach()), added.long() % 5)

@pytest.mark.parametrize('mode', ['sequential', 'parallel'])
def test_the_cells_gradient_is_that_of_the_loop(mode):
    cell, x = counters(), letters(8, 2).requires_grad_()
    h_0 = (cell.initial_state(2, x) + .1*torch.randn(2, 4, generator=seeded(), dtype=torch.float64)).detach().requires_grad_()
    wanted = x, h_0, cell.rest.memories, cell.transition.weight_angle
    h, states = h_0, []
    for x_t in x:
        before = h
        for _ in range(60): h = cell(x_t, h, before)
        states.append(h)
    weights = torch.randn(8, 2, 4, generator=seeded(1), dtype=torch.float64)
    right = torch.autograd.grad((torch.stack(states)*weights).sum(), wanted)
    found = torch.autograd.grad((EquilibriumRNN(cell, mode, tol=1e-13)(x, h_0)[0]*weights).sum(), wanted)
    for a, b in zip(found, right): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)

def test_within_reach_there_is_one_equilibrium_from_any_start():
    cell = counters(off=.1)
    assert (cell.reach() > 2*math.sin(.1/2)).all() and (counters(weight=.5).reach() < 0).all()
    x, X = letters(1, 50)[0], cell.rest.memories.detach()
    before = X[torch.arange(2)[:, None], torch.randint(5, (2, 50), generator=seeded())].permute(1, 2, 0).flatten(1)
    ends = []
    for seed in range(4):                                        # starts: random points of the memories' hull
        shares = torch.rand(2, 50, 5, generator=seeded(seed), dtype=torch.float64).pow(4)
        z = (shares/shares.sum(-1, keepdim=True) @ X).permute(1, 2, 0).flatten(1)
        for _ in range(100): z = cell(x, z, before)
        ends.append(z)
    for z in ends: torch.testing.assert_close(z, ends[0])

def test_a_wrong_cell_is_refused():
    turn, rest = InputRotation(3, 4), Attractors(torch.eye(4))
    for wrong, error, word in ((dict(rest=turn), TypeError, 'rest'), (dict(transition=rest), TypeError, 'transition'),
                               (dict(transition=InputRotation(3, 6)), ValueError, 'units'), (dict(weight=0), ValueError, 'weight')):
        with pytest.raises(error, match=word): AttractorCell(**{'rest': rest, 'transition': turn, **wrong})

# ---- gradients

def test_straight_through():
    X = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    rest = Attractors(X, learn=True, tol=1e-10)
    h = (X + .1*sphere(5, 3)).requires_grad_()
    z = rest.straight_through(h)
    torch.testing.assert_close(z, rest(h))
    z.sum().backward()
    assert torch.equal(h.grad, torch.ones(5, 3).double())

@pytest.mark.parametrize('beta', [3., 8.])
def test_the_memories_gradient_is_that_of_the_equilibrium(beta):
    X = torch.randn(5, 3, generator=seeded(2), dtype=torch.float64)
    h = X + .1*sphere(5, 3)
    rest = Attractors(X, beta, learn=True, tol=1e-12, max_iter=5000)
    weights = torch.randn(5, 3, generator=seeded(3), dtype=torch.float64)
    (rest(h)*weights).sum().backward()
    leaf = X.clone().requires_grad_()
    z = h
    for _ in range(3000): z = torch.softmax(beta*(z @ leaf.T - leaf.square().sum(1)/2), 1) @ leaf
    (z*weights).sum().backward()
    torch.testing.assert_close(rest.memories.grad[0], leaf.grad, atol=1e-6, rtol=1e-5)

# ---- forecasts

def random_group(automaton, d=4, blocks=2, seed=0):
    "Random orthogonal matrices: any will do for what is exact."
    return torch.linalg.qr(torch.randn(automaton.tokens, blocks, d, d, generator=seeded(seed), dtype=torch.float64))[0]

@pytest.mark.parametrize('automaton', [symmetric(3), flip_flop(), cyclic(2)], ids=lambda a: a.name)
def test_mean_states_are_those_of_all_words(automaton):
    R, h0 = random_group(automaton), torch.randn(8, generator=seeded(1), dtype=torch.float64)
    for T in (1, 2, 4):
        words = torch.tensor(list(product(range(automaton.tokens), repeat=T))).T
        h = orthogonal_scan(R[words], None, h0.expand(words.shape[1], -1))[-1]
        state = automaton.run(words)[-1]
        share, mean = class_means(R, automaton.delta, h0, [T], automaton.start)
        for s in range(automaton.states):
            assert share[0, s] == pytest.approx((state == s).double().mean().item())
            torch.testing.assert_close(mean[0, s], h[state == s].mean(0) if (state == s).any() else torch.zeros(8).double())

def test_spread_is_exact():
    a = symmetric(3)
    R, h0 = random_group(a), torch.randn(8, generator=seeded(1), dtype=torch.float64)
    words = torch.tensor(list(product(range(6), repeat=3))).T
    h, state = orthogonal_scan(R[words], None, h0.expand(216, -1))[-1], a.run(words)[-1]
    within = torch.stack([(h[state == s] - h[state == s].mean(0)).square().sum(1).mean() for s in range(6)]).mean().sqrt()
    found = forecast(R, a.delta, h0, lambda h: h[..., 0].long(), [3], draws=1)
    assert found.spread[0] == pytest.approx(within.item())

def test_an_exact_group_never_falls():
    R = torch.stack([torch.tensor([[1., 0], [0, 1]]), torch.tensor([[-1., 0], [0, -1]])])[:, None]
    h0 = torch.tensor([1., 0])
    found = forecast(R, cyclic(2).delta, h0, lambda h: (h[..., 0] < 0).long(), [10, 10**8])
    assert found.accuracy == [1, 1] and max(found.spread) == 0

# ---- every word

def test_the_theorem_with_the_worst_words():
    "Random rotations near exact ones, at rest every n ≤ safe_interval steps: words chosen to go wrong do not."
    for seed in range(5):
        angle = torch.arange(5)*2*math.pi/5
        X = torch.stack((angle.cos(), angle.sin()), 1).double()
        off = .03*torch.randn(5, generator=seeded(seed))
        turn = angle + off
        R = torch.stack((torch.stack((turn.cos(), -turn.sin()), -1), torch.stack((turn.sin(), turn.cos()), -1)), -2)[:, None].double()
        rest = Attractors(X)
        errors = transition_errors(R, X)
        n = safe_interval(errors, rest.basins())
        worst = off.abs().argmax().item()
        h, state = X[:1], 0
        assert n >= 2 and torch.equal(errors.table, cyclic(5).delta)
        for t in range(20*n):
            h, state = h @ R[worst, 0].T, (state + worst) % 5
            if (t + 1) % n == 0:
                h = rest(h)
                assert rest.nearest(h).item() == state
        assert safe_interval(errors, basins(X, .1)) == 0

# ---- where memories come from

def test_answer_means():
    h, y = torch.tensor([[1., 0], [3, 0], [0, 4]]), torch.tensor([0, 0, 1])
    assert torch.equal(answer_means(h, y), torch.tensor([[2., 0], [0, 4]]))
    with pytest.raises(ValueError, match='1 never occurs'): answer_means(h, torch.tensor([0, 2, 2]))

@pytest.mark.parametrize('spread', [1e-4, .03, .1])
@pytest.mark.parametrize('seed', range(3))
def test_modes_counts_clusters(spread, seed):
    X = torch.randn(20, 8, generator=seeded(seed))*3
    which = torch.randint(20, (400,), generator=seeded(seed))
    found = modes(X[which] + spread*torch.randn(400, 8, generator=seeded(seed + 9)))
    assert len(found.memories) == len(which.unique())
    assert all(len(which[found.which == k].unique()) == 1 for k in range(len(found.memories)))
    with pytest.raises(ValueError, match='width'): modes(X, width=0)

# ---- checks

def grid(m):
    unit = torch.arange(m*m).view(m, m)
    return torch.cat((unit, unit.T))

def test_checks_hold_their_memories():
    checks = ParityChecks(grid(3), 9)
    all_states = torch.tensor(list(product((-1., 1), repeat=9)))
    obeys = all_states[:, grid(3)].prod(-1).eq(1).all(1)
    assert obeys.sum() == 16
    z = checks(all_states[obeys])
    assert torch.equal(z.sign(), all_states[obeys]) and z.abs().min() > .99
    one_off = all_states[obeys].clone()
    one_off[:, 4] *= -.4                                            # on the wrong side
    assert torch.equal(checks(one_off).sign(), all_states[obeys])
    assert not torch.equal(one_off.sign(), all_states[obeys])

@pytest.mark.parametrize('checks', [torch.zeros(2, 2), torch.tensor([[0]]), torch.tensor([[0, 9]]), torch.tensor([[-1, 0]])])
def test_wrong_checks_are_refused(checks):
    with pytest.raises(ValueError, match='checks'): ParityChecks(checks, 9)

# ---- resets, by construction

@pytest.mark.parametrize('automaton, shifts', [(flip_flop(), [0., -2, 2]), (saturating_counter(5), [2., -2])], ids=['flip-flop', 'counter'])
def test_a_shift_and_a_rest_forget(automaton, shifts):
    for rest in (True, False):
        net = on_a_line(automaton, rest)
        with torch.no_grad(): net.rnn.last[0].injection.weight_ih.copy_(torch.tensor([shifts]))
        x, y = automaton.draw(3000, 8, seeded())
        with torch.no_grad(): right = (net(x)[0].argmax(-1) == y).float().mean()
        assert right == 1 if rest else right < .9

# ---- the study

TINY = MemoryPlan(('parity',), ('householder-5', 'lstm'), ('flip_flop',), seeds=1, recipe=Recipe(steps=300, longest=16), other_steps=300,
                  shorter=(8,), shorter_seeds=1, reset_recipe=Recipe(steps=4, longest=4, label_smoothing=0.),
                  copy_recipe=Recipe(steps=2, shortest=12, longest=12), delay=40, rates=(3e-2,), longest=300, every=(1, 16), controls=64,
                  noisy=32, noise=(.3,), misread=(.03,), samples=4, beside=('parity',), beside_recipe=Recipe(steps=300, longest=16),
                  joint=('parity',), first=150, together=2)

def test_a_study_goes_on_where_it_was(tmp_path):
    results = memory_study(TINY, tmp_path/'a', progress=False)
    assert len(results['runs']) == 12 and not memory_jobs(TINY, tmp_path/'a')
    row, shorter = (next(r for r in results['runs'] if (r['kind'], r['model'], r.get('trained')) == ('carry', 'householder-5', n))
                    for n in (16, 8))
    foretold = next(r for r in results['runs'] if r['kind'] == 'interval')
    assert foretold['rest'] == {str(foretold['every']): [300, 1]}
    assert 'foretold' in shorter and 'rest' not in shorter
    assert all(len(worth) == 3 for worth in row['sources'].values())
    assert row['learned'] and row['automaton'] and row['rest']['16'] == [300, 1] and row['safe'] >= 1
    for other in (r for r in results['runs'] if r['kind'] == 'beside'):     # both have learned it, and last
        assert other['free']['300'] == other['looked up']['1']['300'] == other['at rest']['16']['300'] == 1
    together = next(r for r in results['runs'] if r['kind'] == 'joint')
    assert together['starts'].keys() == JOINT.keys() and together['starts']['twice k-means++']['memories'] == 4
    (tmp_path/'a/results.json').write_text(json.dumps({**results, 'runs': [r for r in results['runs'] if r is not row]}))
    (tmp_path/'a/runs/parity.householder-5.0.json').unlink()
    again = memory_study(TINY, tmp_path/'a', progress=False)                 # the network is not trained again
    def fixed(row): return {k: v for k, v in row.items() if k not in ('asking', 'seconds')}
    assert [fixed(r) for r in again['runs']] == [fixed(r) for r in results['runs']]
    assert load_memory(tmp_path/'a')[1] == TINY and '| parity' in memory_table(again) and 'flip_flop' in memory_table(again)
    assert all('seed 0' in in_a_line(r) for r in again['runs']) and memory_picture(again)
    shutil.rmtree(tmp_path/'a/runs')                                         # what lost its files goes on from results.json
    assert memory_study(TINY, tmp_path/'a', progress=False) == again

def test_command(tmp_path, capsys):
    few = ['--shorter-seeds', '1', '--tasks', 'parity', '--models', 'householder-5', '--steps', '3', '--longest', '64', '--out', str(tmp_path)]
    for name in ('resets', 'copiers', 'beside', 'joint'): few += [f'--{name}', '']
    assert memory_main([*few, '--seeds', '1', '--save', str(tmp_path/'s.json')]) == 0
    assert '| parity' in capsys.readouterr().out and len(json.loads((tmp_path/'s.json').read_text())['runs']) == 3
    assert memory_main(['--resume', '--out', str(tmp_path), '--steps', '5']) == 2 and 'recipe' in capsys.readouterr().err
    assert memory_main(['--list']) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ('a5', 'householder-5', 'counter', *JOINT)) and max(map(len, listed.splitlines())) < 110
    for wrong in (['--tasks', 'nope'], ['--beside', 'nope'], ['--joint', 'nope'], ['--seeds', '0'], ['--resets', 'nope'], ['--models', 'nope'], ['--copiers', 'nope']):
        assert memory_main([*wrong, '--out', str(tmp_path)]) == 2
    from deq_irnn.study import main
    assert main(['study', '--preset', 'memory', '--help']) == 0 and '--longest' in capsys.readouterr().out

def test_reading_through_noise():
    torch.manual_seed(0)
    net = build(NETWORKS['householder-5'], cyclic(2), 5).eval()
    x, _ = cyclic(2).draw(20, 3, seeded())
    torch.testing.assert_close(misread(net, 0.)(x)[0], net(x)[0], atol=1e-5, rtol=1e-5)
    assert (misread(net, .1)(x)[0] - net(x)[0]).abs().max() > 1e-3

# ---- copy

def test_copy_draws_symbols_and_keeps_them():
    task = CopyTask(3, 4)
    x, y = task.draw(9, 5, seeded())
    y = y.view(9, 5, 3)
    assert task.tokens == 13 and (x[3:] == 12).all()
    for t in range(9):
        for slot in range(3):
            assert (y[t, :, slot] == (x[slot] - 4*slot if t >= slot else 0)).all()

@pytest.mark.parametrize('make, apart', [(slots_apart, True), (copying_lstm, False)])
def test_each_slot_is_read_from_its_own_block(make, apart):
    task = CopyTask(3, 4)
    net = make(task)
    h = torch.randn(2, 5, net.head.in_features, requires_grad=True)
    scores = net.head(h).view(2, 5, 3, 4)
    for slot in range(3):
        seen = torch.autograd.grad(scores[:, :, slot].sum(), h, retain_graph=True)[0].abs().sum((0, 1)).nonzero().flatten()
        assert len(seen) == (5 if apart else net.head.in_features) and (not apart or (seen % 3 == slot).all())

def test_copy_is_learned_and_lasts_at_rest():
    task = CopyTask(3, 4)
    torch.manual_seed(0)
    net = slots_apart(task)
    train(net, task, Recipe(steps=250, lr=3e-2, shortest=5, longest=10), 0)
    net.rnn.last[0].rest = Attractors(slot_memories(net, task, 10), every=8)
    assert right_answers(net, task, 2000, 8)[-1].all()

# ---- where memories come from

def test_k_means_of_clear_clusters():
    X = torch.randn(9, 5, generator=seeded(1))*10
    h = X[torch.arange(180) % 9] + .01*torch.randn(180, 5, generator=seeded())
    found = k_means(h, 9, starts=5)
    assert torch.cdist(X, found).amin(1).max() < .1 and torch.cdist(found, X).amin(1).max() < .1
    worst, best = (torch.cdist(h, k_means(h, 9, starts)).amin(1).square().sum() for starts in (1, 8))
    assert best <= worst

def test_memories_are_drawn_to_states_and_states_to_memories():
    h = torch.randn(40, 5, generator=seeded(), requires_grad=True)
    rest = Drawn(torch.randn(3, 5, generator=seeded(1)), 2., 4)
    z = rest(h.detach()).detach()
    rest.straight_through(h)
    drawn = rest.drawing()
    torch.testing.assert_close(drawn, (h - z).square().sum(1).mean()/8)
    drawn.backward()
    torch.testing.assert_close(h.grad, (h.detach() - z)/160)
    assert rest.memories.grad.abs().max() > 0 and not rest.ways

def test_network_and_memories_learn_together_and_the_layer_is_left_free():
    torch.manual_seed(0)
    a = symmetric(3)
    net = build(NETWORKS['householder-5'], a, 10)
    train(net, a, Recipe(steps=300, longest=16), 0)
    begin, end = learned_together(net, a, JOINT['twice k-means++'], Recipe(steps=20, shortest=16, longest=16, growing=False))
    assert begin.memories.shape == (1, 12, 10) and not torch.equal(begin.memories, end.memories) and net.rnn.last[0].rest is None
    rest = Attractors(end.memories.detach(), end.beta.item(), 8, on_failure='ignore')
    assert Tracker(net, a).accuracy(2000, rest) > .99

# ---- nn.LSTM with the same memories

class Same(Rest):
    def forward(self, h): return h

@pytest.mark.parametrize('every', [1, 3, 16])
def test_an_lstm_that_is_left_alone_runs_free(every):
    torch.manual_seed(0)
    net = build(NETWORKS['lstm'], cyclic(3), 8)
    x = torch.randint(3, (20, 4), generator=seeded())
    resting = RestingLSTM(net, Same(every))
    scores, state = net(x)
    torch.testing.assert_close(resting(x)[0], scores)
    first, between = resting(x[:7])
    torch.testing.assert_close(torch.cat((first, resting(x[7:], between)[0])), scores)
    torch.testing.assert_close(resting(x)[1], tuple(state))

def test_an_lstm_that_is_looked_up_answers_as_its_memories_do():
    torch.manual_seed(0)
    net = build(NETWORKS['lstm'], cyclic(2), 8)
    def looked_up(net):
        rest = Lookup(lstm_memories(net, cyclic(2)))
        return at_the_end(right_answers(RestingLSTM(net, rest), cyclic(2), 200, 16), 200)
    assert looked_up(net) < .9
    train(net, cyclic(2), Recipe(steps=150, lr=3e-2, longest=8), 0)
    assert looked_up(net) > .99

def test_results_of_something_else_are_refused(tmp_path):
    (tmp_path/'x.json').write_text('{"plan": {}}')
    with pytest.raises(ValueError, match='memory'): load_memory(tmp_path/'x.json')

def test_the_widest_gap_between_distances_by_hand():
    "0, 1 and 100 on a line: distances 1, 99, 100; a gap below a hundredth of the largest is none."
    line = torch.tensor([[0.], [1.], [100.]])
    assert scale(line) == pytest.approx(99**.5)
    assert scale(torch.tensor([[0.], [1e-6], [100.]])) == pytest.approx(100**.5, rel=1e-5)
    assert scale(torch.tensor([[0.], [50.], [100.]])) == pytest.approx(50**.5)          # no two are near
