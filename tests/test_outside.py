"Open from outside: each kind of part, made in a file of a user's own (outside.py), works wherever one of ours does."
import copy, io, os, pickle, subprocess, sys
from functools import partial
from pathlib import Path
import pytest, torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
sys.path.insert(0, str(Path(__file__).parent))
import outside
from deq_irnn import (DEQ, Anderson, EquilibriumRNN, Implicit, IsometricRNN, Picard, RootIRNN, fixed_point,
                      root, solve, time_parallel)

def layer(W): return lambda z, x: torch.tanh(z @ W + x)

@pytest.fixture
def problem():
    W = torch.randn(6, 6, dtype=torch.float64)
    return .6*W/torch.linalg.matrix_norm(W, 2), torch.randn(9, 6, dtype=torch.float64)

# ---- a solver

def test_solver_solves_with_rows_leaving(problem):
    W, x = problem
    x[1] *= 1e-3                                                # samples are done at different times: rows leave
    x[2] = float('nan')
    sol = solve(layer(W), torch.zeros_like(x), outside.Relaxed(), tol=1e-10, args=(x,), on_failure='ignore')
    assert sol.converged.tolist() == [i != 2 for i in range(9)]
    exact = solve(layer(W), torch.zeros_like(x), tol=1e-12, args=(x,), on_failure='ignore').z
    fine = sol.converged
    torch.testing.assert_close(sol.z[fine], exact[fine], rtol=1e-8, atol=1e-8)

def test_solver_serves_forward_adjoint_layer_and_root(problem):
    W, x = problem
    W.requires_grad_()
    found = []
    for how in (dict(solver=outside.Relaxed()), dict(gradient=Implicit(solver=outside.Relaxed()))):
        z = fixed_point(layer(W), torch.zeros_like(x), args=(x,), tol=1e-11, **how)
        found += [z.detach(), *torch.autograd.grad(z.sin().sum(), W)]
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])
    z = DEQ(layer(W), solver=outside.Relaxed(), tol=1e-9)(x)
    torch.testing.assert_close(z, found[0], rtol=1e-6, atol=1e-6)
    sol = root(lambda z: layer(W.detach())(z, x) - z, torch.zeros_like(x), outside.Relaxed())
    torch.testing.assert_close(sol.z, found[0], rtol=1e-6, atol=1e-6)

def test_solver_serves_the_recurrent_nets():
    x, kw = torch.randn(7, 3, 2), dict(tol=1e-6)
    ours = RootIRNN(2, 4, **kw)
    theirs = RootIRNN(2, 4, solver=outside.Relaxed(), **kw)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(x)[0], ours(x)[0], rtol=1e-4, atol=1e-4)
    for rnn in (ours, theirs): rnn(x)[0].square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters()): torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-3)

# ---- a gradient rule

def test_gradient_rule(problem):
    W, x = problem
    x = x.requires_grad_()
    z = fixed_point(layer(W), torch.zeros_like(x), args=(x,), gradient=outside.TwoSteps(), tol=1e-12)
    g, = torch.autograd.grad(z.sum(), x)
    slope = 1 - z.detach()**2
    def jacobian_transposed(u): return (u*slope) @ W.T
    one = torch.ones_like(z)
    torch.testing.assert_close(g, (one + jacobian_transposed(one))*slope)
    net = DEQ(layer(W), gradient=outside.TwoSteps())
    net(x).sum().backward()
    assert x.grad is not None

# ---- a transition, a recurrence, an injection

PARTS = dict(transition=dict(transition=outside.Roll), recurrence=dict(recurrence=outside.Halved),
             injection=dict(injection=outside.Square), nothing=dict(injection=None, transition=outside.Roll))

def net(part, **options):
    make = RootIRNN if part == 'recurrence' else IsometricRNN
    return make(2, 4, **PARTS[part], **options)

@pytest.mark.parametrize('part', PARTS)
def test_part_trains(part):
    torch.manual_seed(1)
    rnn, head = net(part, num_layers=2, learn_h0=True), nn.Linear(4, 1)
    x = torch.randn(12, 16, 2)
    y = x[-3:].sum((0, 2))[:, None]
    parameters = [*rnn.parameters(), *head.parameters()]
    optimizer, losses = torch.optim.Adam(parameters, lr=1e-2), []
    for _ in range(60):
        loss = (head(rnn(x)[0][-1]) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
        losses.append(loss.item())
    if part != 'nothing': assert losses[-1] < .7*losses[0]

@pytest.mark.parametrize('part', PARTS)
def test_part_streams_packs_copies_and_saves(part):
    rnn = net(part, num_layers=2).eval()
    x, state, outputs = torch.randn(5, 3, 2), None, []
    whole, h_n = rnn(x)
    for x_t in x:
        out, state = rnn.step(x_t, state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs), whole)
    torch.testing.assert_close(state, h_n)
    packed = nn.utils.rnn.pack_padded_sequence(x, [5, 3, 2], enforce_sorted=False)
    padded, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0])
    torch.testing.assert_close(padded[:3, 1], whole[:3, 1])
    for again in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))): torch.testing.assert_close(again(x)[0], whole)

def test_isometry_of_an_outside_transition():
    rnn = IsometricRNN(2, 4, transition=outside.Roll).double()
    x = torch.randn(30, 1, 2, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda h: rnn(x, h)[1], torch.zeros(1, 1, 4, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.svdvals(J.view(4, 4)), torch.ones(4, dtype=torch.float64))

# ---- time over two processes

def _half(rank, part, path, results):
    os.environ.update(MASTER_ADDR='127.0.0.1')
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    rnn, x, h_0 = torch.load(results + '.in', weights_only=False)
    h_0.requires_grad_()
    chunk = x.chunk(2)[rank]
    with time_parallel():
        out, _ = rnn(chunk, h_0)
        out.square().sum().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in rnn.parameters()]
    for g in grads: dist.all_reduce(g)
    torch.save((out.detach(), grads), f'{results}.{rank}')
    dist.barrier()
    dist.destroy_process_group()

@pytest.mark.parametrize('part', PARTS)
def test_part_over_two_processes(part, tmp_path):
    rnn = net(part, num_layers=2).double()
    x, h_0 = torch.randn(10, 3, 2, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    results = str(tmp_path/'r')
    torch.save((rnn, x, h_0.detach()), results + '.in')
    mp.start_processes(_half, (part, str(tmp_path/'meet'), results), nprocs=2, start_method='spawn')
    whole = rnn(x, h_0)[0]
    whole.square().sum().backward()
    for rank in range(2):
        out, grads = torch.load(f'{results}.{rank}', weights_only=False)
        torch.testing.assert_close(out, whole.chunk(2)[rank].detach())
        for g, p in zip(grads, rnn.parameters()):
            torch.testing.assert_close(g, torch.zeros_like(p) if p.grad is None else p.grad, rtol=1e-5, atol=1e-7)

# ---- a cell

@pytest.mark.parametrize('mode', ['sequential', 'parallel'])
def test_cell(mode):
    rnn = EquilibriumRNN(outside.LeakyCell(2, 4), mode=mode, tol=1e-9).double()
    x = torch.randn(11, 3, 2, dtype=torch.float64)
    out, h = rnn(x)
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))
    torch.testing.assert_close(rnn.cell(x, out, before), out)
    out.sin().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in rnn.parameters())

# ---- a task and a model, by the command line, with two workers

def test_task_and_model_in_a_study(tmp_path):
    def run(*args):
        environment = {**os.environ, 'PYTHONPATH': f'{Path(__file__).parent}:{Path(__file__).parents[1]}'}
        return subprocess.run([sys.executable, '-m', 'deq_irnn.study', *args], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)
    done = run('study', '--task', 'outside:CountOnes:length=5', '--models', 'outside:net,rnn', '--seeds', '2', '--epochs', '2',
               '--hidden', '8', '--workers', '2', '--name', 'mine')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'outside:net' in done.stdout and 'count' in done.stdout
    again = run('plot', 'mine')
    assert again.returncode == 0 and 'outside:net' in again.stdout, again.stdout + again.stderr
    assert len(list((tmp_path/'runs/mine').glob('*.png'))) >= 2
