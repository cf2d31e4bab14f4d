"The theorem of chapter 08, the drop-in, the parts that a notebook cell is too short for."
import copy, pickle, subprocess, sys, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from deq_irnn import ConvergenceWarning, RootIRNN, fixed_point, solve
from deq_irnn.solvers import Anderson, Broyden
from deq_irnn.root_irnn import RECURRENCES, TRANSITIONS, RootBlock, contractive, monotone, reflect, time_parallel, token_equilibrium
from deq_irnn.irnn import activation

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def reference(rnn, x, h):
    "h_k, one step after the other: the rest point in g by root-finding to 1e-12, with h_{k−1} in the equation as the paper has it."
    cell, out = rnn.cells[0], []
    U, D = torch.block_diag(*cell.recurrent_matrix()), rnn.hidden_size
    for x_k in x:
        theta = cell.angle if cell.weight_angle is None else x_k @ cell.weight_angle.T + cell.angle if cell.angle is not None else None
        if cell.angle is None: turned = h*(-1 if cell.transition == 'minus' else 1)
        else:
            u, v = h.chunk(2, -1)
            turned = torch.cat((u*theta.cos() - v*theta.sin(), u*theta.sin() + v*theta.cos()), -1)
        gate = torch.sigmoid(x_k @ cell.weight_gate.T + cell.bias_gate) if cell.weight_gate is not None else 1.
        p = x_k @ cell.weight_ih.T + cell.bias
        f = lambda h_k: turned + gate*cell.phi(((h_k - turned)/gate) @ U.T + p)       # h_k on both sides
        h = solve(f, turned, tol=1e-13, max_iter=300, on_failure='ignore').z
        out.append(h)
    return torch.stack(out)

@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('gate', (True, False))
@pytest.mark.parametrize('heads', (1, 2))
def test_equals_the_step_by_step_reference(transition, gate, heads):
    rnn = RootIRNN(3, 8, transition=transition, gate=gate, heads=heads, tol=1e-14, max_iter=500, on_failure='ignore')
    if transition == 'input_rotation': nn.init.normal_(rnn.cells[0].weight_angle)
    x, h0 = torch.randn(40, 2, 3), torch.randn(1, 2, 8)
    with torch.no_grad(): torch.testing.assert_close(rnn(x, h0)[0], reference(rnn, x, h0[0]), atol=1e-10, rtol=1e-10)

@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('recurrence', RECURRENCES)
def test_every_singular_value_is_one(transition, recurrence):
    rnn = RootIRNN(3, 16, transition=transition, recurrence=recurrence, tol=1e-12, max_iter=300)
    if transition == 'input_rotation': nn.init.normal_(rnn.cells[0].weight_angle)
    h0 = torch.zeros(1, 1, 16, requires_grad=True)
    end = rnn(torch.randn(200, 1, 3), h0)[1].flatten()
    J = torch.stack([torch.autograd.grad(e, h0, retain_graph=True)[0].flatten() for e in end])
    assert (torch.linalg.svdvals(J) - 1).abs().max() < 1e-10

@pytest.mark.parametrize('options', [dict(transition=t) for t in TRANSITIONS] + [dict(nonlinearity='relu', heads=2), dict(nonlinearity='sigmoid'), dict(nonlinearity=torch.sin, heads=1), dict(solver=Anderson()), dict(gate=False, bias=False), dict(recurrence='monotone')], ids=str)
def test_gradients(options):
    rnn = RootIRNN(1, 2, num_layers=2, tol=1e-13, max_iter=300, **options)
    names, params = zip(*rnn.named_parameters())
    def run(x, h0, *params): return torch.func.functional_call(rnn, dict(zip(names, params)), (x, h0))[0]
    args = torch.randn(3, 1, 1, requires_grad=True), torch.randn(2, 1, 2, requires_grad=True), *params
    assert gradcheck(run, args, fast_mode=True)
    if not options.keys() & {'solver', 'heads'}: assert gradgradcheck(run, [a[:2] if i == 0 else a for i, a in enumerate(args)], fast_mode=True)

def test_hard_bound_after_large_steps():
    "Adam with a learning rate of 1: the weights explode, the bound holds, and every token converges."
    torch.set_default_dtype(torch.float32)
    rnn = RootIRNN(3, 32, max_iter=500)
    optimizer = torch.optim.Adam(rnn.parameters(), 1.)
    with warnings.catch_warnings():
        warnings.simplefilter('error', ConvergenceWarning)
        for _ in range(15):
            optimizer.zero_grad(); rnn(torch.randn(20, 4, 3))[0].square().mean().neg().backward(); optimizer.step()
            U = contractive(rnn.cells[0].weight_hh, .95)
            assert torch.linalg.matrix_norm(U, 2).max() <= .95*(1 + 1e-5) and rnn.last[0].solution.converged.all()
    assert torch.linalg.matrix_norm(rnn.cells[0].weight_hh, 2).max() > 5

@pytest.mark.parametrize('phi', ('tanh', 'relu', 'sigmoid'))
def test_monotone_far_beyond_norm_one(phi):
    "One rest point, from anywhere, where plain iteration diverges: ‖U‖ = 37, the figure of THEORY.md; forward and adjoint against dense linear algebra."
    B, A = torch.randn(32, 32), torch.randn(32, 32)
    U = monotone(A/6, B*37/torch.linalg.matrix_norm(B - B.T, 2), .95)
    assert torch.linalg.matrix_norm(U, 2) > 30 and torch.linalg.eigvalsh((U + U.T)/2).max() <= .95 + 1e-12
    phi, p, U = activation(phi), torch.randn(50, 32, requires_grad=True), U[None].requires_grad_()
    s, sol = token_equilibrium(p, U, phi, 'monotone', tol=1e-12, max_iter=20000)
    assert sol.converged.all() and (phi(s @ U[0].T + p) - s).norm(dim=1).div(s.norm(dim=1)).max() <= 1e-12*(1 + 1e-3)
    V, C = reflect(U[0].detach())
    ends = []
    for w in 100*torch.randn(5, 50, 32):
        for _ in range(8000): u = w @ C + p.detach() @ V; w = 2*phi(u) - u
        ends.append(phi(u))
    for end in ends: torch.testing.assert_close(end, s.detach(), atol=1e-9, rtol=0)
    g = torch.randn_like(s)
    J = phi.derivative(s)[:, :, None]*U[0]
    exact = phi.derivative(s)*torch.linalg.solve((torch.eye(32) - J).mT, g)
    torch.testing.assert_close(torch.autograd.grad(s, p, g)[0], exact, atol=1e-8, rtol=1e-8)

def test_hard_bound_of_monotone_after_large_steps():
    torch.set_default_dtype(torch.float32)
    rnn = RootIRNN(3, 16, recurrence='monotone', tol=1e-3, max_iter=20000)
    optimizer = torch.optim.Adam(rnn.parameters(), .3)
    for _ in range(10):
        optimizer.zero_grad(); rnn(torch.randn(20, 4, 3))[0].square().mean().neg().backward(); optimizer.step()
        U = rnn.cells[0].recurrent_matrix()[0].double()
        assert torch.linalg.eigvalsh((U + U.T)/2).max() <= .95 + 1e-5*torch.linalg.matrix_norm(U, 2) and rnn.last[0].solution.converged.all()
    assert torch.linalg.matrix_norm(U, 2) > 10

def test_a_sequence_does_not_depend_on_its_batch_mates():
    rnn, x = RootIRNN(3, 16, tol=1e-6, on_failure='ignore'), torch.randn(30, 5, 3)
    x[7, 2] = float('nan')
    out = rnn(x)[0]
    for i in (0, 1, 3, 4): torch.testing.assert_close(out[:, i], rnn(x[:, i:i+1])[0][:, 0], atol=1e-12, rtol=0)
    assert out[:7, 2].isfinite().all() and out[7:, 2].isnan().any()

@pytest.mark.parametrize('phi', ('relu', 'tanh'))
def test_dead_and_saturated_units(phi):
    "An equilibrium of zeros (ReLU), and slopes of 1e-10 (tanh): the solves end, forward and adjoint, and are right."
    torch.set_default_dtype(torch.float32)
    U, p = contractive(torch.randn(1, 16, 16), .9), torch.full((40, 16), -12. if phi == 'relu' else 8.).add_(torch.rand(40, 16)).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter('error', ConvergenceWarning)
        s, sol = token_equilibrium(p, U, activation(phi), tol=1e-5)
        g, = torch.autograd.grad(s.sum(), p)
    assert sol.iterations.max() < 30 and torch.isfinite(g).all()
    with torch.no_grad(): torch.testing.assert_close(activation(phi)(s @ U[0].T + p), s)
    if phi == 'relu': assert not s.any() and not g.any()
    else: torch.testing.assert_close(g, activation(phi).derivative(s)*torch.ones(16), rtol=1e-2, atol=1e-12)

def test_streaming():
    rnn, x = RootIRNN(3, 8, num_layers=2, transition='input_rotation', tol=1e-12), torch.randn(50, 2, 3)
    whole, h_n = rnn(x)
    state, parts = None, []
    for chunk in x.split((1, 7, 30, 12)):
        out, state = rnn(chunk, state); parts.append(out)
    torch.testing.assert_close(torch.cat(parts), whole); torch.testing.assert_close(state, h_n)
    with pytest.raises(ValueError, match='bidirectional'): RootIRNN(3, 8, bidirectional=True).step(x[0])

def test_block():
    x = torch.randn(12, 2, 6)
    for options in (dict(), dict(hidden=10, gated=False), dict(batch_first=True, bidirectional=True)):
        block = RootBlock(6, **options)
        y, h_n = block(x)
        assert y.shape == x.shape and h_n.shape[-1] == options.get('hidden', 6)
        y.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    for wrong in (dict(size=0), dict(size=4, expand=0), dict(size=4, hidden=2.5)):
        with pytest.raises((ValueError, TypeError)): RootBlock(**wrong)

CHUNKS = """
import sys, torch, torch.distributed as dist
from deq_irnn.root_irnn import RootIRNN, time_parallel
torch.set_num_threads(1); torch.set_default_dtype(torch.float64)
dist.init_process_group('gloo')
rank, P, results = dist.get_rank(), dist.get_world_size(), {}
calls, gather = [], dist.all_gather
dist.all_gather = lambda *a, **k: (calls.append(a[1].numel()), gather(*a, **k))[1]
for transition in ('minus', 'plus', 'rotation', 'input_rotation'):
    for last in (False, True):                                                # a loss on every output, or on the last state alone
        torch.manual_seed(0)
        rnn = RootIRNN(3, 8, num_layers=2, transition=transition, tol=1e-13, max_iter=300)
        if transition == 'input_rotation': [torch.nn.init.normal_(c.weight_angle) for c in rnn.cells]
        x, h0, weight = torch.randn(37, 2, 3, requires_grad=True), torch.randn(2, 2, 8, requires_grad=True), torch.randn(37, 2, 8)
        def loss(out, h_n, weight): return h_n.square().sum() if last else (out*weight).sum()
        whole, end = rnn(x, h0)
        expected = torch.autograd.grad(loss(whole, end, weight), (x, h0, *rnn.parameters()))
        calls.clear()
        part = torch.arange(37).tensor_split(P)[rank]
        with time_parallel():
            out, h_n = rnn(x[part], h0)
            assert len(calls) == 2, calls                                     # one collective per layer
        torch.testing.assert_close(out, whole[part])
        if rank == P - 1: torch.testing.assert_close(h_n, end)
        mine = loss(out, h_n, weight[part])*(1. if not last or rank == P - 1 else 0.)
        for got, want in zip(torch.autograd.grad(mine, (x, h0, *rnn.parameters())), expected):
            dist.all_reduce(got)
            torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
        assert len(calls) == 4 and max(calls) <= 2*2*8
try:
    with time_parallel(): RootIRNN(3, 8, bidirectional=True)(x)
except ValueError as e: assert 'bidirectional' in str(e)
else: raise AssertionError
dist.barrier()
dist.destroy_process_group()
if rank == 0: print('equal')
"""

@pytest.mark.parametrize('processes', (2, 4))
def test_time_parallel_equals_one_process(processes, tmp_path):
    "torchrun, gloo: the time axis in 2 and 4 uneven chunks; same outputs, same gradients of everything, one small collective per layer and direction."
    (tmp_path/'chunks.py').write_text(CHUNKS)
    run = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', str(tmp_path/'chunks.py')],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and 'equal' in run.stdout, run.stderr[-3000:]

def test_time_parallel_needs_processes():
    with pytest.raises(RuntimeError, match='torchrun'):
        with time_parallel(): pass

def test_copies_and_saves(tmp_path):
    rnn, x = RootIRNN(3, 8, num_layers=2), torch.randn(10, 2, 3)
    rnn(x)
    torch.save(rnn.state_dict(), tmp_path/'w.pt')
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        twin.load_state_dict(torch.load(tmp_path/'w.pt', weights_only=True))
        assert torch.equal(twin(x)[0], rnn(x)[0])

def test_autocast_and_low_precision():
    torch.set_default_dtype(torch.float32)
    rnn, x = RootIRNN(3, 16, tol=1e-2), torch.randn(20, 4, 3)
    with torch.autocast('cpu', torch.bfloat16): out = rnn(x)[0]; out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rnn.parameters())
    torch.testing.assert_close(out.float(), rnn(x)[0], atol=.1, rtol=.1)
    low = RootIRNN(3, 16, tol=2e-2, dtype=torch.bfloat16)
    assert low(x.bfloat16())[0].dtype == torch.bfloat16

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda():
    rnn, x = RootIRNN(3, 16, tol=1e-12, max_iter=300), torch.randn(50, 4, 3)
    there = copy.deepcopy(rnn).cuda()
    torch.testing.assert_close(there(x.cuda())[0].cpu(), rnn(x)[0])
