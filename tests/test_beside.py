"""The front page's table 'Beside others', cell by cell: what torchdeq, silva-networks, optimistix and nn.LSTM do, tried where they are installed.

torchdeq is (`make setup`); for the other two: pip install silva-networks==1.2.2 optimistix==0.1.0."""
import warnings
import pytest, torch
from torch import nn
from deq_irnn import DEQ, affine_scan, fixed_point, solve

def problem(D=32, B=16):
    "W of norm 0.9, orthogonal up to that; small inputs."
    g = torch.Generator().manual_seed(0)
    return .9*torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0], .1*torch.randn(B, D, generator=g, dtype=torch.float64)

def exact(W, x):
    z = torch.zeros_like(x)
    for _ in range(600): z = torch.tanh(z @ W + x)
    return z

def ours(W, x, **how): return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), **{'tol': 1e-10, 'max_iter': 600, **how})

def by_torchdeq(W, x, **how):
    torchdeq = pytest.importorskip('torchdeq')
    deq = torchdeq.get_deq(**{'f_solver': 'anderson', **how}).train()
    return deq(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x))[0][-1]

def by_silva(W, x, **how):
    engine = pytest.importorskip('silva_networks.deq_engine')
    return engine.silva_deq(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), config=engine.SILVADEQConfig(**how), params=(W,), tensors=(x,))

EXACT = {by_torchdeq: dict(ift=True, f_max_iter=600, b_max_iter=600, f_tol=1e-10, b_tol=1e-10, b_solver='anderson'),
         by_silva: dict(backward_mode='implicit', forward_max_iter=600, backward_max_iter=600, forward_tol=1e-10, backward_tol=1e-10)}
both = pytest.mark.parametrize('peer', [by_torchdeq, by_silva])

def first(f, W, x): return torch.autograd.grad(f(W.requires_grad_(), x).square().sum(), W)[0]
def second(f, W, x):
    g, = torch.autograd.grad(f(W.requires_grad_(), x.requires_grad_()).pow(3).sum(), W, create_graph=True)
    return torch.autograd.grad(g.square().sum(), x)[0]
def off(a, b): return ((a - b).norm()/b.norm()).item()

@both
def test_the_gradient_by_default_is_that_of_one_step(peer):
    W, x = problem()
    want = first(exact, W, x)
    assert off(first(peer, W, x), want) > .2 > 1e-3 > off(first(fixed_point_by_default, W, x), want)
    assert off(first(lambda W, x: peer(W, x, **EXACT[peer]), W, x), want) < 1e-3       # what one must ask for

def fixed_point_by_default(W, x): return fixed_point(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x), max_iter=300)

def test_second_derivatives():
    W, x = problem(6, 3)
    want = second(exact, W, x)
    assert off(second(ours, W, x), want) < 1e-6

def test_second_derivatives_of_torchdeq_are_wrong():
    W, x = problem(6, 3)
    assert off(second(lambda W, x: by_torchdeq(W, x, **EXACT[by_torchdeq]), W, x), second(exact, W, x)) > .1

def test_second_derivatives_of_silva_are_wrong_or_raise():
    W, x = problem(6, 3)
    assert off(second(lambda W, x: by_silva(W, x, forward_tol=1e-10, forward_max_iter=600), W, x), second(exact, W, x)) > .1
    with pytest.raises(RuntimeError): second(lambda W, x: by_silva(W, x, **EXACT[by_silva]), W, x)

@both
def test_torch_func_raises(peer):
    W, x = problem(5, 3)
    how = EXACT[peer]
    with pytest.raises(Exception): torch.func.grad(lambda W: peer(W, x, **how).sum())(W)
    with pytest.raises(Exception): torch.func.vmap(lambda x: peer(W, x[None], **how))(x)
    with pytest.raises(Exception): torch.func.jvp(lambda x: peer(W, x, **how), (x,), (x,))
    assert torch.func.vmap(torch.func.grad(lambda W, x: ours(W, x[None]).sum()), (None, 0))(W, x).shape == (3, 5, 5)
    assert torch.func.jvp(lambda x: ours(W, x), (x,), (x,))[1].shape == (3, 5)

@both
def test_batch_mates(peer):
    "A sample beside others that take long."
    W, x = problem()
    x = torch.cat((30*x[:1], x[1:]))                       # a saturated tanh is soon at rest
    how = dict(f_tol=1e-3, f_stop_mode='rel') if peer is by_torchdeq else {}
    def moved(f): return off(f(W, x)[:1], f(W, x[:1]))
    with torch.no_grad(): assert moved(lambda W, x: peer(W, x, **how)) > 1e-7 and moved(lambda W, x: ours(W, x, tol=1e-3)) < 1e-12

def test_no_equilibrium_is_not_told():
    "Not by torchdeq; silva-networks keeps one verdict for the batch in its result, and says nothing."
    torchdeq = pytest.importorskip('torchdeq')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torchdeq.get_deq(f_solver='anderson')(lambda z: z + 1, torch.ones(2, 2))
    with pytest.warns(UserWarning): solve(lambda z: z + 1, torch.ones(2, 2))

def test_no_equilibrium_in_silva():
    engine = pytest.importorskip('silva_networks.deq_engine')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        result = engine.silva_deq(lambda z: z + 1, torch.ones(2, 2), return_result=True).solver_result
    assert result.converged is False

@both
@pytest.mark.filterwarnings('ignore')
def test_neither_exports(peer):
    class Layer(nn.Module):
        def __init__(self): super().__init__(); self.W = nn.Parameter(problem(4)[0].float())
        def forward(self, x): return peer(self.W, x)
    x = torch.randn(2, 4)
    Layer()(x)
    with pytest.raises(Exception): torch.export.export(Layer().eval(), (x,))
    torch._dynamo.reset()
    with pytest.raises(Exception): torch.compile(Layer().eval(), fullgraph=True, backend='eager')(x)

def test_optimistix():
    jax, optx = pytest.importorskip('jax'), pytest.importorskip('optimistix')
    import numpy as np
    jax.config.update('jax_enable_x64', True)
    W, x = (jax.numpy.asarray(t.numpy()) for t in problem(6, 3))
    def fp(W, x, solver=optx.Newton(rtol=1e-9, atol=1e-9)):
        return optx.fixed_point(lambda z, a: jax.numpy.tanh(z @ a[0] + a[1]), solver, jax.numpy.zeros_like(x), (W, x), max_steps=1000).value
    Wt, xt = problem(6, 3)
    np.testing.assert_allclose(jax.grad(lambda W: (fp(W, x)**2).sum())(W), first(exact, Wt, xt), atol=1e-8)
    twice = jax.grad(lambda x: (jax.grad(lambda W: (fp(W, x)**3).sum())(W)**2).sum())(x)
    np.testing.assert_allclose(twice, second(exact, Wt, xt), atol=1e-8)
    loose = optx.FixedPointIteration(rtol=1e-3, atol=1e-3)
    far = jax.numpy.concatenate((x[:1], 30*x[1:]))
    alone = fp(W, far[0], loose)
    assert abs(jax.vmap(lambda x: fp(W, x, loose))(far)[0] - alone).max() < 1e-12           # by vmap; as one state it is one verdict
    with pytest.raises(Exception): optx.fixed_point(lambda z, a: z + 1., loose, jax.numpy.ones(2))
    assert not [name for name in dir(optx) if 'Anderson' in name or 'Broyden' in name]

@pytest.mark.filterwarnings('ignore')
def test_lstm():
    lstm = nn.LSTM(4, 6)
    params, x = dict(lstm.named_parameters()), torch.randn(5, 3, 4)
    def run(p, x): return torch.func.functional_call(lstm, p, (x,))[0]
    assert torch.func.grad(lambda p: run(p, x).sum())(params)['weight_hh_l0'].shape == (24, 6)
    with pytest.raises(Exception): torch.func.jvp(lambda x: run(params, x), (x,), (x,))
    torch.testing.assert_close(lstm(x)[0][:, :1], lstm(x[:, :1])[0])
    torch.testing.assert_close(torch.export.export(lstm, (x,)).module()(x)[0], lstm(x)[0])
    far = nn.LSTM(1, 32)(torch.rand(300, 4, 1), (h := torch.zeros(1, 4, 32, requires_grad=True), torch.zeros(1, 4, 32)))[0][-1]
    assert torch.autograd.grad(far.sum(), h)[0].norm() < 1e-12                              # as PyTorch starts it

def test_a_linear_recurrence():
    a, b = torch.rand(7, 3, 4), torch.randn(7, 3, 4)
    def run(a, b): return affine_scan(a, b, None)
    assert torch.func.vmap(torch.func.grad(lambda a, b: run(a[:, None], b[:, None]).sum()), (1, 1))(a, b).shape == (3, 7, 4)
    with pytest.raises(NotImplementedError): torch.func.jvp(lambda b: run(a, b), (b,), (b,))
    class Scan(nn.Module):
        def forward(self, a, b): return run(a, b)
    torch.testing.assert_close(torch.export.export(Scan(), (a, b)).module()(a, b), run(a, b))
