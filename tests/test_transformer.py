"Equilibrium transformers: causality at the equilibrium, padding, exact derivatives, generation, the collapse."
import copy, inspect, pickle
import pytest, torch
from torch import nn
from deq_irnn import CharLM, DEQ, DEQTransformer, EquilibriumBlock, ContractiveTransformer, IncrementalTransformer, Transformer, attention_bias, depth_jacobian
from deq_irnn.resnet import DepthInjection, DepthTransition, ReadBoth

KINDS = {'post': lambda **o: DEQTransformer(8, 2, 'post', tol=1e-12, max_iter=400, **o), 'pre': lambda **o: DEQTransformer(8, 2, 'pre', tol=1e-12, max_iter=400, **o),
         'input': lambda **o: IncrementalTransformer(8, 3, 'input', 'minus', heads=2, tol=1e-12, max_iter=400, **o),
         'post, normed, turned': lambda **o: IncrementalTransformer(8, 2, 'normed', 'rotation', heads=2, norm='post', tol=1e-12, max_iter=400, **o),
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

@pytest.mark.parametrize('norm', ('pre', 'post'))
@pytest.mark.parametrize('make', (DEQTransformer, lambda d, **o: IncrementalTransformer(d, 2, **o)), ids=('DEQ', 'incremental'))
def test_autocast_reaches_every_weight(make, norm):
    "The gradients of all weights under bfloat16 autocast are there, and near those without. (On torch before 2.11 they were all zero, without a word.)"
    layer, x, grads = make(16, norm=norm, tol=1e-2, on_failure='ignore'), torch.randn(2, 5, 16), {}
    target = torch.randn(2, 5, 16)
    for name in ('float32', 'bfloat16'):
        layer.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=name == 'bfloat16'): out = layer(x)
        (out.float()*target).sum().backward()
        grads[name] = [p.grad for p in layer.parameters()]
    for a, b in zip(*grads.values()):
        assert b.dtype == torch.float32 and b.isfinite().all()
        assert (a - b).norm() < .1*a.norm() + 1e-3

@kinds
@pytest.mark.parametrize('how', ('device=', 'with'))
def test_from_the_meta_device(kind, how):
    "All keys match, and the outputs are the same."
    net, x = KINDS[kind]().double(), tokens()
    if how == 'with':
        with torch.device('meta'): other = KINDS[kind]()
    else: other = KINDS[kind](device='meta')
    other = other.double().to_empty(device='cpu')
    for b in other.buffers(): b.fill_(torch.nan)                          # memory that nobody has written
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))

@pytest.mark.parametrize('start, c', (('previous', 1.), ('zero', 0.)))
@pytest.mark.parametrize('transition, sign', (('minus', -1.), ('plus', 1.)))
@pytest.mark.parametrize('injection, scale', (('input', 1.), ('normed', 1.), ('normed', .5)))
def test_k_steps_are_those_of_the_ode(injection, scale, transition, sign, start, c):
    "g_0 = c h; g ← g + (κφ((g − Rh)/κ, u) − (g − Rh))/K; finite differences, and autograd through one layer. 'plus' from 'previous', input: I."
    net = IncrementalTransformer(4, 1, injection, transition, steps=3, heads=2, start=start, scale=scale).double()
    x, h0 = torch.randn(1, 3, 4).double(), torch.randn(1, 3, 4).double()
    def ode(h):
        g, u = c*h, net.injection(0, x.expand(len(h), -1, -1), h)
        for _ in range(3): g = g + (scale*net.layers[0].f((g - sign*h)/scale, u) - (g - sign*h))/3
        return g
    step = 1e-6*torch.eye(12).double().view(12, 3, 4)
    with torch.no_grad(): differences = ((ode(h0 + step) - ode(h0 - step))/2e-6).flatten(1).T
    J = depth_jacobian(lambda h: net.layer(0, x.expand(len(h), -1, -1), h), h0[0])
    assert torch.allclose(net.layer(0, x, h0), ode(h0), atol=1e-12) and torch.allclose(J, differences, atol=1e-7)
    if (injection, transition, start) == ('input', 'plus', 'previous'): assert torch.allclose(J, torch.eye(12).double())

@pytest.mark.parametrize('sign, transition', ((-1, 'minus'), (1, 'plus')))
def test_k_steps_through_the_network(sign, transition):
    "The forward pass alone, so that it can be run on other versions of the library."
    torch.manual_seed(0)
    net, x = IncrementalTransformer(4, 1, 'input', transition, steps=3, heads=2).double(), torch.randn(1, 3, 4).double()
    g = x
    for _ in range(3): g = g + (net.layers[0].f(g - sign*x, x) - (g - sign*x))/3
    assert torch.allclose(net(x), g, atol=1e-12)

def test_scale():
    net, x = KINDS['normed'](scale=.5).double(), tokens()
    h = x
    for l, layer in enumerate(net.layers): h = h + .5*layer(net.injection(l, x, h))
    assert torch.allclose(net(x), h)
    with pytest.raises(ValueError, match='scale'): IncrementalTransformer(8, 2, scale=0.)

def test_solutions_of_all_layers():
    net = IncrementalTransformer(8, 3, heads=2)
    net(tokens().float())
    assert len(net.solutions) == 3 and all(s.converged.all() for s in net.solutions)
    assert IncrementalTransformer(8, 3, heads=2, steps=2).solutions == []

class Half(DepthTransition):
    "Another person's transition: the halves of each state change places."
    def turn(self, l, h): return torch.cat(h.chunk(2, 1)[::-1], 1)

class Shifted(DepthInjection):
    "Another person's injection, with a weight."
    def __init__(self, depth, features):
        super().__init__(depth, features)
        self.by = nn.Parameter(torch.randn(depth, features))
    def forward(self, l, x, h): return x + self.by[l]

def test_parts_of_ones_own():
    net, x = IncrementalTransformer(8, 2, Shifted, Half, heads=2, tol=1e-10, max_iter=200).double(), tokens()
    one, two = net.layers
    first = torch.cat((x[..., 4:], x[..., :4]), -1) + one(x + net.injection.by[0])
    assert torch.allclose(net(x), torch.cat((first[..., 4:], first[..., :4]), -1) + two(x + net.injection.by[1]))
    net(x).square().sum().backward()
    assert (net.injection.by.grad != 0).all()

def test_a_body_of_ones_own_is_streamed():
    class Sum(nn.Module):
        causal = True
        def forward(self, x): return x.cumsum(1)
        def step(self, x, past=None, z0=None, window=None): return (x, x) if past is None else (past + x, past + x)
    model, codes = CharLM(11, 8, Sum()).eval(), torch.randint(11, (2, 5))
    out = model.generate(codes, 6, temperature=0)
    slow = codes
    for _ in range(6): slow = torch.cat((slow, model(slow)[:, -1].argmax(-1, True)), 1)
    assert torch.equal(out, slow)

@pytest.mark.parametrize('norm', ('pre', 'post'))
def test_a_step_with_padding_and_a_window(norm):
    "A stream of two, one of which began three tokens late; and a window of the past."
    net, x = KINDS[norm]().double(), tokens(2)
    late = torch.zeros(2, 7, dtype=torch.bool); late[1, :3] = True
    whole, past = net(x, late), None
    for t in range(5): z, past = net.step(x[:, t:t+1], past)
    k, v = (p.clone() for p in past)
    assert torch.allclose(net(x[:, 5:6], late[:, :6], k, v)[0, 0], whole[0, 5], atol=1e-9)
    _, short = net.step(x[:, 5:6], past, window=4)
    assert short[0].shape[2] == 4 and torch.allclose(short[0][:, :, :3], past[0][:, :, -3:], atol=0)

def test_pre_norm_is_the_default():
    for net in (EquilibriumBlock(8), DEQTransformer(8).f, IncrementalTransformer(8, 1).layers[0].f): assert net.norm == 'pre'

def test_called_as_a_DEQ_is():
    "All that DEQ.forward takes: z0 and key by name, more injections by position."
    ours, base = (inspect.signature(c.forward).parameters for c in (DEQTransformer, DEQ))
    assert set(base) - {'more'} <= set(ours)
    layer, x = DEQTransformer(8, remember=10, tol=1e-5), tokens().float()
    z = layer(x, key=[0, 1, 2])
    layer(x, z0=z)
    warm = layer.solution.n_eval
    layer(x, key=[0, 1, 2])
    assert layer.solution.n_eval == warm <= 2

@pytest.mark.parametrize('call, message', (
    (lambda: DEQTransformer(8, 3), 'features must be a multiple of heads = 3'), (lambda: EquilibriumBlock(8, norm='mid'), "norm must be .* got 'mid'"),
    (lambda: DEQTransformer(8)(torch.zeros(2, 3, 4)), r'x must have the shape \(B, T, 8\); got \(2, 3, 4\)'),
    (lambda: DEQTransformer(8)(torch.zeros(2, 3, 8), torch.zeros(2, 3)), 'padding must be bool'), (lambda: DEQTransformer(8)(torch.zeros(2, 3, 8), torch.zeros(2, 4).bool()), 'padding must'),
    (lambda: DEQTransformer(8, causal=False).step(torch.zeros(1, 1, 8)), 'causal=True'), (lambda: IncrementalTransformer(8, 0), 'depth'),
    (lambda: IncrementalTransformer(8, 2, 'output'), 'injection'), (lambda: IncrementalTransformer(8, 2, transition='turn'), 'transition'), (lambda: IncrementalTransformer(8, 2, steps=0), 'steps'),
    (lambda: IncrementalTransformer(8, 2, steps=2, start='h'), 'start'), (lambda: IncrementalTransformer(8, 2, ReadBoth), 'injection must have parts = 1'),
    (lambda: IncrementalTransformer(8, 2, steps=2)(torch.zeros(2, 8)), r'x must have the shape \(B, T, 8\)'), (lambda: CharLM(5, 0, nn.Identity()), 'features'),
    (lambda: CharLM(5, 8, Transformer(8, 1)).generate(torch.zeros(1, 2, dtype=torch.long), 0), 'n must'), (lambda: Transformer(8, -1), 'depth')))
def test_wrong_arguments_name_themselves(call, message):
    with pytest.raises(ValueError, match=message): call()


@pytest.mark.parametrize('make', (DEQTransformer, ContractiveTransformer))
@pytest.mark.parametrize('window', (0, -2, 1.5))
def test_a_window_is_a_number_of_tokens(make, window):
    "A window of 0 would be all tokens: `past[-0:]`."
    with pytest.raises((TypeError, ValueError), match='window'): make(8, 2).step(torch.randn(1, 1, 8), window=window)
