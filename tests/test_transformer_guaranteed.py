"Chapter 12: an equilibrium that is guaranteed, at any weights, for every token."
import copy, pickle, warnings
import pytest, torch
import torch.nn.functional as F
from deq_irnn.fixed_point import ConvergenceError, ConvergenceWarning
from deq_irnn.implicit import Unrolled
from deq_irnn.solvers import Anderson, Picard
from deq_irnn.transformer import (
    CharLM, ContractiveTransformer, IncrementalTransformer, alibi_slopes, attention_bias)

EXACT = dict(tol=1e-12, max_iter=500)

@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)

def tokens(B=3, T=7, D=8): return torch.randn(B, T, D, dtype=torch.float64)

def exact(**options): return ContractiveTransformer(8, 2, **{**EXACT, **options}).double()

def by_hand(layer, x, s):
    "f(s, x), head by head and token by token."
    d = 8//layer.heads
    q, k = layer.qk(x).chunk(2, -1)
    p = layer.read(x) + layer.down(F.gelu(layer.up(x)))
    bias = attention_bias(alibi_slopes(layer.heads, dtype=x.dtype), x.shape[1], x.shape[1], layer.causal)[0]
    out = torch.zeros_like(s)
    for h in range(layer.heads):
        U = layer.U[h]/max(1., torch.linalg.matrix_norm(layer.U[h], 2).item()/layer.bound)
        own = slice(h*d, (h + 1)*d)
        for b in range(len(x)):
            A = (q[b, :, own] @ k[b, :, own].T/d**.5 + bias[h]).softmax(-1)
            out[b, :, own] = torch.tanh(A @ s[b, :, own] @ U.T + p[b, :, own])
    return out

@pytest.mark.parametrize('causal', (True, False))
def test_the_equation_as_it_is_written(causal):
    layer, x, s = exact(causal=causal), tokens(), tokens()
    assert torch.allclose(layer.equation(x)(s), by_hand(layer, x, s), atol=1e-12)
    z = layer(x)
    assert torch.allclose(by_hand(layer, x, z), z, atol=1e-10) and layer.solution.converged.all()

@pytest.mark.parametrize('size', (1., 30., 1e4))
@pytest.mark.parametrize('nonlinearity', ('tanh', 'relu', 'sigmoid', torch.sin))
def test_a_contraction_at_any_weights(size, nonlinearity):
    "max_t ‖f(s) − f(s′)‖₂ ≤ bound · max_t ‖s − s′‖₂ within each head."
    layer, x = exact(nonlinearity=nonlinearity), tokens()
    with torch.no_grad():
        for p in layer.parameters(): p.copy_(size*torch.randn_like(p))
        f = layer.equation(x)
        for _ in range(20):
            a, b = 10*tokens(), 10*tokens()
            far, near = ((u - v).unflatten(-1, (2, 4)).norm(dim=-1).amax((0, 1)) for u, v in ((a, b), (f(a), f(b))))
            assert (near <= layer.bound*far + 1e-12).all()

@pytest.mark.parametrize('layers', (1, 3))
@pytest.mark.parametrize('seed', range(3))
def test_every_token_converges_after_steps_with_a_huge_learning_rate(layers, seed):
    "Weights beyond 1000; from any start, in the number of iterations that the bound promises."
    torch.manual_seed(seed)
    net = IncrementalTransformer(8, layers, layer='contractive', heads=2, on_failure='raise', tol=1e-6)
    x, y = torch.randn(4, 12, 8), torch.randn(4, 12, 8)
    optimizer = torch.optim.SGD(net.parameters(), 1e4)
    for _ in range(5):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    assert max(p.abs().max() for p in net.parameters()) > 100
    net = net.double()
    h = x.double()
    for l, layer in enumerate(net.layers):
        u = net.injection(l, x.double(), h)
        with torch.no_grad():
            f, found = layer.equation(u), [layer(u, z0=size*tokens(4, 12)) for size in (0., 1., 100.)]
        for s in found:
            assert ((f(s) - s).norm(dim=-1) <= 1e-4*s.norm(dim=-1)).all()
            assert torch.allclose(s, found[0], atol=1e-4)
        h = net.layer(l, x.double(), h)

def test_the_promised_number_of_iterations():
    "The residual falls by at least `bound`, in each iteration, in the norm of the proof."
    layer, x = exact(bound=.8), tokens()
    with torch.no_grad():
        for p in layer.parameters(): p.copy_(5*torch.randn_like(p))
        f, s = layer.equation(x), torch.zeros_like(x)
        old = None
        for _ in range(20):
            new = f(s)
            r = (new - s).unflatten(-1, (2, 4)).norm(dim=-1).amax((0, 1))
            assert old is None or (r <= .8*old + 1e-15).all()
            s, old = new, r

@pytest.mark.parametrize('tol', (1e-3, 1e-12))
def test_causal(tol):
    layer, x = exact(tol=tol), tokens()
    other = x.clone()
    other[:, 4:] = tokens()[:, 4:]
    a, b = layer(x), layer(other)
    assert (a - b)[:, :4].abs().max() < 10*tol and (a - b)[:, 4:].abs().min() > 1e-6

def test_padding_changes_nothing():
    layer, x, lengths = exact(), tokens(), (7, 4, 1)
    padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
    together = layer(x, padding)
    for i, n in enumerate(lengths): assert torch.allclose(together[i, :n], layer(x[i:i+1, :n])[0], atol=1e-9)
    assert together.isfinite().all()

@pytest.mark.parametrize('warm', (False, True))
def test_step_by_step_is_all_at_once(warm):
    layer, x, past, z = exact(), tokens(), None, None
    for t, want in enumerate(layer(x).unbind(1)):
        z, past = layer.step(x[:, t:t+1], past, z0=z if warm else None)
        assert torch.allclose(z[:, 0], want, atol=1e-9)
    assert past[0].shape == past[1].shape == (3, 2, 7, 4)
    _, short = layer.step(x[:, :1], past, window=3)
    assert short[0].shape[2] == 3

def test_streams_into_text():
    model = CharLM(11, 8, ContractiveTransformer(8, 2, **EXACT)).double().eval()
    prompt = torch.randint(11, (2, 5))
    slow = prompt
    for _ in range(6): slow = torch.cat((slow, model(slow)[:, -1].argmax(-1, True)), 1)
    assert torch.equal(model.generate(prompt, 6, temperature=0), slow)

def test_derivatives():
    layer, x = exact(), tokens(1, 3).requires_grad_()
    names, params = zip(*layer.named_parameters())
    def f(x, *p): return torch.func.functional_call(layer, dict(zip(names, p)), (x,))
    assert torch.autograd.gradcheck(f, (x, *params), fast_mode=True)

def test_the_control_is_two_layers():
    layer, x = exact(tol=0., max_iter=3, on_failure='ignore', solver=Picard(), gradient=Unrolled()), tokens()
    f = layer.equation(x)
    assert torch.equal(layer(x), f(f(torch.zeros_like(x))))

@pytest.mark.parametrize('injection', ('input', 'normed'))
@pytest.mark.parametrize('transition', ('minus', 'plus', 'rotation', 'fold'))
def test_stacked(injection, transition):
    net = IncrementalTransformer(8, 3, injection, transition, layer='contractive', heads=2, scale=.5, **EXACT).double()
    x = tokens()
    h = x
    for l, layer in enumerate(net.layers): h = net.turn(l, h) + .5*layer(net.injection(l, x, h))
    assert torch.allclose(net(x), h) and all(s.converged.all() for s in net.solutions)
    later = x.clone()
    later[:, 5:] = tokens()[:, 5:]
    assert (net(x) - net(later))[:, :5].abs().max() < 1e-9

def test_k_steps_of_a_contractive_layer():
    net, x = IncrementalTransformer(8, 1, 'input', 'plus', steps=200, start='zero', layer='contractive', heads=2).double(), tokens()
    f, s = net.layers[0].equation(x), -x
    for _ in range(200): s = s + (f(s) - s)/200
    assert torch.allclose(net(x), x + s, atol=1e-9) and net.solutions == []

def test_copies_states_meta_and_dtype():
    layer, x = exact(), tokens()
    want = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))): assert torch.equal(twin(x), want)
    fresh = ContractiveTransformer(8, 2, device='meta', **EXACT).double().to_empty(device='cpu')
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), want)
    assert ContractiveTransformer(8, 2)(x.float()).dtype == torch.float32

def test_autocast_keeps_the_promise():
    "A contraction rounded to bfloat16 is none: the layer solves in full precision."
    layer, x = ContractiveTransformer(8, 2, tol=1e-5), torch.randn(2, 5, 8)
    want = layer(x)
    with torch.autocast('cpu', torch.bfloat16): got = layer(x.bfloat16())
    assert got.dtype == torch.float32 and (got - want).abs().max() < .05 and layer.solution.converged.all()

def test_other_solvers_find_the_same():
    layer, x = exact(), tokens()
    want = layer(x)
    for solver in (Picard(.7), Anderson()):
        layer.how = copy.copy(exact(solver=solver).how)
        assert torch.allclose(layer(x), want, atol=1e-9)

def test_failures_are_told():
    x = torch.randn(2, 5, 8)
    with pytest.warns(ConvergenceWarning): ContractiveTransformer(8, 2, tol=1e-9, max_iter=2)(x)
    with pytest.raises(ConvergenceError): ContractiveTransformer(8, 2, tol=1e-9, max_iter=2, on_failure='raise')(x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ContractiveTransformer(8, 2, tol=1e-9, max_iter=2, on_failure='ignore')(x)

@pytest.mark.parametrize('call, message', (
    (lambda: ContractiveTransformer(8, 3), 'features must be a multiple of heads = 3'),
    (lambda: ContractiveTransformer(8, bound=1.), 'bound'), (lambda: ContractiveTransformer(8, tol=-1.), 'tol'),
    (lambda: ContractiveTransformer(8)(torch.zeros(2, 3, 4)), r'x must have the shape \(B, T, 8\); got \(2, 3, 4\)'),
    (lambda: ContractiveTransformer(8, causal=False).step(torch.zeros(1, 1, 8)), 'causal=True'),
    (lambda: IncrementalTransformer(8, 2, layer='free'), 'layer'),
    (lambda: IncrementalTransformer(8, 2, 'carousel'), 'injection')))
def test_wrong_arguments_name_themselves(call, message):
    with pytest.raises(ValueError, match=message): call()
