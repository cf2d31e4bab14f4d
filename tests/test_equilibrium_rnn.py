"Chapter 10: any cell, both modes, against autograd through the loop; bad input; fallback."
import copy, pickle, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck
from deq_irnn import ConvergenceError, ConvergenceWarning
from deq_irnn.equilibrium_rnn import (DiagonalGRUCell, DiagonalLSTMCell, EquilibriumGRUCell, EquilibriumRNN, Explicit, IncrementalCell, JACOBIANS, TanhCell, lyapunov)
from deq_irnn.fixed_point import leaves
from deq_irnn.root_irnn import RootIRNN
from deq_irnn.solvers import Broyden, Newton, Picard

CELLS = IncrementalCell, TanhCell, EquilibriumGRUCell, DiagonalGRUCell, DiagonalLSTMCell

@pytest.fixture(autouse=True)
def double(): torch.set_default_dtype(torch.float64)

def unrolled(cell, x, h):
    states = []
    for x_t in x:
        before = h
        for _ in range(300): h = cell(x_t, h, before)
        states.append(leaves(h)[0])
    return torch.stack(states)

@pytest.mark.parametrize('make', CELLS)
@pytest.mark.parametrize('mode', ('sequential', 'parallel'))
def test_states_and_gradients_are_those_of_the_loop(make, mode):
    cell, x = make(3, 4), torch.randn(15, 2, 3, requires_grad=True)
    h_0 = cell.initial_state(2, x)
    h_0 = tuple(torch.randn_like(t).requires_grad_() for t in h_0) if isinstance(h_0, tuple) else torch.randn_like(h_0).requires_grad_()
    out = leaves(EquilibriumRNN(cell, mode, tol=1e-14, max_iter=300, on_failure='ignore')(x, h_0)[0])[0]
    right, weight, wanted = unrolled(cell, x, h_0), torch.randn(15, 2, 4), (x, *leaves(h_0), *cell.parameters())
    torch.testing.assert_close(out, right, atol=1e-10, rtol=0)
    for a, b in zip(torch.autograd.grad((out*weight).sum(), wanted), torch.autograd.grad((right*weight).sum(), wanted)): torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)

@pytest.mark.parametrize('jacobian', JACOBIANS)
def test_every_jacobian_finds_the_same_states_and_the_full_gradient(jacobian):
    "A diagonal, or no, Jacobian forward; the exact gradient all the same."
    cell, x = DiagonalGRUCell(3, 4) if jacobian == 'block' else TanhCell(3, 4), torch.randn(20, 2, 3, requires_grad=True)
    with torch.no_grad(): [p.mul_(.5) for p in cell.parameters()]
    results = []
    for rnn in (EquilibriumRNN(cell, 'parallel', jacobian, tol=1e-13, max_iter=500), EquilibriumRNN(cell, tol=1e-14, max_iter=500, on_failure='ignore')):
        out = rnn(x)[0]
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, *cell.parameters()))))
    for a, b in zip(*results): torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)

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
    assert gradcheck(run, (torch.randn(4, 2, 4, requires_grad=True), W, torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)), fast_mode=True)

def test_is_the_incremental_network_of_chapter_07():
    cell, x = IncrementalCell(3, 8), torch.randn(30, 2, 3)
    root = RootIRNN(3, 8, transition='minus', gate=False, tol=1e-13, max_iter=300)
    root.cells[0].load_state_dict({'weight_ih': cell.W.weight, 'weight_hh': cell.U[None], 'bias': cell.W.bias})
    for mode in ('sequential', 'parallel'): torch.testing.assert_close(EquilibriumRNN(cell, mode, tol=1e-12, max_iter=300)(x)[0], root(x)[0], atol=1e-9, rtol=0)

def test_ordinary_cells_are_themselves():
    x = torch.randn(12, 3, 5)
    gru, cell = nn.GRU(5, 7), nn.GRUCell(5, 7)
    cell.load_state_dict({k.removesuffix('_l0'): v for k, v in gru.state_dict().items()})
    for mode in ('sequential', 'parallel'):
        out, h_n = EquilibriumRNN(Explicit(cell), mode, tol=1e-12)(x)
        torch.testing.assert_close(out, gru(x)[0]); torch.testing.assert_close(h_n, gru(x)[1][0])
    lstm, cell = nn.LSTM(5, 7), nn.LSTMCell(5, 7)
    cell.load_state_dict({k.removesuffix('_l0'): v for k, v in lstm.state_dict().items()})
    (h, c), (h_n, c_n) = EquilibriumRNN(Explicit(cell), 'parallel', tol=1e-12)(x)
    torch.testing.assert_close(h, lstm(x)[0]); torch.testing.assert_close(c_n, lstm(x)[1][1][0])

@pytest.mark.parametrize('solver', (Picard(), Broyden(), Newton()))
def test_any_solver(solver):
    cell, x = TanhCell(3, 6), torch.randn(10, 2, 3)
    torch.testing.assert_close(EquilibriumRNN(cell, solver=solver, tol=1e-12, max_iter=500)(x)[0], EquilibriumRNN(cell, tol=1e-12, max_iter=500)(x)[0], atol=1e-9, rtol=0)

def test_falls_back_and_says_why():
    cell, x = Explicit(nn.RNNCell(3, 32)), torch.randn(200, 2, 3)
    with torch.no_grad(): cell.cell.weight_hh.normal_(std=3/32**.5)
    with pytest.warns(ConvergenceWarning, match='Lyapunov exponent .* sequentially'): out = EquilibriumRNN(cell, 'parallel', max_iter=5)(x)[0]
    torch.testing.assert_close(out, EquilibriumRNN(cell)(x)[0])
    assert lyapunov(EquilibriumRNN(cell), x).shape == (2,)
    with pytest.raises(ConvergenceError): EquilibriumRNN(TanhCell(3, 4), max_iter=1, tol=1e-12, on_failure='raise')(torch.randn(3, 2, 3))

def test_lyapunov_of_a_linear_recurrence():
    "h_t = a h_{t−1} + x_t grows by log a per step."
    rnn = EquilibriumRNN(lambda x, h, before: .7*before + x)
    torch.testing.assert_close(lyapunov(rnn, torch.randn(50, 2, 3), torch.zeros(2, 3)), torch.tensor(.7).log().expand(2))

@pytest.mark.parametrize('mode', ('sequential', 'parallel'))
def test_one_bad_sequence_leaves_the_others_alone(mode):
    cell, x = TanhCell(3, 4), torch.randn(8, 3, 3)
    x[3, 1] = float('nan')
    with pytest.warns(ConvergenceWarning, match='NONFINITE'): out = EquilibriumRNN(cell, mode, tol=1e-10)(x)[0]
    torch.testing.assert_close(out[:, ::2], EquilibriumRNN(cell, mode, tol=1e-10)(x[:, ::2])[0], atol=1e-8, rtol=0)
    assert out[:3, 1].isfinite().all() and out[3:, 1].isnan().all()

def test_short_sequences_and_wrong_arguments():
    cell = TanhCell(3, 4)
    for mode in ('sequential', 'parallel'):
        for T in (0, 1):
            out, h_n = EquilibriumRNN(cell, mode)(torch.randn(T, 2, 3), torch.ones(2, 4))
            assert out.shape == (T, 2, 4) and torch.equal(h_n, out[-1] if T else torch.ones(2, 4))
    class Liar(TanhCell): coupling = 1
    with pytest.raises(ValueError, match='coupling'): EquilibriumRNN(Liar(3, 4))(torch.randn(3, 2, 3))
    with pytest.raises(ValueError, match='h_prev'): EquilibriumRNN(lambda x, h, before: h[:, :2])(torch.randn(3, 2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match='h_0'): EquilibriumRNN(cell)(torch.randn(3, 2, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match='h_0 must be given'): EquilibriumRNN(lambda x, h, before: h)(torch.randn(3, 2, 3))
    with pytest.raises(ValueError, match='mode'): EquilibriumRNN(cell, 'both')
    with pytest.raises(ValueError, match='block'): EquilibriumRNN(cell, 'parallel', 'block')
    with pytest.raises(TypeError, match='cell'): EquilibriumRNN(3)
    with pytest.raises(ValueError, match='hidden_size'): TanhCell(3, 0)

def test_copies_and_trains():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    rnn, x = EquilibriumRNN(EquilibriumGRUCell(1, 8), 'parallel', tol=1e-4), torch.randn(20, 16, 1)
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))): assert torch.equal(twin(x)[0], rnn(x)[0])
    head, target = nn.Linear(8, 1), x.sum(0)
    optimizer, losses = torch.optim.Adam([*rnn.parameters(), *head.parameters()], .02), []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        for _ in range(60):
            loss = (head(rnn(x)[1]) - target).square().mean()
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < .3*losses[0]

def test_a_jacobian_in_closed_form():
    "Explicit(nn.GRUCell) brings its own: the same gradients as autograd through the loop; a wrong one is refused."
    cell, x = Explicit(nn.GRUCell(3, 5)), torch.randn(12, 2, 3, requires_grad=True)
    assert cell.jacobian is not None and Explicit(nn.LSTMCell(3, 5)).jacobian is None
    h = h0 = torch.randn(2, 5, requires_grad=True)
    states = []
    for x_t in x: h = cell(x_t, h, h); states.append(h)
    want = torch.autograd.grad(torch.stack(states).square().sum(), (x, h0, *cell.parameters()))
    for mode in ('sequential', 'parallel'):
        got = torch.autograd.grad(EquilibriumRNN(cell, mode, tol=1e-12)(x, h0)[0].square().sum(), (x, h0, *cell.parameters()))
        for a, b in zip(got, want): torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)
    class Wrong(Explicit):
        def jacobian(self, x, h, before): return None, 2*self._gru_jacobian(x, h, before)[1]
    with pytest.raises(ValueError, match='cell.jacobian'): EquilibriumRNN(Wrong(nn.GRUCell(3, 5)))(x, h0)
