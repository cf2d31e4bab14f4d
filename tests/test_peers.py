"Each row of the table in PEERS.md (torchdeq 0.1.0, tried) is a test here: what breaks there works here. `make bench` has the speeds."
import copy, math, pickle
import pytest, torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from deq_irnn import (Anderson, Broyden, ConvergenceWarning, DEQ, Picard, Reversible, fixed_point, jacobian_penalty, make_contractive, solve,
                      spectral_radius)

def symmetric(D=256, B=64, seed=0):
    "The family `sym` of PEERS.md: eigenvalues uniform in [−0.9, 0.9], input scale 0.1."
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0]
    W = Q*(1.8*torch.rand(D, generator=g, dtype=torch.float64) - .9) @ Q.T
    return W, .1*torch.randn(B, D, generator=g, dtype=torch.float64)

def exact(W, x, steps=900):
    z = torch.zeros_like(x)
    for _ in range(steps): z = torch.tanh(z @ W + x)
    return z

class Cell(nn.Module):
    def __init__(self, D=8, scale=.5):
        super().__init__()
        self.linear = nn.Linear(D, D)
        with torch.no_grad(): self.linear.weight.mul_(scale)
    def forward(self, z, x): return torch.tanh(self.linear(z) + x)

def test_second_derivative():
    W, x = (t.requires_grad_() for t in symmetric(6, 3))
    ways = lambda: fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), tol=1e-13, max_iter=900), lambda: exact(W, x)
    second = []
    for way in ways:
        g, = torch.autograd.grad(way().pow(3).sum(), W, create_graph=True)
        second.append(torch.autograd.grad(g.square().sum(), (W, x)))
    for a, b in zip(*second): assert (a - b).norm() < 1e-9*b.norm()

def test_used_twice_and_backward_twice():
    layer, x, y = DEQ(Cell(), tol=1e-12, max_iter=500).double(), *torch.randn(2, 4, 8, dtype=torch.float64)
    def stack(x):
        z = torch.zeros_like(x)
        for _ in range(300): z = layer.f(z, x)
        return z
    want = torch.autograd.grad(stack(stack(x) + y).square().sum(), layer.f.linear.weight)[0]
    loss = layer(layer(x) + y).square().sum()
    for keep in (True, False): assert (torch.autograd.grad(loss, layer.f.linear.weight, retain_graph=keep)[0] - want).norm() < 1e-9*want.norm()

@pytest.mark.parametrize('rows', [8, 64])
def test_the_default_gradient_is_the_exact_one(rows):
    Q = (.9*torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0]).requires_grad_()
    x = .1*torch.randn(rows, 64, dtype=torch.float64)
    want, = torch.autograd.grad(exact(Q, x).square().sum(), Q)
    got, = torch.autograd.grad(fixed_point(lambda z: torch.tanh(z @ Q + x), torch.zeros_like(x), max_iter=300).square().sum(), Q)
    assert (got - want).norm() < 1e-3*want.norm()                        # at the default tolerance of 1e-5; the one-step gradient: 0.83

def test_torch_func():
    W, x = symmetric(5, 3)
    def f(W, x): return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), tol=1e-12, max_iter=900).square().sum()
    want = torch.autograd.grad(exact(W.requires_grad_(), x).square().sum(), W)[0]
    W = W.detach()
    assert torch.allclose(torch.func.grad(f)(W, x), want)
    assert torch.allclose(torch.func.jvp(f, (W, x), (W, 0*x))[1], (want*W).sum())
    Ws = torch.stack((W, .5*W))
    assert torch.allclose(torch.func.vmap(f, (0, None))(Ws, x), torch.stack([f(V, x) for V in Ws]))
    assert torch.allclose(torch.func.vmap(torch.func.grad(f), (0, None))(Ws, x)[0], want)

def test_compiled_around_a_layer():
    "torch.compile around a model that holds the layer: same values and gradients, one break around the solve."
    model, x = nn.Sequential(nn.Linear(8, 8), DEQ(Cell(), tol=1e-6), nn.Linear(8, 2)), torch.randn(4, 8)
    torch._dynamo.reset()
    breaks = torch._dynamo.explain(model)(x).graph_break_count
    compiled = torch.compile(model, backend='aot_eager')
    got, want = compiled(x), model(x)
    assert torch.allclose(got, want, atol=1e-5) and breaks <= 2
    for a, b in zip(torch.autograd.grad(got.sum(), list(model.parameters())), torch.autograd.grad(want.sum(), list(model.parameters()))): assert torch.allclose(a, b, atol=1e-4)
    torch._dynamo.reset()

def test_pickle_save_and_deepcopy_with_normalised_weights(tmp_path):
    layer, x = DEQ(Cell(), tol=1e-6), torch.randn(4, 8)
    make_contractive(layer.f.linear, .9)
    layer(x).sum().backward()                                            # a layer that has been used
    torch.save(layer.state_dict(), tmp_path/'a.pt')
    twin = copy.deepcopy(layer)
    with torch.no_grad(): twin.f.linear.parametrizations.weight.original.mul_(3)
    twin.load_state_dict(torch.load(tmp_path/'a.pt', weights_only=True))
    assert torch.equal(twin(x), layer(x))
    plain = DEQ(Cell(), tol=1e-6)
    plain(x)
    torch.save(plain, tmp_path/'b.pt')
    for other in (pickle.loads(pickle.dumps(plain)), torch.load(tmp_path/'b.pt', weights_only=False)): assert torch.equal(other(x), plain(x))

def test_no_equilibrium_found_is_said():
    W, x = symmetric(32, 4)
    W = 1.5*W/torch.linalg.matrix_norm(W, 2)
    A = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64))[0]*1.5
    with pytest.warns(ConvergenceWarning, match='4 of 4 samples'): sol = solve(lambda z: torch.tanh(z @ A + 10*x), torch.zeros_like(x), Picard(), tol=1e-8, max_iter=60)
    z = sol.z
    fz = torch.tanh(z @ A + 10*x)
    assert not sol.converged.any() and torch.allclose(sol.residual, (fz - z).norm(dim=1)/fz.norm(dim=1))    # the residual of what is returned

@pytest.mark.parametrize('solver', (Picard(), Anderson(), Broyden()), ids=lambda s: type(s).__name__)
def test_a_nan_sample_costs_the_others_nothing(solver):
    W, x = symmetric(32, 6)
    def run(x): return solve(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), solver, tol=1e-6, on_failure='ignore')
    fine, x[2] = run(x), math.nan
    broken, others = run(x), [0, 1, 3, 4, 5]
    assert broken.n_eval <= fine.n_eval and broken.converged.tolist() == [True, True, False, True, True, True]
    assert torch.equal(broken.iterations[others], fine.iterations[others]) and torch.allclose(broken.z[others], fine.z[others], atol=1e-12)

@pytest.mark.parametrize('solver', (Picard(), Anderson(), Broyden()), ids=lambda s: type(s).__name__)
def test_a_slow_companion_changes_nothing_and_wastes_nothing(solver):
    "One sample with a slow map beside fifteen with a fast one, tol 1e-3."
    rates, seen = torch.full((16, 1), .1, dtype=torch.float64), [0]
    rates[0] = .97
    Q, x = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0], torch.randn(16, 9, dtype=torch.float64)
    def f(z, rate, x): seen[0] += len(z); return rate*torch.tanh(z @ Q) + x
    def run(which): return solve(f, torch.zeros_like(x[which]), solver, tol=1e-3, max_iter=500, args=(rates[which], x[which]), on_failure='ignore')
    together, rows = run(slice(None)), seen[0]
    for i in range(16):
        alone = run(slice(i, i + 1))
        assert alone.iterations == together.iterations[i] and torch.allclose(alone.z[0], together.z[i], atol=1e-12)
    assert rows <= 2*int(together.iterations.sum())                      # the peer: 16 × the slowest

def test_misspelt_options_name_themselves():
    with pytest.raises(TypeError, match='dampng'): Anderson(dampng=.5)
    with pytest.raises(TypeError, match='tolerance'): DEQ(Cell(), tolerance=1e-3)
    with pytest.raises(TypeError, match="solver must be .* got 'andersen'"): DEQ(Cell(), solver='andersen')
    with pytest.raises(ValueError, match="on_failure must be .* got 'wran'"): DEQ(Cell(), on_failure='wran')

@pytest.mark.parametrize('solver', (Picard(), Anderson(), Broyden()), ids=lambda s: type(s).__name__)
def test_the_scale_of_the_input_does_not_matter(solver):
    W, x = symmetric(32, 4)
    runs = [solve(lambda z: z @ W + scale*x, torch.zeros_like(x), solver, tol=1e-6, max_iter=300) for scale in (1e-3, 1., 1e3)]
    assert all(r.converged.all() and (r.iterations - runs[0].iterations).abs().max() <= 2 for r in runs)

@pytest.mark.parametrize('scale', (1e-3, .1, 10.))
def test_anderson_is_faster_than_plain_iteration_at_any_scale(scale):
    W, x = symmetric()
    W, x = W.float(), 10*scale*x.float()
    n = [solve(lambda z: scale*torch.tanh(z @ W/scale + x/scale), torch.zeros_like(x), s, tol=1e-6, max_iter=300).n_eval
         for s in (Picard(), Anderson(6, every=3), Anderson(6))]
    assert n[1] < .6*n[0] and n[2] <= n[1] + 1                # the default mixes in every fourth step: 17 of 27

@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
@pytest.mark.parametrize('solver', (Anderson(), Broyden()), ids=lambda s: type(s).__name__)
def test_half_precision_on_the_cpu(dtype, solver):
    W, x = (t.to(dtype) for t in symmetric(16, 4))
    sol = solve(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), solver, tol=2e-2)
    assert sol.converged.all() and sol.z.dtype == dtype

class Largest(TorchDispatchMode):
    "The largest tensor that any operation makes."
    numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, *(t.untyped_storage().nbytes()//t.element_size() for t in tree_leaves(out) if isinstance(t, torch.Tensor)), 0)
        return out

@pytest.mark.parametrize('max_iter', (200, 10_000))
def test_memory_follows_what_is_used_not_the_limit(max_iter):
    x = torch.randn(4, 4096)
    with Largest() as largest: sol = solve(lambda z: .3*torch.tanh(z) + x, torch.zeros_like(x), Broyden(memory=max_iter), tol=1e-4, max_iter=max_iter)
    assert sol.converged.all() and largest.numel <= 16*x.numel() and sol.iterations.max() <= 16

def test_spectral_radius_of_a_complex_pair():
    t = torch.tensor(.95*math.cos(1.)), torch.tensor(.95*math.sin(1.))
    A = torch.diag(torch.linspace(-.4, .4, 8))
    A[:2, :2] = torch.tensor([[t[0], -t[1]], [t[1], t[0]]])
    assert torch.allclose(spectral_radius(lambda z: z @ A, torch.zeros(3, 8)), torch.tensor(.95), atol=1e-4)

def test_a_normalised_convolution_keeps_its_bound():
    for _ in range(3):
        conv = make_contractive(nn.Conv2d(4, 4, 3, padding=1, bias=False), .9, size=(7, 7))
        with torch.no_grad(): conv.parametrizations.weight.original.mul_(10)
        J = torch.autograd.functional.jacobian(conv, torch.zeros(1, 4, 7, 7)).reshape(196, 196)
        assert torch.linalg.matrix_norm(J, 2) <= .9 + 1e-4
        assert [n for n, _ in conv.named_parameters()] == ['parametrizations.weight.original']          # no learnable scale

@pytest.mark.parametrize('make', (lambda a, b: {'a': a, 'b': b}, lambda a, b: [a, (b,)], lambda a, b: (a, b)))
def test_what_goes_in_comes_out(make):
    z0 = make(torch.zeros(3, 2), torch.zeros(3, 4, 5))
    out = fixed_point(lambda z: torch.utils._pytree.tree_map(lambda t: .5*torch.cos(t), z), z0)
    assert torch.utils._pytree.tree_structure(out) == torch.utils._pytree.tree_structure(z0)

def test_what_its_users_ask_for():
    "Gradients in eval mode; the best iterate kept; a gradient through the Jacobian penalty; the reversible solver."
    layer, x = DEQ(Cell(), tol=1e-6).eval(), torch.randn(4, 8)
    trained, = torch.autograd.grad(layer.train()(x).sum(), layer.f.linear.weight)
    assert torch.allclose(torch.autograd.grad(layer.eval()(x).sum(), layer.f.linear.weight)[0], trained)
    grow = lambda z: torch.where(z.abs() < .2, .5*z, 3*z) + .1                       # comes closer, then leaves
    sol = solve(grow, torch.tensor([[.15]]), Picard(), tol=0., max_iter=9, on_failure='ignore', trace=True)
    assert sol.residual <= sol.trace.nan_to_num(torch.inf).min() + 1e-7
    penalty = jacobian_penalty(lambda z: layer.f(z, x), layer(x))
    assert torch.autograd.grad(penalty, layer.f.linear.weight)[0].norm() > 0
    layer.gradient = Reversible()
    assert torch.allclose(torch.autograd.grad(layer(x).sum(), layer.f.linear.weight)[0], trained, rtol=1e-2, atol=1e-3)
