"""The implicit gradient where notebooks do not go: odd ways of closing over tensors, checkpointing, threads of use."""
import copy, pickle, warnings
import pytest, torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from deq_irnn.deq import DEQ
from deq_irnn.fixed_point import ConvergenceWarning
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from deq_irnn.derivatives import attach_node
from deq_irnn.implicit import Implicit, Neumann, Phantom, Reversible, Unrolled, fixed_point
from deq_irnn.solvers import Anderson, Broyden, Newton, NewtonKrylov, Picard, Solve, solve

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


# --- torch.func: every transformation, and some of them nested, beside the same on 150 unrolled steps

def implicit(f, z0, **options): return fixed_point(f, z0, **{**TIGHT, **options})
def unrolled(f, z0, **options):
    z = z0
    for i in range(150): z = f(z)
    return z

def state(run, W, b): return run(lambda z: torch.tanh(z @ W + b), torch.zeros_like(b))          # closes over both
def loss(run, W, b): return state(run, W, b).square().sum()
def nest(run, W, b): return run(lambda y: .5*torch.sin(state(run, W, y)) + b*W.sum(), torch.zeros(2, 3))

TRANSFORMS = {
    'grad': lambda run, W, b, c: grad(lambda W, b: loss(run, W, b), (0, 1))(W, b),
    'vjp': lambda run, W, b, c: vjp(lambda W, b: state(run, W, b), W, b)[1](c[0]),
    'jvp': lambda run, W, b, c: jvp(lambda W, b: state(run, W, b), (W, b), (W.T, c[0])),
    'vmap': lambda run, W, b, c: vmap(lambda b: state(run, W, b))(c),
    'vmap over another dimension': lambda run, W, b, c: vmap(lambda W, b: state(run, W, b), (2, 1))(torch.stack((W, W.T, -W, W/2), 2), c.transpose(0, 1)),
    'vmap of grad': lambda run, W, b, c: vmap(grad(lambda W, b: loss(run, W, b), (0, 1)), (None, 0))(W, c),
    'grad of vmap': lambda run, W, b, c: grad(lambda W: vmap(lambda b: state(run, W, b))(c).square().sum())(W),
    'grad of grad': lambda run, W, b, c: grad(lambda W: grad(lambda b: loss(run, W, b))(b).square().sum())(W),
    'jacrev': lambda run, W, b, c: jacrev(lambda W: state(run, W, b))(W),
    'jacfwd': lambda run, W, b, c: jacfwd(lambda W: state(run, W, b))(W),
    'hessian': lambda run, W, b, c: hessian(lambda W, b: loss(run, W, b), (0, 1))(W, b),
    'jvp of jvp': lambda run, W, b, c: jvp(lambda b: jvp(lambda W: state(run, W, b), (W,), (W.T,))[1], (b,), (c[0],)),
    'a nest, grad': lambda run, W, b, c: grad(lambda W, b: nest(run, W, b).square().sum(), (0, 1))(W, b),
    'a nest, vmap': lambda run, W, b, c: vmap(lambda b: nest(run, W, b))(c),
    'a nest, jvp': lambda run, W, b, c: jvp(lambda W: nest(run, W, b), (W,), (W.T,)),
}

@pytest.mark.parametrize('name', TRANSFORMS)
def test_torch_func(name):
    W, b, c = .3*torch.randn(3, 3), torch.randn(2, 3), torch.randn(4, 2, 3)
    if name.startswith('a nest'): W = W/2
    torch.testing.assert_close(*(TRANSFORMS[name](run, W, b, c) for run in (implicit, unrolled)), rtol=1e-8, atol=1e-9)

@pytest.mark.parametrize('solver', [Picard(), Broyden(), Newton(), NewtonKrylov()], ids=str)
def test_torch_func_with_every_solver(solver):
    W, c = .3*torch.randn(3, 3), torch.randn(4, 2, 3)
    def run(f, z0): return implicit(f, z0, solver=solver, tol=1e-12)
    got, expected = (TRANSFORMS['vmap of grad'](r, W, None, c) for r in (run, unrolled))
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)

class Tanh(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(3, 3); self.l.weight.data.mul_(.5)
    def forward(self, z, x): return torch.tanh(self.l(z) + x)

def test_weights_lent_by_functional_call():
    "The backward pass runs after functional_call has given the layer its own weights back."
    layer, x = DEQ(Tanh(), tol=1e-13, max_iter=300), torch.randn(5, 3)
    lent = {k: v.detach() + .1 for k, v in layer.named_parameters()}
    def run(p, x): return functional_call(layer, p, (x,)).square().sum()
    got = grad(run)(lent, x)
    per_sample = vmap(grad(lambda p, x: run(p, x[None])), (None, 0))(lent, x)
    twice = grad(lambda p: sum(g.square().sum() for g in grad(run)(p, x).values()))(lent)
    with torch.no_grad():
        for k, p in layer.named_parameters(): p.copy_(lent[k])
    params = list(layer.parameters())
    first = torch.autograd.grad(layer(x).square().sum(), params, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), params)
    for k, a, b in zip(lent, first, second):
        assert torch.allclose(got[k], a) and torch.allclose(per_sample[k].sum(0), a) and torch.allclose(twice[k], b)

def test_torch_func_states_options_and_refusals():
    W, x = .3*torch.randn(3, 3), torch.randn(4, 2, 3)
    def two(W, x, run=implicit): return run(lambda z: {'a': torch.tanh(z['b'] @ W + x), 'b': (.5*torch.sin(z['a']))}, {'a': torch.zeros(2, 3), 'b': torch.zeros(2, 3)})
    got = vmap(grad(lambda W, x: two(W, x)['a'].sum()), (None, 0))(W, x)
    want = torch.stack([torch.autograd.grad(two(V := W.clone().requires_grad_(), y)['a'].sum(), V)[0] for y in x])
    assert torch.allclose(got, want)
    z, sol = vmap(lambda x: state(lambda f, z0: fixed_point(f, z0, return_solution=True)[0], W, x))(x), None
    assert z.shape == x.shape
    few = grad(lambda W: loss(lambda f, z0: fixed_point(f, z0, gradient=Neumann(3), tol=1e-13), W, x[0]))(W)
    same = torch.autograd.grad(loss(lambda f, z0: fixed_point(f, z0, gradient=Neumann(3), tol=1e-13), V := W.clone().requires_grad_(), x[0]), V)[0]
    assert torch.allclose(few, same)
    for rule in (Phantom(), Reversible()):
        with pytest.raises(RuntimeError, match='Implicit'): grad(lambda W: loss(lambda f, z0: fixed_point(f, z0, gradient=rule), W, x[0]))(W)
    for transform in (grad, lambda f: lambda W: vmap(grad(f))(torch.stack((W, W.T)))):
        half = [transform(lambda W: implicit(lambda z: torch.cos(g(z) @ W), torch.ones(2, 3)).sum())(W) for g in (Func.apply, lambda z: .5*z)]
        torch.testing.assert_close(*half)
    with pytest.warns(ConvergenceWarning, match='adjoint'):
        grad(lambda W: loss(lambda f, z0: fixed_point(f, z0, gradient=Implicit(max_iter=1)), W, x[0]))(W)

class Func(torch.autograd.Function):
    generate_vmap_rule = True
    @staticmethod
    def forward(x): return .5*x
    @staticmethod
    def setup_context(ctx, inputs, output): pass
    @staticmethod
    def backward(ctx, g): return .5*g

def test_jacobians_by_autograd():
    W, b = .3*torch.randn(3, 3), torch.randn(2, 3)
    want = jacrev(lambda W: state(unrolled, W, b))(W)
    assert torch.allclose(torch.autograd.functional.jacobian(lambda W: state(implicit, W, b), W), want)
    z = state(implicit, V := W.clone().requires_grad_(), b)
    rows, = vmap(lambda u: torch.autograd.grad(z, V, u, retain_graph=True))(torch.eye(6).view(6, 2, 3))         # a batch of gradients through one node
    assert torch.allclose(rows.view(2, 3, 3, 3), want)


# --- what a review of the first version found

def test_arguments_of_implicit_are_checked_at_construction():
    for wrong, name in ((dict(max_iter=0), 'max_iter'), (dict(on_failure=''), 'on_failure'), (dict(tol=-1.), 'tol'), (dict(atol=-1.), 'atol')):
        with pytest.raises(ValueError, match=name): Implicit(**wrong)
    with pytest.raises(TypeError, match='solver'): Implicit(solver=0)
    with pytest.raises(TypeError, match='solver'): Implicit(solver=Anderson)
    assert Implicit(tol=0.).own(Solve()).tol == 0

def test_atol_reaches_the_adjoint():
    "tol=0, atol=1e-6: the adjoint is to stop at atol too, not to seek exactly 0 and fail."
    A = matrix()
    z = fixed_point(lambda z: torch.tanh(z @ A + 1), torch.zeros(2, 3), tol=0., atol=1e-6, on_failure='raise')
    z.sum().backward()
    assert A.grad.norm() > 0

@pytest.mark.parametrize('scale', [1e-22, 1e-30, 1e25])
@pytest.mark.parametrize('under_func', [False, True])
def test_gradients_of_any_size(scale, under_func):
    "In float32 the squares of such gradients are zero or infinite."
    W, x = .3*torch.randn(5, 5).float(), torch.randn(4, 5).float()
    weight = torch.randn(4, 5).float()
    def loss(W, scale): return (fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), tol=1e-6, on_failure='raise')*weight*scale).sum()
    if under_func: small, one = (grad(loss)(W, s) for s in (scale, 1.))
    else: small, one = (torch.autograd.grad(loss(V := W.clone().requires_grad_(), s), V)[0] for s in (scale, 1.))
    assert torch.allclose(small/scale, one, rtol=1e-4, atol=1e-5*one.abs().max().item())

def test_in_place_operations_after_a_layer():
    layer, x = DEQ(Tanh(), tol=1e-12, max_iter=200), torch.randn(4, 3)
    for more in (nn.ReLU, nn.Tanh):
        plain = torch.autograd.grad(more()(layer(x)).sum(), layer.f.l.weight, create_graph=True)[0]
        inplace = layer(x)
        before = fixed_point(lambda z: layer.f(z, x), torch.zeros_like(x), tol=1e-12, return_solution=True)[1].z
        inplace = torch.relu_(inplace) if more is nn.ReLU else torch.tanh_(inplace)
        got = torch.autograd.grad(inplace.sum(), layer.f.l.weight, create_graph=True)[0]
        assert torch.allclose(got, plain) and torch.allclose(layer.solution.z, before)          # the solution is left alone
        assert torch.allclose(*(torch.autograd.grad(g.square().sum(), layer.f.l.weight)[0] for g in (got, plain)))
    with torch.no_grad():
        torch.relu_(layer(x))
        assert torch.allclose(layer.solution.z, before)

def test_what_a_solve_cannot_do_is_said_with_what_to_use_instead():
    W, x = matrix(), torch.randn(2, 3)
    def f(W): return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros(2, 3), **TIGHT)
    with pytest.raises(RuntimeError, match='jacrev'): torch.autograd.functional.jacobian(f, W, vectorize=True)
    with pytest.raises(RuntimeError, match='vmap over torch.autograd.grad'):
        torch.autograd.grad(f(W), W, torch.eye(6).view(6, 2, 3), is_grads_batched=True)
    with pytest.raises(RuntimeError, match='torch.func.jvp'): torch.func.linearize(f, W.detach())

def test_the_solution_keeps_no_graph():
    start = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    for gradient in (Implicit(), Neumann(), Phantom(), Reversible(), Unrolled()):
        z, sol = fixed_point(lambda z: .5*torch.tanh(z) + x, start(x), solver=Picard(), gradient=gradient, max_iter=200, tol=1e-6,
                             return_solution=True)
        assert not sol.z.requires_grad and not z.requires_grad
    fixed, sol = fixed_point(lambda z: z, start(x), return_solution=True)            # converged at the start
    assert not sol.z.requires_grad and not fixed.requires_grad
    assert not solve(lambda z: z, start(x)).z.requires_grad

def test_nested_forward_mode_does_not_deadlock():
    "A Newton solve inside a function whose Jacobian Newton takes, and an adjoint by NewtonKrylov."
    A, b = matrix(), torch.randn(2, 3, requires_grad=True)
    def run(A, b):
        def inner(z): return fixed_point(lambda y: torch.tanh(y @ A + z), torch.zeros(2, 3), tol=1e-13, solver=Newton())
        return fixed_point(lambda z: .5*torch.sin(inner(z)) + b, torch.zeros(2, 3), tol=1e-12, solver=NewtonKrylov())
    assert gradcheck(run, (A, b))

class OneStep:
    "A gradient rule of one's own."
    def attach(self, problem):
        sol = problem.solve()
        return problem.f(sol.z), sol

class TenTerms:
    "Another: the exact node, with its adjoint cut off after ten terms."
    def attach(self, problem): return attach_node(problem, self.linear)
    def linear(self, problem):
        u = torch.zeros_like(problem.start)
        for _ in range(10): u = problem.f(u, *problem.inputs)
        return u

def test_a_gradient_rule_of_ones_own():
    W, x = matrix(), torch.randn(2, 3)
    def run(rule): return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros(2, 3), gradient=rule, **TIGHT).square().sum()
    for mine, theirs in ((OneStep(), Phantom()), (TenTerms(), Neumann(10))):
        assert torch.allclose(*(torch.autograd.grad(run(rule), W)[0] for rule in (mine, theirs)))
    layer = DEQ(Tanh(), gradient=TenTerms())
    layer(x).sum().backward()
    assert layer.f.l.weight.grad.norm() > 0
    with pytest.raises(RuntimeError, match='Implicit'):
        grad(lambda W: fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros(2, 3), gradient=OneStep()).sum())(W.detach())
    with pytest.raises(TypeError, match='attach'): fixed_point(torch.cos, torch.zeros(1, 1), gradient=OneStep)

class Damped:
    "A solver of one's own, for the adjoint too."
    def init(self, at): return 0
    def step(self, g, at, k): return at.z + .9*at.r, k + 1

def test_a_solver_of_ones_own_in_forward_and_adjoint():
    W, x = matrix(), torch.randn(2, 3)
    def run(**options): return fixed_point(lambda z, x: torch.tanh(z @ W + x), torch.zeros(2, 3), args=(x,), tol=1e-12, max_iter=400, **options)
    want, = torch.autograd.grad(run().sum(), W)
    for options in (dict(solver=Damped()), dict(gradient=Implicit(solver=Damped()))):
        got, = torch.autograd.grad(run(**options).sum(), W)
        assert torch.allclose(got, want)

def test_no_grad_inside_f_is_kept_under_torch_func():
    W, x = .3*torch.randn(3, 3), torch.randn(2, 3)
    def f(z, W):
        with torch.no_grad(): frozen = torch.sin(W)
        return torch.tanh(z @ W + x @ frozen)
    def loss(W): return fixed_point(lambda z: f(z, W), torch.zeros(2, 3), **TIGHT).sum()
    want, = torch.autograd.grad(loss(V := W.clone().requires_grad_()), V)
    assert torch.allclose(grad(loss)(W), want)

@pytest.mark.parametrize('beta', (.3, .7))
def test_reversible_has_the_gradient_of_its_own_steps(beta):
    "Four steps, far from the equilibrium, against autograd through the same steps; evaluations as counted; an f that does not read z."
    W, x, calls = matrix(), torch.randn(2, 3), []
    def loop(f, z):
        y = z
        for _ in range(4):
            y = (1 - beta)*y + beta*f(z)
            z = (1 - beta)*z + beta*f(y)
        return z
    def few(f, z):
        def counted(z):
            calls.append(1)
            return f(z)
        return fixed_point(counted, z, gradient=Reversible(beta), tol=0., max_iter=8, on_failure='ignore', return_solution=True)
    found = []
    for run in (lambda f, z: few(f, z)[0], loop):
        V, b = W.clone().requires_grad_(), x.clone().requires_grad_()
        z = run(lambda z: torch.tanh(z @ V + b), torch.ones(2, 3))
        found.append((z, *torch.autograd.grad(z.sin().sum(), (V, b))))
    for ours, theirs in zip(*found): torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    calls.clear()
    with torch.no_grad(): assert few(lambda z: torch.tanh(z @ W + x), torch.ones(2, 3))[1].n_eval == len(calls) == 12
    b = x.clone().requires_grad_()
    grad_of_constant, = torch.autograd.grad(fixed_point(lambda z: b.sin(), torch.zeros(2, 3), gradient=Reversible(beta)).sum(), b)
    torch.testing.assert_close(grad_of_constant, x.cos(), rtol=1e-4, atol=1e-4)

def test_unrolled_is_autograd_through_as_many_steps_as_were_taken():
    "Three evaluations by Picard: f(f(z0)); and a solution that was put to 0 is 0, with a gradient."
    W, x, found = matrix(), torch.randn(2, 3), []
    def three(f, z): return fixed_point(f, z, solver=Picard(), gradient=Unrolled(), tol=0., max_iter=3, on_failure='ignore')
    for run in (three, lambda f, z: f(f(z))):
        V = W.clone().requires_grad_()
        z = run(lambda z: torch.tanh(z @ V + x), torch.ones(2, 3))
        found.append((z, *torch.autograd.grad(z.sin().sum(), V)))
    for ours, theirs in zip(*found): torch.testing.assert_close(ours, theirs)
    a = torch.tensor(.9, requires_grad=True)
    z, sol = fixed_point(lambda z: a*z, torch.ones(1, 2), solver=Picard(), gradient=Unrolled(), max_iter=300, return_solution=True)
    assert sol.converged.all() and (z == 0).all() and torch.autograd.grad(z.sum(), a)[0].isfinite()

def test_steps_of_the_phantom_gradient_are_whole():
    with pytest.raises(TypeError, match='steps must be an integer; got 2.5'): Phantom(steps=2.5)

def test_when_a_reversible_iteration_ends():
    "At atol and not later; after one step at least; at zero where f(0) = 0, and not where f leads away from it."
    def run(f, start, **how):
        return fixed_point(f, start, gradient=Reversible(), on_failure='ignore', return_solution=True, **how)[1]
    sol = run(lambda z: .5*z + 1, torch.zeros(2, 1), tol=0., atol=1e-4, max_iter=60)
    gap = (.5*sol.z + 1 - sol.z).abs()
    assert sol.converged.all() and (1e-6 < gap).all() and (gap <= 1e-4).all()
    assert run(lambda z: .5*z + 1, torch.zeros(2, 1), max_iter=1).n_eval == 3
    sol = run(lambda z: .9*z, torch.tensor([[1.], [3.]]), max_iter=100)
    assert sol.converged.all() and (sol.z == 0).all() and (sol.residual == 0).all()
    sol = run(lambda z: .9*z + 1e-9, torch.ones(1, 1), max_iter=100)                 # f(0) is not 0
    assert not sol.converged.any() and (sol.z != 0).all()
    sol = run(lambda z: torch.where(z.abs() > 1e-3, .9*z, 1.5*z), torch.ones(1, 1), max_iter=100)   # it leads away from 0
    assert not sol.converged.any() and (sol.z != 0).all()
