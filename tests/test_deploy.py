"Frozen copies: every layer, through every exporter; a stream; what cannot be frozen says so. ONNX where onnx, onnxscript and onnxruntime are installed (`make extras`)."
import copy, importlib.util, io, warnings
import pytest, torch
from torch import nn
from deq_irnn import *
from deq_irnn.deploy import FREEZERS, Equation, FrozenDEQ, Schedule, Stepwise, fit_schedule, frozen, measure
from deq_irnn.fixed_point import SolvingModule
from deq_irnn.isometry import Exponential, Orthogonal

class Cell(nn.Module):
    def __init__(self): super().__init__(); self.linear = nn.Linear(4, 4)
    def forward(self, z, x): return torch.tanh(.5*self.linear(z) + x)

class Pair(nn.Module):
    "A state that is a nest, two injections, a weight made contractive."
    def __init__(self): super().__init__(); self.linear = make_contractive(nn.Linear(4, 4), .5)
    def forward(self, z, x, y): return dict(a=torch.tanh(self.linear(z['b']) + x), b=torch.tanh(.5*z['a'] + y))

class Nested(nn.Module):
    "A layer at rest within the function of another."
    def __init__(self): super().__init__(); self.inner, self.linear = DEQ(Cell(), tol=1e-6), nn.Linear(4, 4)
    def forward(self, z, x): return torch.tanh(.3*self.linear(z) + self.inner(x))

class Text(nn.Module):
    def __init__(self): super().__init__(); self.embed, self.rnn, self.head = nn.Embedding(7, 4), RootBlock(4, tol=1e-6), nn.Linear(4, 7)
    def forward(self, codes): return self.head(self.rnn(self.embed(codes))[0])

def start(x): return dict(a=torch.zeros_like(x), b=torch.zeros_like(x))
def dense(N, D, **kw): return Orthogonal(N, D, 3, Exponential(), **kw)
TIGHT = dict(tol=1e-6, max_iter=300)
def sequence(): return torch.randn(5, 2, 4),
def short(): return torch.randn(2, 2, 4),
def vectors(): return torch.randn(3, 4),
def pictures(): return torch.randn(2, 4, 4, 4),
def tokens(): return torch.randn(2, 5, 4),

NETS = {
    'DEQ': (lambda: DEQ(Cell(), **TIGHT), vectors),
    'DEQ nest, parametrized': (lambda: DEQ(Pair(), init=start, **TIGHT), lambda: (torch.randn(3, 4), torch.randn(3, 4))),
    'DEQ in a DEQ': (lambda: DEQ(Nested(), **TIGHT), vectors),
    'MonotoneLayer': (lambda: MonotoneLayer(4, 4, torch.tanh, **TIGHT), vectors),
    'MonotoneConv': (lambda: MonotoneConv(4, (4, 4), **TIGHT), pictures),
    'IRNN': (lambda: IRNN(4, 6, 2, bidirectional=True, nonlinearity='tanh'), sequence),
    'IRNN batch_first': (lambda: IRNN(4, 6, batch_first=True, learn_h0=True, alpha=.9), sequence),
    **{f'RootIRNN {t}': (lambda t=t: RootIRNN(4, 8, transition=t, **TIGHT), sequence) for t in TRANSITIONS},
    'RootIRNN dense': (lambda: RootIRNN(4, 6, transition=dense, **TIGHT), sequence),
    'RootIRNN monotone, heads': (lambda: RootIRNN(4, 8, 2, recurrence='monotone', heads=2, **TIGHT), sequence),
    'RootIRNN sin': (lambda: RootIRNN(4, 6, nonlinearity=torch.sin, solver=Anderson(), **TIGHT), sequence),
    **{f'IsometricRNN {i}': (lambda i=i: IsometricRNN(4, 6, 2, injection=i, transition='input_rotation', bidirectional=True), sequence) for i in ('tanh', 'mlp', None)},
    'RootBlock in a model': (Text, lambda: (torch.randint(0, 7, (5, 2)),)),
    **{f'EquilibriumRNN {c.__name__}': (lambda c=c: EquilibriumRNN(c(4, 3), **TIGHT), short) for c in (TanhCell, IncrementalCell, EquilibriumGRUCell, DiagonalGRUCell, DiagonalLSTMCell)},
    'EquilibriumRNN nn.LSTMCell': (lambda: EquilibriumRNN(Explicit(nn.LSTMCell(4, 3)), **TIGHT), short),
    **{f'IncrementalResNet {b} {i} {t}': (lambda b=b, i=i, t=t: IncrementalResNet(4, 3, i, block=b, transition=t, **TIGHT), vectors if b == 'dense' else pictures)
       for b, i, t in (('dense', 'input', 'minus'), ('dense', 'both', 'rotation'), ('conv', 'input', 'rotation'), ('conv', 'normed', 'plus'))},
    'IncrementalResNet steps': (lambda: IncrementalResNet(4, 3, 'normed', steps=2), vectors),
    'DEQTransformer': (lambda: DEQTransformer(4, 2, **TIGHT), tokens),
    'IncrementalTransformer': (lambda: IncrementalTransformer(4, 2, heads=2, **TIGHT), tokens),
    'IncrementalTransformer steps': (lambda: IncrementalTransformer(4, 2, heads=2, steps=2), tokens),
    'CharLM': (lambda: CharLM(7, 4, DEQTransformer(4, 2, **TIGHT)), lambda: (torch.randint(0, 7, (2, 5)),)),
}
nets = pytest.mark.parametrize('name', NETS)
OLD = tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 5)       # torch 2.4 exports neither a loop of solves nor a free length
ONNX = all(importlib.util.find_spec(m) for m in ('onnx', 'onnxscript', 'onnxruntime'))

def make(name):
    "A frozen copy, with its model, and inputs that it has not seen."
    torch.manual_seed(0)
    build, inputs = NETS[name]
    model, seen, new = build().eval(), inputs(), inputs()
    net, report = frozen(model, *seen)
    return model, net, report, new

def flat(out): return torch.utils._pytree.tree_leaves(out)
def close(a, b, tol=1e-5):
    for u, v in zip(flat(a), flat(b), strict=True): torch.testing.assert_close(u, v, atol=tol, rtol=tol)

@nets
def test_a_copy_says_the_same(name):
    model, net, report, new = make(name)
    with torch.no_grad(): close(net(*new), model(*new), 2e-4)
    assert report.difference < 1e-4 and all(s.residual <= s.tol for s in report.solves)
    assert not [m for m in net.modules() if type(m) in FREEZERS and isinstance(m, SolvingModule) and 'steps' not in name]
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    if report.solves: assert all(s.name in measure(net, *new) for s in report.solves)

@nets
def test_export(name):
    if OLD and 'EquilibriumRNN' in name: pytest.skip('torch 2.4 does not export it')
    _, net, _, new = make(name)
    program = torch.export.export(net, new)
    called = ' '.join(str(n.target) for n in program.graph.nodes if n.op == 'call_function')
    left = [op for op in ('linalg_inv', 'linalg_solve', 'svd', 'while', 'cond') if op in called] + ['matrix_exp']*('matrix_exp' in called and 'dense' not in name)
    assert not left, 'a solve is left'
    close(program.module()(*new), net(*new))

@nets
@pytest.mark.filterwarnings('ignore')
def test_trace(name):
    _, net, _, new = make(name)
    if 'nest' in name: pytest.skip('jit.trace gives no dicts')
    close(torch.jit.trace(net, new, check_trace=False)(*new), net(*new))

@nets
def test_compile_without_a_break(name):
    if OLD and 'EquilibriumRNN' in name: pytest.skip('torch 2.4 does not compile it in one piece')
    _, net, _, new = make(name)
    torch._dynamo.reset()
    with torch.no_grad(): close(torch.compile(net, fullgraph=True, backend='eager')(*new), net(*new))

@nets
@pytest.mark.skipif(not ONNX, reason='needs onnx, onnxscript, onnxruntime: make extras')
@pytest.mark.filterwarnings('ignore')
def test_onnx(name, tmp_path):
    import onnxruntime
    _, net, _, new = make(name)
    torch.onnx.export(net, new, tmp_path/'net.onnx', dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path/'net.onnx')
    got = session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), new)})
    close([torch.from_numpy(g) for g in got], flat(net(*new)))

@pytest.mark.parametrize('name', ['RootIRNN rotation', 'RootIRNN input_rotation', 'RootIRNN minus', 'IsometricRNN mlp', 'RootBlock in a model'])
def test_batch_and_length_are_free(name):
    if OLD: pytest.skip('torch 2.4 fixes the length')
    from torch.export import Dim
    _, net, _, new = make(name)
    program = torch.export.export(net, new, dynamic_shapes=[{0: Dim('time', min=2), 1: Dim('batch', min=2)}])
    longer = torch.cat([torch.cat([new[0]]*4)]*3, 1)
    close(program.module()(longer), net(longer))

@pytest.mark.parametrize('make_rnn', [lambda: RootIRNN(4, 8, 2, **TIGHT), lambda: RootIRNN(4, 8, transition='orthogonal', **TIGHT), lambda: IRNN(4, 6, 2),
                                      lambda: IsometricRNN(4, 6, injection=None), lambda: EquilibriumRNN(TanhCell(4, 6), **TIGHT)])
def test_a_stream_is_the_sequence(make_rnn):
    rnn, x = make_rnn().eval(), torch.randn(20, 3, 4)
    net, _ = frozen(rnn, x)
    with torch.no_grad(): whole, last = rnn(x)
    out, state = net.step(x[0])
    program = torch.export.export(Stepwise(net), (x[1], state)).module()
    outputs = [out]
    for x_t in x[1:]:
        out, state = program(x_t, state)
        outputs.append(out)
    close(torch.stack(outputs), whole, 2e-4); close(state, last, 2e-4)

def test_the_model_is_left_alone():
    model, x, y = DEQ(Pair(), init=start).train(), torch.randn(3, 4), torch.randn(3, 4)
    before = copy.deepcopy(model.state_dict())
    frozen(model, x, y)
    model(x, y)['a'].sum().backward()                       # its weight is still a parametrization
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and all(p.requires_grad for p in model.parameters())

def test_it_does_not_depend_on_batch_mates():
    _, net, _, (x,) = make('DEQTransformer')
    close(net(x)[:1], net(x[:1]), 1e-6)

def test_constants_carry_over_to_other_samples():
    "Fitted on 64 samples, 5 seeds: on 64 others the residual is no more than three times as large, and far fewer steps are needed than plain ones."
    for seed in range(5):
        torch.manual_seed(seed)
        Q = torch.linalg.qr(torch.randn(32, 32))[0]
        W, x, other = Q @ torch.diag(torch.linspace(-.95, .95, 32)) @ Q.T, .1*torch.randn(64, 32), .1*torch.randn(64, 32)
        def equation(x): return Equation.plain(lambda z: torch.tanh(z @ W + x), torch.zeros_like(x))
        plain, _ = fit_schedule([equation(x)], 1e-5)
        mixed, residual = fit_schedule([equation(x)], 1e-5, memory=5)
        there = equation(other).residual(mixed(equation(other).f, torch.zeros_like(other)))
        assert mixed.iterations < .5*plain.iterations and there.max() < 3*residual.max()

def test_iterations_and_tolerance_are_obeyed():
    rnn, x = RootIRNN(4, 8), torch.randn(20, 3, 4)
    _, loose = frozen(rnn, x, tol=1e-2)
    _, tight = frozen(rnn, x, tol=1e-6)
    net, given = frozen(rnn, x, iterations=3)
    assert loose.solves[0].iterations < tight.solves[0].iterations and tight.solves[0].residual <= 1e-6
    assert given.solves[0].iterations == 3 and given.solves[0].residual > 1e-6
    assert measure(net, x)['cells.0.injection'].max().item() == pytest.approx(given.solves[0].residual)

def test_measure_sees_what_the_examples_did_not():
    layer = DEQ(Cell(), tol=1e-4)
    with torch.no_grad(): layer.f.linear.weight.mul_(3.5)
    net, _ = frozen(layer, 3*torch.ones(2, 4) + .01*torch.randn(2, 4), memory=1)    # tanh is flat there: rest is near
    assert measure(net, .1*torch.randn(50, 4))[''].max() > 1e-4

def test_what_cannot_be_frozen_says_so():
    class Grows(nn.Module):
        def forward(self, z, x): return 3*z + x
    with pytest.raises(ConvergenceError, match="DEQ 'inner'.*above tol"):
        class Model(nn.Module):
            def __init__(self): super().__init__(); self.inner = DEQ(Grows(), on_failure='ignore')
            def forward(self, x): return self.inner(x)
        frozen(Model(), torch.randn(3, 4), memory=1)
    class Mine(SolvingModule):
        def forward(self, x): return x
    with pytest.raises(TypeError, match="Mine '' solves something"): frozen(Mine(), torch.randn(3))
    for wrong, error in (((3, torch.ones(2)), TypeError), ((nn.Linear(2, 2),), TypeError)):
        with pytest.raises(error): frozen(*wrong)
    for option in (dict(iterations=0), dict(tol=-1.), dict(memory=0), dict(max_iter=0)):
        with pytest.raises(ValueError, match=next(iter(option))): frozen(nn.Linear(2, 2), torch.ones(2, 2), **option)
    net, _ = frozen(IRNN(4, 3, bidirectional=True), torch.randn(5, 2, 4))
    with pytest.raises(ValueError, match='bidirectional'): net.step(torch.randn(2, 4))
    with pytest.raises(TypeError, match='PackedSequence'): net(nn.utils.rnn.pack_sequence([torch.randn(3, 4)]))
    with pytest.raises(TypeError, match='step'): Stepwise(nn.Linear(2, 2))

def test_a_layer_of_your_own_is_one_entry(monkeypatch):
    class Mine(SolvingModule):
        def __init__(self): super().__init__(); self.inner = DEQ(Cell())
        def forward(self, x): return 2*self.inner(x)
    class Doubled(nn.Module):
        def __init__(self, inner): super().__init__(); self.inner = inner
        def forward(self, x): return 2*self.inner(x)
    monkeypatch.setitem(FREEZERS, Mine, lambda layer, name, calls, how: Doubled(layer.inner))
    model, x = Mine().eval(), torch.randn(3, 4)
    net, report = frozen(model, x)
    assert isinstance(net, Doubled) and isinstance(net.inner, FrozenDEQ) and report.solves[0].name == 'inner'
    close(net(x), model(x), 1e-3)

def test_a_layer_that_the_examples_never_call_raises():
    class Model(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = DEQ(Cell()), DEQ(Cell())
        def forward(self, x): return self.a(x) if x.shape[0] < 4 else self.b(x)
    net, _ = frozen(Model(), torch.randn(3, 4))
    with pytest.raises(RuntimeError, match='never called it'): net(torch.randn(5, 4))

def test_a_rest_is_refused():
    "It was left out without a word, and the outputs were others."
    class Rounded(Rest):
        def forward(self, h): return h.round()
    with pytest.raises(ValueError, match='rest=None'): frozen(IsometricRNN(3, 4, rest=Rounded()), torch.randn(6, 2, 3))
    with pytest.raises(TypeError, match='Attractors'):
        frozen(IsometricRNN(3, 4, rest=Attractors(torch.randn(5, 4))), torch.randn(6, 2, 3))

def test_a_user_transition_stays_as_it_is():
    class Flip(Transition):
        def forward(self, x, b, h0):
            out = []
            for k in range(len(x)): h0 = h0.flip(-1) + (0 if b is None else b[k]); out.append(h0)
            return torch.stack(out)
    rnn, x = RootIRNN(4, 6, transition=Flip, **TIGHT).eval(), torch.randn(5, 2, 4)
    net, _ = frozen(rnn, x)
    close(torch.export.export(net, (x,)).module()(x), rnn(x), 2e-4)

def test_it_is_saved_and_read_again():
    _, net, _, new = make('RootIRNN rotation')
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, new), file)
    file.seek(0)
    close(torch.export.load(file).module()(*new), net(*new))
