"The theorem of chapter 08, the drop-ins, rooms 33 and 34, and the parts that a notebook cell is too short for."
import copy, io, pickle, subprocess, sys, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from deq_irnn.fixed_point import ConvergenceWarning, Status
from deq_irnn.solvers import Anderson, Broyden, Newton, NewtonKrylov, Picard, Solve, solve
from deq_irnn.irnn import activation
from deq_irnn.isometry import TRANSITIONS, Orthogonal
from deq_irnn.root_irnn import GATES, INJECTIONS, RECURRENCES, InputGate, IsometricRNN, Rest, RootBlock, RootIRNN
from deq_irnn.time_parallel import time_parallel
from deq_irnn.tokens import Tiles, solve_tokens, token_equilibrium
from deq_irnn.wellposed import contractive, monotone, reflect

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def shaken(net):
    "Transitions with random weights: at the start some of them do not look at the input."
    for cell in net.cells:
        for w in cell.transition.parameters(): nn.init.normal_(w)
    return net

def reference(rnn, x, h):
    "h_k, one step after the other: the equilibrium in g by root-finding, with h_{k−1} in the equation as the paper has it."
    cell, out = rnn.cells[0], []
    injection, R = cell.injection, cell.transition
    U = torch.block_diag(*injection.recurrence())
    for x_k in x:
        turned = R(x_k[None], None, h)[0]
        p = injection.linear(x_k)
        s = solve(lambda s, p: injection.phi(s @ U.T + p), torch.zeros_like(p), args=(p,), tol=1e-13, max_iter=300).z
        gate = cell.gate(x_k[None], s[None])[0] if cell.gate is not None else 1.
        f = lambda h_k: turned + gate*injection.phi(((h_k - turned)/gate) @ U.T + p)       # h_k on both sides
        h = solve(f, turned, tol=1e-13, max_iter=300, on_failure='ignore').z
        out.append(h)
    return torch.stack(out)

@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('gate', ('state', 'input', False))
@pytest.mark.parametrize('heads', (1, 2))
def test_equals_the_step_by_step_reference(transition, gate, heads):
    rnn = shaken(RootIRNN(3, 8, transition=transition, gate=gate, heads=heads, tol=1e-14, max_iter=500, on_failure='ignore'))
    if gate == 'state': nn.init.normal_(rnn.cells[0].gate.weight_state)
    x, h0 = torch.randn(40, 2, 3), torch.randn(1, 2, 8)
    with torch.no_grad(): torch.testing.assert_close(rnn(x, h0)[0], reference(rnn, x, h0[0]), atol=1e-9, rtol=1e-9)

@pytest.mark.parametrize('transition', TRANSITIONS)
@pytest.mark.parametrize('make', (RootIRNN, IsometricRNN, *(lambda *a, r=r, **k: RootIRNN(*a, recurrence=r, **k) for r in RECURRENCES),
                                  *(lambda *a, i=i, **k: IsometricRNN(*a, injection=i, **k) for i in (*INJECTIONS, None))))
def test_every_singular_value_is_one(transition, make):
    rnn = shaken(make(3, 16, transition=transition))
    h0 = torch.zeros(1, 1, 16, requires_grad=True)
    end = rnn(torch.randn(200, 1, 3), h0)[1].flatten()
    J = torch.stack([torch.autograd.grad(e, h0, retain_graph=True)[0].flatten() for e in end])
    assert (torch.linalg.svdvals(J) - 1).abs().max() < 1e-10

@pytest.mark.parametrize('options', [dict(transition=t) for t in TRANSITIONS] + [dict(nonlinearity='relu', heads=2), dict(nonlinearity='sigmoid'), dict(nonlinearity=torch.sin, heads=1), dict(solver=Anderson()), dict(gate=False, bias=False),
                                     dict(gate='input'), dict(recurrence='monotone'), dict(recurrence='monotone', solver=Picard())], ids=str)
def test_gradients(options):
    rnn = shaken(RootIRNN(1, 4, num_layers=2, tol=1e-13, max_iter=300, **options))
    names, params = zip(*rnn.named_parameters())
    def run(x, h0, *params): return torch.func.functional_call(rnn, dict(zip(names, params)), (x, h0))[0]
    args = torch.randn(3, 1, 1, requires_grad=True), torch.randn(2, 1, 4, requires_grad=True), *params
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
            U = contractive(rnn.cells[0].injection.recurrence.weight_hh, .95)
            assert torch.linalg.matrix_norm(U, 2).max() <= .95*(1 + 1e-5) and rnn.last[0].solution.converged.all()
    assert torch.linalg.matrix_norm(rnn.cells[0].injection.recurrence.weight_hh, 2).max() > 5

@pytest.mark.parametrize('phi', ('tanh', 'relu', 'sigmoid'))
def test_monotone_far_beyond_norm_one(phi):
    "One rest point, from anywhere, where plain iteration diverges: ‖U‖ = 37, the figure of THEORY.md; forward and adjoint against dense linear algebra."
    B, A = torch.randn(32, 32), torch.randn(32, 32)
    U = monotone(A/6, B*37/torch.linalg.matrix_norm(B - B.T, 2), .95)
    assert torch.linalg.matrix_norm(U, 2) > 30 and torch.linalg.eigvalsh((U + U.T)/2).max() <= .95 + 1e-12
    phi, p, U = activation(phi), torch.randn(50, 32, requires_grad=True), U[None].requires_grad_()
    s, sol = token_equilibrium(p, U, phi, how=Solve(tol=1e-12, max_iter=20000))
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
        U = rnn.cells[0].injection.recurrence()[0].double()
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
        s, sol = token_equilibrium(p, U, activation(phi), .9, Solve(tol=1e-5))
        g, = torch.autograd.grad(s.sum(), p)
    assert sol.iterations.max() < 30 and torch.isfinite(g).all()
    with torch.no_grad(): torch.testing.assert_close(activation(phi)(s @ U[0].T + p), s)
    if phi == 'relu': assert not s.any() and not g.any()
    else: torch.testing.assert_close(g, activation(phi).derivative(s)*torch.ones(16), rtol=1e-2, atol=1e-12)

@pytest.mark.parametrize('transition', TRANSITIONS)
def test_streaming(transition):
    rnn, x = shaken(RootIRNN(3, 8, num_layers=2, transition=transition, tol=1e-12)), torch.randn(50, 2, 3)
    whole, h_n = rnn(x)
    state, parts = None, []
    for chunk in x.split((1, 7, 30, 12)):
        out, state = rnn(chunk, state); parts.append(out)
    torch.testing.assert_close(torch.cat(parts), whole); torch.testing.assert_close(state, h_n)
    out, state = rnn.step(x[0])
    torch.testing.assert_close(out, whole[0])
    packed = nn.utils.rnn.pack_padded_sequence(x, [50, 20], enforce_sorted=False)
    out, h_n = rnn(packed)
    alone, end = rnn(x[:20, 1:])
    torch.testing.assert_close(nn.utils.rnn.pad_packed_sequence(out)[0][:20, 1:], alone); torch.testing.assert_close(h_n[:, 1:], end)
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
from deq_irnn.isometry import Transition
from deq_irnn.root_irnn import IsometricRNN, RootIRNN
from deq_irnn.time_parallel import time_parallel
torch.set_num_threads(1); torch.set_default_dtype(torch.float64)
dist.init_process_group('gloo')
rank, P, results = dist.get_rank(), dist.get_world_size(), {}
calls, gather = [], dist.all_gather
dist.all_gather = lambda *a, **k: (calls.append(a[1].numel()), gather(*a, **k))[1]
class Mixed(Transition):                                                      # a user's own, with weights in apply_summary too
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.w = torch.nn.Parameter(torch.randn(hidden_size, hidden_size))
    def Q(self): return torch.linalg.matrix_exp(self.w - self.w.T)
    def forward(self, x, b, h0):
        out, h = [], h0
        for t in range(len(x)):
            h = torch.sign(x[t].sum(-1, keepdim=True))*(h @ self.Q())
            if b is not None: h = h + b[t]
            out.append(h)
        return torch.stack(out)
    def summary(self, x): return torch.cat([torch.sign(x.sum(-1)).prod(0)[:, None], x.new_full((x.shape[1], 1), len(x))], 1)
    def apply_summary(self, summary, h): return summary[:, :1]*(h @ torch.linalg.matrix_power(self.Q(), int(summary[0, 1])))
for transition in ('minus', 'plus', 'rotation', 'input_rotation', 'orthogonal', Mixed):
    for last in (False, True):                                                # a loss on every output, or on the last state alone
        torch.manual_seed(0)
        if last: rnn = IsometricRNN(3, 8, num_layers=2, transition=transition, injection='tanh')
        else: rnn = RootIRNN(3, 8, num_layers=2, transition=transition, tol=1e-13, max_iter=300)
        [torch.nn.init.normal_(w) for c in rnn.cells for w in c.transition.parameters()]
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
        assert len(calls) == 4 and max(calls) <= 2*8 + 2*8*4
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

# ---- what a review found

def test_saving_keeps_no_batch(tmp_path):
    "torch.save of a net was 23 KB before a call and 8.9 MB after; its copies too."
    rnn = RootIRNN(3, 64)
    def size():
        file = io.BytesIO()
        torch.save(rnn, file)
        return file.tell()
    before = size()
    rnn(torch.randn(200, 32, 3))
    assert size() == before and len(pickle.dumps(copy.deepcopy(rnn))) < 2*before
    with pytest.raises(RuntimeError, match='no solution'): copy.deepcopy(rnn).last[0].solution

@pytest.mark.parametrize('options', [dict(), dict(recurrence='monotone'), dict(transition='minus', gate=False), dict(nonlinearity='relu', heads=2), dict(transition='orthogonal')], ids=str)
def test_torch_func(options):
    "func.grad, gradients of each sample by vmap, and forward mode: as autograd."
    rnn, x = shaken(RootIRNN(3, 8, tol=1e-11, max_iter=300, **options)), torch.randn(6, 4, 3)
    weights = {k: v.detach() for k, v in rnn.named_parameters()}
    def loss(weights, x): return torch.func.functional_call(rnn, weights, (x,))[0].square().sum()
    want = torch.autograd.grad(rnn(x)[0].square().sum(), [*rnn.parameters()])
    got = torch.func.grad(loss)(weights, x)
    each = torch.func.vmap(torch.func.grad(lambda w, x: loss(w, x[:, None])), (None, 1))(weights, x)
    along = {k: torch.randn_like(v) for k, v in weights.items()}
    slope = torch.func.jvp(lambda w: loss(w, x), (weights,), (along,))[1]
    for w, g, e in zip(want, got.values(), each.values()):
        torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-7); torch.testing.assert_close(e.sum(0), w, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(slope, sum((a*w).sum() for a, w in zip(along.values(), want)), rtol=1e-7, atol=1e-7)
    repr(rnn.last[0].solution)

def test_batched_gradients_of_tokens():
    p, U = torch.randn(5, 6, requires_grad=True), contractive(torch.randn(1, 6, 6), .9)
    s = token_equilibrium(p, U, activation('tanh'), .9, Solve(tol=1e-12, max_iter=300))[0]
    g = torch.randn(3, 5, 6)
    batch = torch.func.vmap(lambda g: torch.autograd.grad(s, p, g, retain_graph=True)[0])(g)
    for i in range(3): torch.testing.assert_close(batch[i], torch.autograd.grad(s, p, g[i], retain_graph=True)[0])
    with pytest.raises(RuntimeError, match='torch.func.jacrev'): torch.autograd.grad(s, p, g, is_grads_batched=True, retain_graph=True)

def test_second_derivative_where_p_depends_on_U():
    U = (.3*torch.randn(1, 4, 4)).requires_grad_()
    def f(U): return token_equilibrium(torch.sin(U[0]), U, activation('tanh'), how=Solve(tol=1e-13, max_iter=1000))[0]
    assert gradcheck(f, (U,)) and gradgradcheck(f, (U,))

def test_compile_has_few_breaks():
    "43 graphs and the recompile limit, once; now a handful for each layer, at any length."
    torch.set_default_dtype(torch.float32)
    rnn = RootIRNN(3, 8)
    torch._dynamo.reset()
    assert torch._dynamo.explain(rnn)(torch.randn(20, 4, 3)).graph_count <= 6
    torch._dynamo.reset()
    compiled = torch.compile(rnn, backend='eager')
    config = torch._dynamo.config
    strict = [name for name in ('fail_on_recompile_limit_hit', 'fail_on_cache_limit_hit') if hasattr(config, name)]
    with config.patch({name: True for name in strict[:1]}):                 # (torch 2.4 has neither)
        for T in (20, 21, 33, 50, 64, 70, 81, 90, 11, 12):
            x = torch.randn(T, 4, 3)
            torch.testing.assert_close(compiled(x)[0], rnn(x)[0])
    torch._dynamo.reset()

@pytest.mark.parametrize('wrong', [dict(solver=0), dict(solver='newton'), dict(solver=Newton), dict(transition='spin'), dict(transition=Orthogonal(2, 4)),
                                   dict(recurrence='spectral'), dict(heads=3), dict(bound=1.), dict(gate='output'), dict(gate=3), dict(length=0),
                                   dict(max_iter=0), dict(on_failure='warning'), dict(atol=-1.), dict(recurrence=lambda D, heads: nn.Linear(D, D))], ids=str)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises((ValueError, TypeError)) as e: RootIRNN(2, 4, **wrong)
    assert next(iter(wrong)) in str(e.value)

def test_a_module_for_one_cell_only():
    gate = InputGate(2, 4)
    assert RootIRNN(2, 4, gate=gate).cells[0].gate is gate
    for options in (dict(num_layers=2), dict(bidirectional=True)):
        with pytest.raises(TypeError, match='gate'): RootIRNN(2, 4, gate=gate, **options)

def test_positional_arguments_are_those_of_rnn():
    a, b = nn.RNN(3, 4, 2, 'relu', False, True, .1, True), RootIRNN(3, 4, 2, 'relu', False, True, .1, True)
    for name in ('num_layers', 'bias', 'batch_first', 'dropout', 'bidirectional'): assert getattr(a, name) == getattr(b, name)
    assert b.cells[0].injection.phi.fn is torch.relu and b.cells[0].injection.bias is None
    with pytest.raises(TypeError, match='drop c'): b(torch.randn(2, 5, 3), (torch.zeros(4, 2, 4), torch.zeros(4, 2, 4)))

def test_a_start_that_is_learned():
    rnn = IsometricRNN(2, 8, 2, injection=None)
    assert rnn.h_0 is not None and torch.allclose(rnn.h_0.norm(dim=1), torch.full((2,), 8**.5)) and all(c.gate is None for c in rnn.cells)
    x = torch.randn(30, 3, 2)
    out, h_n = rnn(x)
    torch.testing.assert_close(out.norm(dim=2), torch.full((30, 3), 8**.5))           # nothing is lost
    start = rnn.h_0.detach().clone()
    rnn.reset_parameters()
    assert not torch.equal(rnn.h_0, start) and torch.allclose(rnn.h_0.norm(dim=1), torch.full((2,), 8**.5))
    learned = RootIRNN(2, 4, learn_h0=True)
    assert not learned.h_0.any()
    learned(x)[0].sum().backward()
    assert learned.h_0.grad.abs().sum() > 0 and RootIRNN(2, 4).h_0 is None

@pytest.mark.parametrize('solver', [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov(), Tiles(size=64, first=3)], ids=str)
@pytest.mark.parametrize('recurrence', RECURRENCES)
def test_any_solver(solver, recurrence):
    ours, theirs = (RootIRNN(2, 4, recurrence=recurrence, solver=s, tol=1e-10, max_iter=300) for s in (None, solver))
    theirs.load_state_dict(ours.state_dict())
    x, g = torch.randn(6, 3, 2), {}
    for rnn in (ours, theirs): g[rnn] = torch.autograd.grad(rnn(x)[0].square().sum(), [*rnn.parameters()])
    for a, b in zip(g[ours], g[theirs]): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert theirs.last[0].solution.converged.all()

def problem(phi, scale, N=300, D=32):
    "A monotone U as it becomes in training, and tokens, some of which are dead for a ReLU."
    A, S = torch.randn(1, D, D)/D**.5, scale*torch.randn(1, D, D)/D**.5
    U, p = monotone(A, S, .95), torch.randn(N, D)
    if phi == 'relu': p[:N//4] -= 30*scale
    return U, p

@pytest.mark.parametrize('phi', ('relu', 'tanh', 'sigmoid'))
@pytest.mark.parametrize('scale', (1., 5.))
@pytest.mark.parametrize('max_iter', (10, 100, 3000))
def test_monotone_residuals_are_true(phi, scale, max_iter):
    "float32: finite, measured in float64 at the s returned; 'converged' is 1e-5 and not 333 times that."
    U, p = problem(phi, scale)
    U, p = U.float(), p.float()
    for bound, matrix in ((None, U), (.9, contractive(U, .9))):
        sol = solve_tokens(p, matrix, activation(phi), bound, Solve(tol=1e-5, max_iter=max_iter, on_failure='ignore'))
        s, V = sol.z.double(), matrix[0].double()
        fs = activation(phi)(s @ V.T + p.double())
        size = torch.maximum(fs.norm(dim=1), s.norm(dim=1))
        true = torch.where(size == 0, 0., (fs - s).norm(dim=1)/size.clamp_min(1e-30))
        assert sol.residual.isfinite().all() and sol.residual.max() <= 2
        noise = 1e-6*torch.linalg.matrix_norm(V, 2).clamp_min(1.)
        assert (true <= sol.residual + noise).all(), 'a residual is told that is too small'
        assert (true[sol.converged] <= 1e-5 + noise).all()
        assert (sol.converged == (sol.residual <= 1e-5*(1 + 1e-6))).all()
        if bound is None and scale == 1 and max_iter == 3000: assert sol.converged.all()

def test_a_token_far_from_its_units():
    "One unit of a million, dead, must not hide that the others have not come to rest."
    torch.set_default_dtype(torch.float32)
    U, p = contractive(torch.randn(1, 8, 8), .9), torch.randn(50, 8)
    p[:, 0] = -1e6
    s, sol = token_equilibrium(p, U, activation('relu'), .9, Solve(tol=1e-5))
    exact = solve(lambda s: torch.relu(s @ U[0].double().T + p.double()), torch.zeros(50, 8).double(), tol=1e-12, max_iter=500).z
    assert sol.converged.all() and ((s - exact).norm(dim=1) <= 3e-4*exact.norm(dim=1)).all()

@pytest.mark.parametrize('scale', (1e-30, 1e-22, 1., 1e25))
def test_numbers_of_any_size(scale):
    "Squares below 1e-38 are 0 in float32: such tokens, and such gradients, were done before they began."
    torch.set_default_dtype(torch.float32)
    U, p = contractive(torch.randn(1, 8, 8), .9), torch.randn(20, 8)
    def run(p, g):
        p = p.clone().requires_grad_()
        s = token_equilibrium(p, U, activation('relu'), .9, Solve(tol=1e-6))[0]
        return s.detach(), torch.autograd.grad(s, p, g)[0]
    g = torch.randn(20, 8)
    (s, d), (s1, d1) = run(p, g), run(scale*p, scale*g)
    torch.testing.assert_close(s1/scale, s, rtol=1e-4, atol=1e-5); torch.testing.assert_close(d1/scale, d, rtol=1e-4, atol=1e-5)

def test_a_token_does_not_depend_on_its_neighbours():
    "Exactly: what the others of its tile still need does not change it."
    U, p = contractive(torch.randn(1, 16, 16), .95), torch.randn(400, 16)
    p[:30] *= 1e-3                                                      # these are done early
    how = Solve(tol=1e-6, on_failure='ignore')
    together = solve_tokens(p, U, activation('tanh'), .95, how)
    for i in (0, 7, 29, 30, 200):
        alone = solve_tokens(p[i:i+1], U, activation('tanh'), .95, how)
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.z[0], together.z[i], atol=1e-13, rtol=0)

def test_failures_have_a_status():
    U, p = contractive(torch.randn(1, 8, 8), .99), torch.randn(9, 8)
    p[2] = torch.nan
    sol = solve_tokens(p, U, activation('tanh'), .99, Solve(tol=1e-12, max_iter=5, on_failure='ignore'))
    assert sol.status.tolist() == [int(Status.NONFINITE) if i == 2 else int(Status.MAX_ITER) for i in range(9)]
    low = solve_tokens(p[:2].float(), U.float(), activation('tanh'), .99, Solve(tol=1e-12, max_iter=500, on_failure='ignore'))
    assert (low.status == int(Status.STALLED)).all() and (low.residual < 1e-6).all()       # what float32 cannot do

def test_atol_is_enough():
    U, p = contractive(torch.randn(1, 8, 8), .9), torch.randn(9, 8)
    sol = solve_tokens(p, U, activation('tanh'), .9, Solve(tol=0, atol=1e-3))
    assert sol.converged.all() and sol.iterations.max() < 20

def test_an_activation_of_ones_own():
    "With parameters, no derivative known: the general path trains them."
    class Scaled(nn.Module):
        def __init__(self): super().__init__(); self.a = nn.Parameter(torch.tensor(.5))
        def forward(self, u): return torch.tanh(self.a*u)
    phi = Scaled()
    rnn = RootIRNN(2, 4, 1, phi)
    rnn(torch.randn(5, 3, 2))[0].square().sum().backward()
    assert phi.a.grad is not None and phi.a.grad != 0

def test_gate_of_the_state_begins_as_that_of_the_input():
    a, b = RootIRNN(2, 4, gate='input'), RootIRNN(2, 4)
    b.load_state_dict(a.state_dict(), strict=False)
    x = torch.randn(6, 3, 2)
    assert set(GATES) == {'input', 'state'} and torch.equal(a(x)[0], b(x)[0])

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda():
    rnn, x = RootIRNN(3, 16, tol=1e-12, max_iter=300), torch.randn(50, 4, 3)
    there = copy.deepcopy(rnn).cuda()
    torch.testing.assert_close(there(x.cuda())[0].cpu(), rnn(x)[0])


def test_packed_sequences_that_come_to_rest_have_one_length():
    "Else the last state of a shorter one would not be at rest, and differ from what the sequence alone gives."
    rnn = IsometricRNN(3, 4, rest=lambda D: ToInteger(every=3))
    xs = [torch.randn(5, 3), torch.randn(5, 3), torch.randn(2, 3)]
    for i, h in enumerate(rnn(nn.utils.rnn.pack_sequence(xs[:2]))[1][0]): torch.testing.assert_close(h, rnn(xs[i])[1][0])
    with pytest.raises(ValueError, match='rest=None, or sequences of one length'): rnn(nn.utils.rnn.pack_sequence(xs))
    rnn.last[0].rest = None
    rnn(nn.utils.rnn.pack_sequence(xs))

class ToInteger(Rest):
    "Every unit rests at the nearest whole number."
    def forward(self, h): return h.round()
