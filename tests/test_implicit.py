"""The implicit gradient where notebooks do not go: odd ways of closing over tensors, checkpointing, threads of use."""
import copy, pickle, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from deq_irnn.deq import DEQ
from deq_irnn.fixed_point import ConvergenceWarning
from deq_irnn.implicit import Implicit, fixed_point
from deq_irnn.solvers import Picard

@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0); torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

def matrix(D=3): return (.3*torch.randn(D, D)).requires_grad_()
TIGHT = dict(tol=1e-14, max_iter=300)

def test_weights_used_inside_and_before():
    "The same leaf reaches f twice: directly and through an injection computed from it. Nothing may be counted twice."
    def run(A, b):
        x = torch.tanh(b @ A)
        return fixed_point(lambda z: torch.tanh(z @ A + x) + .1*b, torch.zeros(2, 3), **TIGHT)
    assert gradcheck(run, (matrix(), torch.randn(2, 3, requires_grad=True)))
    assert gradgradcheck(run, (matrix(), torch.randn(2, 3, requires_grad=True)))

def test_second_derivative_with_respect_to_something_inside_the_graph():
    A, b = matrix(), torch.randn(2, 3, requires_grad=True)
    def penalty(solve):
        x = torch.sin(b)                                  # not a leaf
        z = solve(lambda z: torch.tanh(z @ A + x))
        g, = torch.autograd.grad(z.square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (A, b))
    def unrolled(f):
        z = torch.zeros(2, 3)
        for i in range(200): z = f(z)
        return z
    for mine, his in zip(penalty(lambda f: fixed_point(f, torch.zeros(2, 3), **TIGHT)), penalty(unrolled)): assert torch.allclose(mine, his, atol=1e-10)

class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return 2*x
    @staticmethod
    def backward(ctx, g): return 2*g

def test_custom_functions_give_first_derivatives_and_say_no_to_second_ones():
    A = matrix()
    def run(A): return fixed_point(lambda z: torch.cos(z) @ Double.apply(A)/2, torch.ones(2, 3), **TIGHT)
    assert gradcheck(run, (A,))
    with pytest.raises(RuntimeError, match='autograd.Function'):
        torch.autograd.grad(run(A).sum(), A, create_graph=True)

def test_checkpoint():
    layer, x = DEQ(nn.Bilinear(3, 3, 3), tol=1e-12), torch.randn(4, 3)
    layer.f = type('F', (nn.Module,), {'forward': lambda self, z, x: torch.tanh(.3*z + x*self.w)})()
    layer.f.w = nn.Parameter(torch.tensor(.7))
    direct, = torch.autograd.grad(layer(x).sum(), layer.f.w)
    for reentrant in (True, False):
        y = torch.utils.checkpoint.checkpoint(layer, x.clone().requires_grad_(), use_reentrant=reentrant)
        layer.zero_grad(); y.sum().backward()
        assert torch.allclose(layer.f.w.grad, direct)

def test_gradient_is_exact_where_the_peer_is_not():
    "The default gradient on 0.9·orthogonal; two uses before one backward; backward twice (PEERS: 0.83, 35 % off)."
    Q = (.9*torch.linalg.qr(torch.randn(32, 32))[0]).requires_grad_()
    x = .1*torch.randn(8, 32)
    f = lambda z: torch.tanh(z @ Q + x)
    z = torch.zeros(8, 32)
    for i in range(600): z = f(z)
    exact, = torch.autograd.grad(z.square().sum(), Q)
    a, b = fixed_point(f, torch.zeros(8, 32), tol=1e-10, max_iter=500), fixed_point(f, torch.ones(8, 32), tol=1e-10, max_iter=500)
    loss = a.square().sum() + b.square().sum()
    for retain in (True, False):
        got, = torch.autograd.grad(loss, Q, retain_graph=retain)
        assert (got - 2*exact).norm() < 1e-7*exact.norm()

def test_the_adjoint_solve_reports():
    A = matrix()
    z = fixed_point(lambda z: torch.cos(z @ A), torch.zeros(2, 3), tol=1e-12, gradient=Implicit(max_iter=2))
    with pytest.warns(ConvergenceWarning, match='adjoint'): z.sum().backward()

def test_the_backward_pass_does_not_evaluate_f():
    A, count = matrix(), [0]
    def f(z):
        count[0] += 1
        return torch.cos(z @ A)
    z, sol = fixed_point(f, torch.zeros(2, 3), return_solution=True)
    assert count[0] == sol.n_eval + 1                    # one more, with its graph
    z.sum().backward()
    assert count[0] == sol.n_eval + 1

def test_layer_is_an_ordinary_module(tmp_path):
    layer = DEQ(nn.Bilinear(3, 3, 3), solver=Picard(.5), on_failure='ignore')
    x = torch.randn(2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))): assert torch.equal(other(x), layer(x))
    torch.save(layer.state_dict(), tmp_path/'a.pt')
    layer.load_state_dict(torch.load(tmp_path/'a.pt', weights_only=True))
    assert 'Picard' in repr(layer)

def test_bfloat16_autocast_and_half_states():
    layer = DEQ(type('F', (nn.Module,), {'forward': lambda self, z, x: torch.tanh(self.l(z) + x)})(), tol=1e-2).float()
    layer.f.l = nn.Linear(8, 8).float()
    with torch.no_grad(): layer.f.l.weight.mul_(.5)
    x = torch.randn(4, 8, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        z = layer(x); z.float().sum().backward()
    assert layer.solution.converged.all() and torch.isfinite(layer.f.l.weight.grad).all()
    z = layer.bfloat16()(x.bfloat16())
    assert z.dtype == torch.bfloat16

def test_wrong_arguments_name_themselves():
    with pytest.raises(TypeError, match='gradient'): fixed_point(torch.cos, torch.zeros(1, 1), gradient=Implicit)
    with pytest.raises(TypeError, match='solver'): DEQ(torch.cos, solver='anderson')
    with pytest.raises(ValueError, match='max_iter'): Implicit(max_iter=-1)
    with pytest.raises(TypeError, match='z0'): DEQ(nn.Identity())({'a': torch.zeros(1, 1)})
