"Room 35: the kernel gives what the tiles of room 33 give, for any number of tokens; elsewhere these are taken. In Triton's interpreter where there is no GPU."
import json, os, subprocess, sys
from pathlib import Path
import pytest, torch
triton = pytest.importorskip('triton', reason='the kernel needs Triton, which has no wheel for this system: pip install triton')

HERE = 'cuda' if torch.cuda.is_available() else 'cpu'
from deq_irnn.kernel import fits, plan, rest, split
from deq_irnn.fixed_point import ConvergenceWarning, Status
from deq_irnn.solvers import Solve
from deq_irnn.root_irnn import RootIRNN
from deq_irnn.tokens import Tiles, solve_tokens
from deq_irnn.irnn import activation
from deq_irnn.wellposed import contractive, monotone, reflect

ROOT = Path(__file__).resolve().parents[1]

KERNEL, NONE = Tiles(kernel=True), Tiles(kernel=False)

def true_gap(s, act, q, C, data):
    "‖act(u) − s‖ with s at the place that the kernel says it is, in float64: half of how far w = 2s − u moves."
    s, q, C, data = s.double(), q.double(), C.double(), [d.double() for d in data]
    u = torch.linalg.solve(torch.eye(len(C), device=C.device).double() + C.mT, (2*s @ C + q).mT).mT      # u = (2s − u) C + q
    return (act(u, *data) - s).norm(dim=1)

def problem(D, N, kind='relu', dtype=torch.float32):
    V, C = reflect(contractive(torch.randn(D, D), .95))
    q, data = torch.randn(N, D) @ V, (torch.rand(N, D).to(HERE, dtype),) if kind == 'slope' else ()
    return torch.mul if kind == 'slope' else activation(kind).fn, q.to(HERE, dtype), C.to(HERE, dtype), data

def exact(act, q, C, data):
    q, C, data = q.double(), C.double(), [d.double() for d in data]
    w = q
    for _ in range(1000): u = w @ C + q; w = 2*act(u, *data) - u
    return act(u, *data)

@pytest.mark.parametrize('D,N', [(32, 1), (32, 127), (32, 300), (64, 129), (128, 65)])
@pytest.mark.parametrize('kind', ('relu', 'tanh', 'sigmoid', 'slope'))
def test_any_number_of_tokens(D, N, kind):
    act, q, C, data = problem(D, N, kind)
    for tol in (1e-3, 1e-6):
        s = torch.full((N, D), torch.nan, device=HERE)
        its, gap = rest(act, q, C, s, data, tol, 100)
        z = exact(act, q, C, data)
        assert 1 <= its.min() and its.max() < 100 and ((s - z).norm(dim=1) <= (20*tol + 1e-6)*z.norm(dim=1)).all()
        assert (true_gap(s, act, q, C, data) <= 2*gap).all()

@pytest.mark.parametrize('dtype', (torch.bfloat16, torch.float16))
def test_half_precision(dtype):
    act, q, C, data = problem(32, 50, 'tanh', dtype)
    s = torch.empty_like(q)
    its, gap = rest(act, q, C, s, data, 1e-3, 100)
    z = exact(act, q, C, data)
    assert s.dtype == dtype and its.max() < 100 and gap.isfinite().all() and (s - z).norm() < 2*torch.finfo(dtype).eps*z.norm()

def test_writes_into_columns_of_a_longer_row():
    act, q, C, _ = problem(32, 40)
    whole = torch.zeros(40, 96, device=HERE)
    rest(act, q, C, whole[:, 32:64], (), 1e-5, 100)
    assert not whole[:, :32].any() and not whole[:, 64:].any() and torch.allclose(whole[:, 32:64].double(), exact(act, q, C, ()), atol=1e-4)

def test_limits_and_broken_tokens():
    act, q, C, _ = problem(32, 40)
    q[3] = torch.nan; q[4] = torch.inf
    for max_iter in (1, 2, 3):
        s = torch.empty_like(q)
        its, gap = rest(act, q, C, s, (), 1e-9, max_iter)
        rows = torch.arange(40, device=HERE) > 4
        assert (its[rows] == max_iter).all() and (gap[rows] > 1e-9).all() and s[rows].isfinite().all() and gap[3].isnan() and not gap[4].isfinite()
    its, gap = rest(act, q[:0], C, torch.empty_like(q[:0]), (), 1e-3, 10)
    assert len(its) == len(gap) == 0

def test_an_equilibrium_of_zeros():
    act, q, C, _ = problem(32, 20)
    V = reflect(torch.zeros(32, 32))[0]
    s = torch.empty_like(q)
    its, gap = rest(act, torch.full_like(q, -1.), torch.zeros_like(C), s, (), 1e-5, 50)
    assert not s.any() and its.max() < 50 and gap.max() < 1e-4
    dead = torch.full_like(q, -1.), torch.zeros(1, 32, 32, device=HERE), activation('relu'), .5, Solve(tol=1e-5)
    sol = solve_tokens(*dead, KERNEL)
    assert sol.converged.all() and not sol.residual.any()                   # the bound is not enough: the truth is looked up

def test_its_tokens_are_judged_and_finished():
    "Two parts of eight bits each leave some tokens above the tolerance: they are finished without it."
    U, p = monotone(torch.randn(1, 32, 32)/6, 2*torch.randn(1, 32, 32)/6, .95), torch.randn(200, 32)
    sol = solve_tokens(p.to(HERE), U.to(HERE), activation('relu'), None, Solve(tol=1e-4, max_iter=500), KERNEL)
    true = (torch.relu(sol.z.double().cpu() @ U[0].double().T + p.double()) - sol.z.double().cpu()).norm(dim=1)/sol.z.double().cpu().norm(dim=1)
    assert sol.converged.all() and (true <= 1.01e-4).all() and (sol.residual.cpu() >= .99*true - 1e-7).all()

def test_no_answer_depends_on_its_neighbours():
    act, q, C, _ = problem(32, 200, 'tanh')
    q[:100] *= 30.
    s, one = torch.empty_like(q), torch.empty_like(q)
    its, _ = rest(act, q, C, s, (), 1e-4, 100)
    for i in (0, 101, 199):
        alone, _ = rest(act, q[i:i+1], C, one[i:i+1], (), 1e-4, 100)
        assert alone[0] == its[i]; torch.testing.assert_close(one[i], s[i], atol=1e-6, rtol=1e-5)

@pytest.mark.parametrize('options', [dict(), dict(nonlinearity='sigmoid', transition='plus'), dict(heads=2), dict(recurrence='monotone'), dict(num_layers=2, bidirectional=True)], ids=str)
def test_root_irnn_is_the_same_with_it(options, monkeypatch):
    nets = [RootIRNN(3, 64, solver=tiles, tol=1e-5, device=HERE, **options) for tiles in (KERNEL, NONE)]
    nets[1].load_state_dict(nets[0].state_dict())
    x, calls = torch.randn(9, 5, 3, device=HERE), []
    monkeypatch.setattr('deq_irnn.kernel.rest', lambda *a, **k: (calls.append(1), rest(*a, **k))[1])
    def run(rnn): y = rnn(x)[0]; return (y, *torch.autograd.grad(y.square().sum(), [*rnn.parameters()]))
    there = run(nets[0])
    so_far = len(calls)
    assert so_far >= 2                                                      # forward and adjoint
    for a, b in zip(there, run(nets[1])): assert (a - b).norm() <= 1e-3*b.norm()
    assert len(calls) == so_far and not fits(torch.relu, torch.zeros(2, 32, device='meta'), 1e-3)

def test_what_does_not_fit_takes_the_other_path():
    for size, nonlinearity, dtype in ((48, 'relu', torch.float32), (24, 'tanh', torch.float32), (32, torch.sin, torch.float32), (32, 'tanh', torch.float64)):
        rnn = RootIRNN(3, size, 1, nonlinearity, solver=KERNEL, device=HERE, dtype=dtype)
        rnn(torch.randn(4, 2, 3, device=HERE, dtype=dtype))[0].sum().backward()
        assert rnn.last[0].solution.converged.all()
    assert not fits(torch.relu, torch.zeros(3, 48), 1e-3) and not fits(torch.sin, torch.zeros(3, 32), 1e-3) and fits(torch.relu, torch.zeros(3, 32), 1e-3)

def test_it_says_what_did_not_converge():
    U, p = contractive(torch.randn(1, 32, 32), .99).to(HERE), torch.randn(9, 32, device=HERE)
    with pytest.warns(ConvergenceWarning, match='solve_tokens'): solve_tokens(p, U, activation('relu'), .99, Solve(tol=1e-7, max_iter=2), KERNEL)
    p[2] = torch.nan
    sol = solve_tokens(p, U, activation('relu'), .99, Solve(tol=1e-4, max_iter=200, on_failure='ignore'), KERNEL)
    assert sol.status.tolist() == [int(Status.NONFINITE) if i == 2 else int(Status.CONVERGED) for i in range(9)]

def test_parts_add_up():
    x = torch.randn(1000)*torch.logspace(-20, 20, 1000)
    for parts, bits in ((1, 8), (2, 16), (3, 24)): assert ((split(x, parts).double().sum(0) - x.double()).abs() <= 2.**-bits*x.double().abs()).all()

def test_nothing_is_imported_where_it_is_not_used():
    code = "import sys, torch, deq_irnn; deq_irnn.RootIRNN(2, 32)(torch.randn(3, 1, 2)); assert 'deq_irnn.kernel' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)
    code = "import sys; sys.modules['triton'] = None; import torch; from deq_irnn.root_irnn import RootIRNN; from deq_irnn.tokens import Tiles; RootIRNN(2, 32, solver=Tiles(kernel=True))(torch.randn(3, 1, 2))"
    subprocess.run([sys.executable, '-c', code], check=True)

def test_it_compiles_for_two_generations(tmp_path):
    "Without a GPU: Triton's compiler and NVIDIA's assembler, and no more shared memory than `plan` says."
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'} | {'TRITON_CACHE_DIR': str(tmp_path/'cache')}
    done = subprocess.run([sys.executable, ROOT/'benchmarks/gpu.py', '--compile', '32', '64', '--out', tmp_path/'k.json'], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path/'k.json').read_text())['rows']
    assert {r['card'] for r in rows} == {'Ampere', 'Hopper'} and all(r['matrix_instructions'] > 0 and r['shared'] <= r['room'] for r in rows)

def test_the_benchmark_runs():
    done = subprocess.run([sys.executable, ROOT/'benchmarks/gpu.py', '--smoke', '--only', 'kernel', 'scans', 'sequences'], capture_output=True, text=True)
    assert done.returncode == 0 and 'of_matrix_rate' in done.stdout and 'not run' not in done.stdout.replace('not run: not installed', ''), done.stderr[-3000:]
    if HERE == 'cpu': assert subprocess.run([sys.executable, ROOT/'benchmarks/gpu.py'], capture_output=True, text=True).stderr.strip().endswith('run without one')
