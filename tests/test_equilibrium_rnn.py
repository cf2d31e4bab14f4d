"Chapter 10, room 37: any cell, both modes, against autograd through the loop; derivatives of every kind; bad input."
import copy, pickle, threading, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._pytree import tree_leaves, tree_map
from deq_irnn import ConvergenceError, ConvergenceWarning
from deq_irnn.equilibrium_rnn import (DiagonalGRUCell, DiagonalLSTMCell, EquilibriumGRUCell, EquilibriumRNN, Explicit,
                                      IncrementalCell, JACOBIANS, TanhCell, lyapunov)
from deq_irnn.solvers import Broyden, Newton, Picard

CELLS = IncrementalCell, TanhCell, EquilibriumGRUCell, DiagonalGRUCell, DiagonalLSTMCell
MODES = 'sequential', 'parallel'
TIGHT = dict(tol=1e-13, max_iter=300)

def gru(N, D): return Explicit(nn.GRUCell(N, D))

class ByDerivative(DiagonalGRUCell):
    "Its Jacobian is found by forward-mode derivatives."
    jacobian = None

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def unrolled(cell, x, h):
    "The definition: each state by many plain iterations, all of them recorded."
    states = []
    for x_t in x:
        before = h
        for _ in range(1 if getattr(cell, 'explicit', False) else 300): h = cell(x_t, h, before)
        states.append(tree_leaves(h)[0])
    return torch.stack(states)

def close(found, right, tol=1e-8):
    for a, b in zip(found, right, strict=True): torch.testing.assert_close(a, b, atol=tol, rtol=tol)

@pytest.mark.parametrize('make', (*CELLS, ByDerivative, gru))
@pytest.mark.parametrize('mode', MODES)
def test_states_and_gradients_are_those_of_the_loop(make, mode):
    cell, x = make(3, 4), torch.randn(15, 2, 3, requires_grad=True)
    h_0 = tree_map(lambda t: torch.randn_like(t).requires_grad_(), cell.initial_state(2, x))
    rnn = EquilibriumRNN(cell, mode, tol=1e-14, max_iter=300, on_failure='ignore')
    out, right = tree_leaves(rnn(x, h_0)[0])[0], unrolled(cell, x, h_0)
    weight, wanted = torch.randn(15, 2, 4), (x, *tree_leaves(h_0), *cell.parameters())
    torch.testing.assert_close(out, right, atol=1e-10, rtol=0)
    close(torch.autograd.grad((out*weight).sum(), wanted), torch.autograd.grad((right*weight).sum(), wanted))

@pytest.mark.parametrize('jacobian', JACOBIANS)
def test_every_jacobian_finds_the_same_states_and_the_full_gradient(jacobian):
    "A diagonal, or no, Jacobian forward; the exact gradient all the same."
    cell = DiagonalGRUCell(3, 4) if jacobian == 'block' else TanhCell(3, 4)
    x = torch.randn(20, 2, 3, requires_grad=True)
    with torch.no_grad(): [p.mul_(.5) for p in cell.parameters()]
    results = []
    for rnn in (EquilibriumRNN(cell, 'parallel', jacobian, tol=1e-13, max_iter=500),
                EquilibriumRNN(cell, tol=1e-14, max_iter=500, on_failure='ignore')):
        out = rnn(x)[0]
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, *cell.parameters()))))
    close(*results)

def test_gradcheck_with_closures_and_nests():
    "A function that closes over a tensor, on a dict of two tensors."
    W = torch.randn(4, 4, requires_grad=True)
    def cell(x, h, before): return {'a': torch.tanh(.2*h['b'] @ W + before['a'] + x), 'b': .3*torch.sin(h['a']) + .5*before['b']}
    def run(x, W_, a, b):
        nonlocal W
        W = W_
        out = EquilibriumRNN(cell, tol=1e-14, max_iter=300, on_failure='ignore')(x, {'a': a, 'b': b})
        return out[0]['a'], out[0]['b'], out[1]['a']
    with torch.no_grad(): W.mul_(.3)
    a, b = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    assert gradcheck(run, (torch.randn(4, 2, 4, requires_grad=True), W, a, b), fast_mode=True)

def test_is_the_incremental_network_of_chapter_08():
    "At rest, h_t + h_{t−1} is the equilibrium s of x_t alone."
    cell, x = IncrementalCell(3, 8), torch.randn(30, 2, 3)
    s, h, states = torch.zeros(30, 2, 8), torch.zeros(2, 8), []
    for _ in range(400): s = cell(x, s, torch.zeros_like(s))
    for s_t in s:
        h = s_t - h
        states.append(h)
    for mode in MODES:
        torch.testing.assert_close(EquilibriumRNN(cell, mode, tol=1e-12, max_iter=300)(x)[0], torch.stack(states), atol=1e-9, rtol=0)

def test_ordinary_cells_are_themselves():
    x = torch.randn(12, 3, 5)
    gru, cell = nn.GRU(5, 7), nn.GRUCell(5, 7)
    cell.load_state_dict({k.removesuffix('_l0'): v for k, v in gru.state_dict().items()})
    for mode in MODES:
        out, h_n = EquilibriumRNN(Explicit(cell), mode, tol=1e-12)(x)
        torch.testing.assert_close(out, gru(x)[0])
        torch.testing.assert_close(h_n, gru(x)[1][0])
    lstm, cell = nn.LSTM(5, 7), nn.LSTMCell(5, 7)
    cell.load_state_dict({k.removesuffix('_l0'): v for k, v in lstm.state_dict().items()})
    (h, c), (h_n, c_n) = EquilibriumRNN(Explicit(cell), 'parallel', tol=1e-12)(x)
    torch.testing.assert_close(h, lstm(x)[0])
    torch.testing.assert_close(c_n, lstm(x)[1][1][0])

@pytest.mark.parametrize('solver', (Picard(), Broyden(), Newton()))
def test_any_solver(solver):
    cell, x = TanhCell(3, 6), torch.randn(10, 2, 3)
    out = EquilibriumRNN(cell, solver=solver, tol=1e-12, max_iter=500)(x)[0]
    torch.testing.assert_close(out, EquilibriumRNN(cell, tol=1e-12, max_iter=500)(x)[0], atol=1e-9, rtol=0)

def test_falls_back_and_says_why():
    cell, x = Explicit(nn.RNNCell(3, 32)), torch.randn(200, 2, 3)
    with torch.no_grad(): cell.cell.weight_hh.normal_(std=3/32**.5)
    with pytest.warns(ConvergenceWarning, match='Lyapunov exponent .* sequentially'):
        rnn = EquilibriumRNN(cell, 'parallel', max_iter=5)
        out = rnn(x)[0]
    torch.testing.assert_close(out, EquilibriumRNN(cell)(x)[0])
    assert rnn.solution.converged.all() and rnn.solution.n_eval == 205
    assert lyapunov(EquilibriumRNN(cell), x).shape == (2,)
    with pytest.raises(ConvergenceError):
        EquilibriumRNN(TanhCell(3, 4), max_iter=1, tol=1e-12, on_failure='raise')(torch.randn(3, 2, 3))

def test_lyapunov_of_a_linear_recurrence():
    "h_t = a h_{t−1} + x_t grows by log a per step."
    rnn = EquilibriumRNN(lambda x, h, before: .7*before + x)
    found = lyapunov(rnn, torch.randn(50, 2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(found, torch.tensor(.7).log().expand(2))

@pytest.mark.parametrize('mode', MODES)
def test_one_bad_sequence_leaves_the_others_alone(mode):
    cell, x = TanhCell(3, 4), torch.randn(8, 3, 3)
    x[3, 1] = float('nan')
    with pytest.warns(ConvergenceWarning, match='NONFINITE'): out = EquilibriumRNN(cell, mode, tol=1e-10)(x)[0]
    torch.testing.assert_close(out[:, ::2], EquilibriumRNN(cell, mode, tol=1e-10)(x[:, ::2])[0], atol=1e-8, rtol=0)
    assert out[:3, 1].isfinite().all() and out[3:, 1].isnan().all()

class Liar(TanhCell): coupling = 1
class Forgetful(TanhCell): explicit = True

def test_short_sequences_and_wrong_arguments():
    cell, x = TanhCell(3, 4), torch.randn(3, 2, 3)
    for mode in MODES:
        for T in (0, 1):
            out, h_n = EquilibriumRNN(cell, mode)(torch.randn(T, 2, 3), torch.ones(2, 4))
            assert out.shape == (T, 2, 4) and torch.equal(h_n, out[-1] if T else torch.ones(2, 4))
        assert EquilibriumRNN(cell, mode)(torch.randn(3, 0, 3))[0].shape == (3, 0, 4)
    with pytest.raises(ValueError, match='coupling'): EquilibriumRNN(Liar(3, 4))(x)
    with pytest.raises(ValueError, match='coupling'): EquilibriumRNN(Explicit(nn.RNNCell(3, 4), 3))(x)
    with pytest.raises(ValueError, match='h_prev'): EquilibriumRNN(lambda x, h, before: h[:, :2])(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match='h_prev'): EquilibriumRNN(lambda x, h, before: h[:1])(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match='h_0'): EquilibriumRNN(cell)(x, torch.zeros(5, 4))
    with pytest.raises(ValueError, match='h_0 must be given'): EquilibriumRNN(lambda x, h, before: h)(x)
    with pytest.raises(ValueError, match='h_0 must be given'): EquilibriumRNN(Explicit(lambda x, before: before))(x)
    with pytest.raises(ValueError, match='mode'): EquilibriumRNN(cell, 'both')
    with pytest.raises(ValueError, match='jacobian'): EquilibriumRNN(cell, 'parallel', 'full')
    with pytest.raises(ValueError, match='block'): EquilibriumRNN(cell, 'parallel', 'block')
    with pytest.raises(ValueError, match='atol'): EquilibriumRNN(cell, atol=-1.)
    with pytest.raises(ValueError, match='chunk'): EquilibriumRNN(cell, chunk=0)
    with pytest.raises(TypeError, match='solver'): EquilibriumRNN(cell, solver=0)
    with pytest.raises(TypeError, match='cell'): EquilibriumRNN(3)
    with pytest.raises(ValueError, match='hidden_size'): TanhCell(3, 0)

def test_a_cell_that_says_explicit_but_is_not_is_refused():
    with pytest.raises(ValueError, match='explicit=True'): EquilibriumRNN(Forgetful(3, 4))(torch.randn(3, 2, 3))

def test_the_check_draws_no_random_numbers():
    before = torch.get_rng_state()
    x = torch.ones(3, 2, 3)
    EquilibriumRNN(cell := DiagonalGRUCell(3, 4)) and torch.set_rng_state(before)
    EquilibriumRNN(cell)(x)
    assert torch.equal(torch.get_rng_state(), before)

def test_copies_and_trains():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    rnn, x = EquilibriumRNN(EquilibriumGRUCell(1, 8), 'parallel', tol=1e-4), torch.randn(20, 16, 1)
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))): assert torch.equal(twin(x)[0], rnn(x)[0])
    with pytest.raises(RuntimeError, match='call'): copy.deepcopy(rnn).solution
    head, target = nn.Linear(8, 1), x.sum(0)
    optimizer, losses = torch.optim.Adam([*rnn.parameters(), *head.parameters()], .02), []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        for _ in range(60):
            loss = (head(rnn(x)[1]) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < .3*losses[0]

class WrongJacobian(Explicit):
    def jacobian(self, x, h, before): return None, 2*Explicit(self.cell).jacobian(x, h, before)[1]

def test_a_jacobian_in_closed_form():
    "Explicit(nn.GRUCell) brings its own: the same gradients as autograd through the loop; a wrong one is refused."
    cell, x, h0 = gru(3, 5), torch.randn(12, 2, 3, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    assert cell.jacobian is not None and Explicit(nn.LSTMCell(3, 5)).jacobian is None
    want = torch.autograd.grad(unrolled(cell, x, h0).square().sum(), (x, h0, *cell.parameters()))
    for mode in MODES:
        loss = EquilibriumRNN(cell, mode, tol=1e-12)(x, h0)[0].square().sum()
        close(torch.autograd.grad(loss, (x, h0, *cell.parameters())), want)
    with pytest.raises(ValueError, match='cell.jacobian'): EquilibriumRNN(WrongJacobian(nn.GRUCell(3, 5)))(x, h0)

# what version 0.1 got wrong

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('make', (TanhCell, EquilibriumGRUCell, DiagonalGRUCell, DiagonalLSTMCell, gru))
def test_second_derivatives(make, mode):
    "In x, h_0 and the weights; by gradgradcheck, and a Hessian against autograd through the loop."
    cell, x = make(2, 3), torch.randn(3, 1, 2, requires_grad=True)
    h_0 = tree_map(lambda t: torch.randn_like(t).requires_grad_(), cell.initial_state(1, x))
    rnn, wanted = EquilibriumRNN(cell, mode, tol=1e-14, max_iter=300, on_failure='ignore'), (x, *tree_leaves(h_0), *cell.parameters())
    def run(x, *h): return tree_leaves(rnn(x, h[0] if len(h) == 1 else h)[0])[0]
    assert gradgradcheck(run, (x, *tree_leaves(h_0)), fast_mode=True)
    slopes = []
    for out in (run(x, *tree_leaves(h_0)), unrolled(cell, x, h_0)):
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        slopes.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    close(*slopes)

def test_third_derivatives():
    rnn, x = EquilibriumRNN(TanhCell(2, 2), 'parallel', **TIGHT), torch.randn(2, 1, 2, requires_grad=True)
    def slope(x): return torch.autograd.grad(rnn(x)[0].pow(3).sum(), x, create_graph=True)[0]
    assert gradgradcheck(slope, (x,))

def test_second_derivatives_of_a_closure_raise():
    W = torch.eye(2, requires_grad=True)
    out = EquilibriumRNN(lambda x, h, before: torch.tanh(.3*h @ W + before + x))(torch.randn(3, 1, 2), torch.zeros(1, 2))[0]
    with pytest.raises(RuntimeError, match='parameters'): torch.autograd.grad(out.sum(), W, create_graph=True)

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('make', (TanhCell, DiagonalGRUCell, gru))
def test_transformations_of_torch_func(make, mode):
    "grad, jvp, vmap, and a Hessian-vector product: the derivatives of the loop."
    torch.manual_seed(0)
    cell, x, h0 = make(2, 3), torch.randn(4, 2, 2), torch.randn(2, 3)
    for p in cell.parameters(): p.requires_grad_(False)
    rnn, v = EquilibriumRNN(cell, mode, **TIGHT), torch.randn(4, 2, 2)
    def ours(x): return rnn(x, h0)[0].square().sum()
    def right(x): return unrolled(cell, x, h0).square().sum()
    if make is gru: right = lambda x: sum(h.square().sum() for h in plain_gru(cell.cell, x, h0))
    close([torch.func.grad(ours)(x)], [torch.func.grad(right)(x)])
    close([torch.func.jvp(ours, (x,), (v,))[1]], [torch.func.jvp(right, (x,), (v,))[1]])
    def twice(f): return torch.func.grad(lambda x: (torch.func.grad(f)(x)*v).sum())(x)
    close([twice(ours)], [twice(right)])
    if make is gru: return                             # torch's own gru_cell does not know vmap, and says so
    many = torch.stack((x, 2*x))
    close([torch.vmap(torch.func.grad(ours))(many)], [torch.vmap(torch.func.grad(right))(many)])

def plain_gru(c, x, h):
    "nn.GRUCell in operations that every transformation knows."
    for x_t in x:
        i, s = (nn.functional.linear(v, W, b).chunk(3, 1) for v, W, b in ((x_t, c.weight_ih, c.bias_ih), (h, c.weight_hh, c.bias_hh)))
        r, z = torch.sigmoid(i[0] + s[0]), torch.sigmoid(i[1] + s[1])
        h = (1 - z)*torch.tanh(i[2] + r*s[2]) + z*h
        yield h

def test_forward_mode_without_torch_func_raises():
    rnn, x = EquilibriumRNN(TanhCell(2, 3)), torch.randn(3, 1, 2)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match='torch.func.jvp'): rnn(dual)
        with torch.no_grad(), pytest.raises(RuntimeError, match='torch.func.jvp'): rnn(dual)

@pytest.mark.parametrize('make', (DiagonalGRUCell, DiagonalLSTMCell, TanhCell, gru))
@pytest.mark.parametrize('frozen', (False, True))
def test_weights_that_change_before_the_backward_pass_are_noticed(make, frozen):
    "As in nn.GRU: also where only h_0 wants a gradient."
    cell, x = make(3, 4), torch.randn(5, 2, 3)
    for p in cell.parameters(): p.requires_grad_(not frozen)
    h_0 = tree_map(lambda t: torch.randn_like(t).requires_grad_(), cell.initial_state(2, x))
    for mode in MODES:
        loss = tree_leaves(EquilibriumRNN(cell, mode)(x, h_0)[1])[0].sum()
        with torch.no_grad(): [p.mul_(1.1) for p in cell.parameters()]
        with pytest.raises(RuntimeError, match='modified by an inplace operation'): loss.backward()

@pytest.mark.parametrize('make', (TanhCell, DiagonalGRUCell, gru))
@pytest.mark.parametrize('mode', MODES)
def test_functional_call(make, mode):
    "The backward pass uses the weights of the forward pass, not those that the module has again by then."
    cell, x = make(3, 4), torch.randn(6, 2, 3, requires_grad=True)
    new = {n: (1.7*p).detach().requires_grad_() for n, p in cell.named_parameters()}
    twin = make(3, 4)
    twin.load_state_dict(new)
    rnn = EquilibriumRNN(cell, mode, **TIGHT)
    out = torch.func.functional_call(rnn, {f'cell.{n}': p for n, p in new.items()}, (x,))[0]
    right = EquilibriumRNN(twin, mode, **TIGHT)(x)[0]
    close(torch.autograd.grad(out.square().sum(), (x, *new.values())), torch.autograd.grad(right.square().sum(), (x, *twin.parameters())))

def test_what_follows_may_write_into_the_output():
    rnn, x = EquilibriumRNN(TanhCell(3, 4), 'parallel', **TIGHT), torch.randn(5, 2, 3, requires_grad=True)
    want = torch.autograd.grad(torch.relu(rnn(x)[0]).sum(), x)
    out, h_n = rnn(x)
    kept = rnn.solution.z.clone()
    close(torch.autograd.grad(out.relu_().sum() + 0*h_n.zero_().sum(), x), want)
    assert torch.equal(rnn.solution.z, kept)

@pytest.mark.parametrize('make', (TanhCell, DiagonalGRUCell, DiagonalLSTMCell, gru))
def test_batches_of_gradients(make):
    "jacobian(vectorize=True) and is_grads_batched: the same, row by row."
    rnn, x = EquilibriumRNN(make(2, 3), 'parallel', **TIGHT), torch.randn(3, 1, 2)
    def run(x): return tree_leaves(rnn(x)[0])[0]
    rows, at_once = (torch.autograd.functional.jacobian(run, x, vectorize=v) for v in (False, True))
    close([at_once], [rows])
    out = run(x.requires_grad_())
    batched = torch.autograd.grad(out, x, torch.eye(9).view(9, 3, 1, 3), is_grads_batched=True)[0]
    close([batched.view_as(rows)], [rows])

def test_threads():
    "Forward-mode derivatives in eight threads: every gradient that of one thread alone."
    cell, xs = ByDerivative(3, 8), torch.randn(8, 40, 2, 3)
    rnns = [EquilibriumRNN(copy.deepcopy(cell), 'parallel', on_failure='ignore') for _ in xs]
    def gradient(rnn, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(rnn(x)[0].square().sum(), x)[0]
    right, wrong = [gradient(r, x) for r, x in zip(rnns, xs)], []
    def work(i):
        for _ in range(25):
            try: ok = torch.allclose(gradient(rnns[i], xs[i]), right[i])
            except Exception: ok = False
            if not ok: wrong.append(i)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong

def test_threads_share_a_module():
    "Second derivatives put other tensors into a module for a moment; first ones in other threads do not mind."
    rnn, xs = EquilibriumRNN(TanhCell(2, 3), **TIGHT), torch.randn(4, 6, 2, 2)
    V = rnn.cell.V
    def gradient(i, order):
        x = xs[i].clone().requires_grad_()
        g = torch.autograd.grad(rnn(x)[0].square().sum(), (x, V), create_graph=order > 1)
        return g if order == 1 else torch.autograd.grad(sum(t.square().sum() for t in g), (x, V))
    right, wrong = [gradient(i, 1 + i % 2) for i in range(4)], []
    def work(i):
        for _ in range(6):
            try: close(gradient(i, 1 + i % 2), right[i])
            except Exception as e: wrong.append(e)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong, wrong[0]
    assert all(type(p) is nn.Parameter for p in rnn.parameters())

def test_compiled_at_changing_lengths():
    torch.set_default_dtype(torch.float32)
    rnn = EquilibriumRNN(DiagonalGRUCell(3, 4), 'parallel')
    compiled = torch.compile(rnn, backend='aot_eager')
    for T in (12, 20, 33):
        x = torch.randn(T, 2, 3, requires_grad=True)
        a, b = (torch.autograd.grad(f(x)[0].square().sum(), (x, *rnn.parameters())) for f in (compiled, rnn))
        close(a, b, 1e-5)

def test_states_are_matched_by_key():
    def cell(x, h, before): return {'b': .5*h['b'] + 2*x + before['b'], 'a': .5*h['a'] + x}
    for mode in MODES:
        out, h_n = EquilibriumRNN(cell, mode, **TIGHT)(torch.ones(2, 1, 1), {'a': torch.zeros(1, 1), 'b': torch.zeros(1, 1)})
        close([out['a'][:, 0, 0], out['b'][:, 0, 0], h_n['b'][0]], [torch.tensor([2., 2.]), torch.tensor([4., 12.]), torch.tensor([12.])])

def test_tiny_states_are_not_called_converged():
    "Numbers whose squares are 0 in float32."
    torch.set_default_dtype(torch.float32)
    for mode in MODES:
        rnn = EquilibriumRNN(lambda x, h, before: .5*h + .1*torch.sin(h) + x, mode)
        out = rnn(torch.full((2, 1, 2), 1e-30), torch.zeros(1, 2))[0]
        torch.testing.assert_close(out*1e30, torch.full((2, 1, 2), 2.5), rtol=1e-4, atol=0)

def test_atol_is_enough():
    cell, x = TanhCell(3, 4), torch.randn(5, 2, 3)
    for mode in MODES:
        rnn = EquilibriumRNN(cell, mode, tol=0., atol=1e-6, on_failure='raise')
        close([rnn(x)[0]], [EquilibriumRNN(cell, mode, **TIGHT)(x)[0]], 1e-4)

def test_a_function_as_jacobian():
    "Open from outside: any (step, x, h, h0) → Linearised."
    def mine(step, x, h, h0):
        calls.append(len(x))
        return JACOBIANS['diagonal'](step, x, h, h0)
    calls, cell, x = [], DiagonalGRUCell(3, 4), torch.randn(9, 2, 3)
    out = EquilibriumRNN(cell, 'parallel', mine, **TIGHT)(x)[0]
    close([out], [EquilibriumRNN(cell)(x)[0]])
    assert calls

def test_autocast():
    "The solver's own arithmetic is not rounded: states and gradients of the function that autocast makes of the cell."
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    cell, x = TanhCell(3, 8), torch.randn(20, 2, 3)
    def gradient(rnn, on):
        rnn.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=on): out = rnn(x)[0]
        out.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in rnn.parameters()])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        for mode in MODES:
            exact, rough = (gradient(EquilibriumRNN(cell, mode, tol=1e-3), on) for on in (False, True))
            assert (exact - rough).norm() < .02*exact.norm()
