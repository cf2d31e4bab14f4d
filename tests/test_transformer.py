"Equilibrium transformers: causality at the equilibrium, padding, exact derivatives, generation, the collapse."
import copy, pickle
import pytest, torch
from deq_irnn import CharLM, DEQTransformer, EquilibriumBlock, IncrementalTransformer, Transformer, attention_bias

KINDS = {'post': lambda **o: DEQTransformer(8, 2, 'post', tol=1e-12, max_iter=400, **o), 'pre': lambda **o: DEQTransformer(8, 2, 'pre', tol=1e-12, max_iter=400, **o),
         'input': lambda **o: IncrementalTransformer(8, 3, 'input', 'minus', heads=2, tol=1e-12, max_iter=400, **o),
         'normed': lambda **o: IncrementalTransformer(8, 3, 'normed', 'plus', heads=2, tol=1e-12, max_iter=400, **o),
         'steps': lambda **o: IncrementalTransformer(8, 2, 'normed', 'minus', steps=3, heads=2, **o),
         'explicit': lambda **o: Transformer(8, 3, 2, **o), 'tied': lambda **o: Transformer(8, 3, 2, tied=True, **o)}
kinds = pytest.mark.parametrize('kind', KINDS)
def tokens(B=3, T=7): return torch.randn(B, T, 8, dtype=torch.float64)

@kinds
def test_a_later_token_changes_no_earlier_output(kind):
    net, x = KINDS[kind]().double(), tokens()
    y = x.clone(); y[:, 4:] = tokens()[:, 4:]
    a, b = net(x), net(y)
    assert (a - b)[:, :4].abs().max() < 1e-9 and (a - b)[:, 4:].abs().min() > 1e-6

@kinds
def test_not_causal_if_asked(kind):
    net, x = KINDS[kind](causal=False).double(), tokens()
    y = x.clone(); y[:, 6:] = tokens()[:, 6:]
    assert ((net(x) - net(y))[:, 0].abs() > 1e-8).any()

@kinds
@pytest.mark.parametrize('causal', (True, False))
def test_padded_places_change_nothing(kind, causal):
    net, x, lengths = KINDS[kind](causal=causal).double(), tokens(), (7, 4, 1)
    padding = torch.arange(7) >= torch.tensor(lengths)[:, None]
    together = net(x, padding)
    assert torch.isfinite(together).all()
    for i, n in enumerate(lengths): assert torch.allclose(together[i, :n], net(x[i:i+1, :n])[0], atol=1e-9)

@kinds
def test_derivatives(kind):
    net, x = KINDS[kind]().double(), tokens(1, 3)[:, :3].requires_grad_()
    names, params = zip(*net.named_parameters())
    def f(x, *p): return torch.func.functional_call(net, dict(zip(names, p)), (x,))
    assert torch.autograd.gradcheck(f, (x, *params), fast_mode=True)

def test_bias_by_hand():
    got = attention_bias(torch.tensor([.5, .25]), 2, 3)[0]
    inf = float('inf')
    assert torch.equal(got, torch.tensor([[[-.5, 0, -inf], [-1, -.5, 0]], [[-.25, 0, -inf], [-.5, -.25, 0]]]))

@pytest.mark.parametrize('norm', ('post', 'pre'))
def test_step_by_step_is_all_at_once(norm):
    net, x, past = KINDS[norm]().double(), tokens(), None
    for t, want in enumerate(net(x).unbind(1)):
        z, past = net.step(x[:, t:t+1], past)
        assert torch.allclose(z[:, 0], want, atol=1e-9)
    assert past[0].shape == (3, 2, 7, 4)

def test_generation_needs_fewer_token_evaluations():
    torch.manual_seed(0)
    model = CharLM(11, 8, DEQTransformer(8, 2, tol=1e-8, max_iter=200)).double().eval()
    count, f = [0], model.body.f.forward
    def counted(z, *rest): count[0] += z.shape[0]*z.shape[1]; return f(z, *rest)
    model.body.f.forward = counted
    start = torch.randint(11, (2, 5))
    fast = model.generate(start, 12, temperature=0); few = count[0]
    slow = start
    for _ in range(12): slow = torch.cat((slow, model(slow)[:, -1].argmax(-1, True)), 1)
    assert torch.equal(fast, slow) and few < .4*(count[0] - few)

def test_generation_from_other_bodies_and_with_a_window():
    for body in (Transformer(8, 2, 2), IncrementalTransformer(8, 2, heads=2), DEQTransformer(8, 2)):
        model = CharLM(11, 8, body).eval()
        out = model.generate(torch.randint(11, (2, 5)), 6, window=4, generator=torch.Generator().manual_seed(0))
        assert out.shape == (2, 11) and out.max() < 11

def test_the_collapse_and_its_gradient():
    net, x = KINDS['input']().double(), tokens(1, 3)
    assert torch.allclose(net(x), sum((-1)**(2 - l)*layer(x) for l, layer in enumerate(net.layers)) - x, atol=1e-9)
    assert all(s.converged.all() for s in net.solutions)

@kinds
def test_copies(kind):
    net, x = KINDS[kind]().double(), tokens()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))): assert torch.equal(twin(x), net(x))

def test_bfloat16_autocast():
    layer, x = DEQTransformer(16, tol=3e-2, on_failure='ignore'), torch.randn(2, 5, 16)
    with torch.autocast('cpu', torch.bfloat16): layer(x).float().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in layer.parameters())

@pytest.mark.parametrize('call, message', (
    (lambda: DEQTransformer(8, 3), 'features must be a multiple of heads = 3'), (lambda: EquilibriumBlock(8, norm='mid'), "norm must be .* got 'mid'"),
    (lambda: DEQTransformer(8)(torch.zeros(2, 3, 4)), r'x must have the shape \(B, T, 8\); got \(2, 3, 4\)'),
    (lambda: DEQTransformer(8)(torch.zeros(2, 3, 8), torch.zeros(2, 3)), 'padding must be bool'), (lambda: DEQTransformer(8)(torch.zeros(2, 3, 8), torch.zeros(2, 4).bool()), 'padding must'),
    (lambda: DEQTransformer(8, causal=False).step(torch.zeros(1, 1, 8)), 'causal=True'), (lambda: IncrementalTransformer(8, 0), 'depth'),
    (lambda: IncrementalTransformer(8, 2, 'output'), 'injection'), (lambda: IncrementalTransformer(8, 2, transition='turn'), 'transition'), (lambda: IncrementalTransformer(8, 2, steps=0), 'steps'),
    (lambda: CharLM(5, 8, Transformer(8, 1)).generate(torch.zeros(1, 2, dtype=torch.long), 0), 'n must'), (lambda: Transformer(8, -1), 'depth')))
def test_wrong_arguments_name_themselves(call, message):
    with pytest.raises(ValueError, match=message): call()
