"Every public network on every device: float32, bfloat16 autocast, float64 gradcheck; nothing moves to another device or type; how often a solve waits for a GPU."
import copy, warnings
from dataclasses import replace
import pytest, torch
from torch import nn
from torch.autograd import gradcheck
from deq_irnn import *
from deq_irnn.isometry import TRANSITIONS
from deq_irnn import loop, solvers
from deq_irnn.root_irnn import IsometricRNN
from deq_irnn.equilibrium_rnn import DiagonalGRUCell, DiagonalLSTMCell, EquilibriumGRUCell, Explicit, IncrementalCell, TanhCell

DEVICES = ['cpu', pytest.param('cuda', marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')])]
on_devices = pytest.mark.parametrize('device', DEVICES)

class Cell(nn.Module):
    def __init__(self): super().__init__(); self.linear = nn.Linear(4, 4)
    def forward(self, z, x): return torch.tanh(.5*self.linear(z) + x)

TIGHT = dict(tol=1e-12, max_iter=500)
def sequence(): return torch.randn(5, 2, 4)
def vectors(): return torch.randn(3, 4)
def pictures(): return torch.randn(2, 4, 4, 4)
def tokens(): return torch.randn(2, 5, 4)

NETS = {                                                              # name → (module, input)
    **{f'DEQ {s}': (lambda s=s: DEQ(Cell(), solver=s, **TIGHT), vectors) for s in (Picard(), Anderson(), Broyden(), NewtonKrylov())},
    **{f'DEQ {g}': (lambda g=g: DEQ(Cell(), solver=Picard(), gradient=g, **TIGHT), vectors) for g in (Implicit(), Unrolled())},
    'MonotoneLayer': (lambda: MonotoneLayer(4, 4, torch.tanh, **TIGHT), vectors),
    'MonotoneConv': (lambda: MonotoneConv(4, (4, 4), nonlinearity=torch.tanh, **TIGHT), pictures),
    'IRNN': (lambda: IRNN(4, 6, num_layers=2, bidirectional=True, nonlinearity='tanh'), sequence),
    **{f'RootIRNN {t}': (lambda t=t: RootIRNN(4, 8, transition=t, **TIGHT), sequence) for t in TRANSITIONS},
    'RootIRNN monotone, heads': (lambda: RootIRNN(4, 8, recurrence='monotone', heads=2, num_layers=2, **TIGHT), sequence),
    'RootIRNN Anderson': (lambda: RootIRNN(4, 6, gate='input', solver=Anderson(), **TIGHT), sequence),
    **{f'IsometricRNN {i}': (lambda i=i: IsometricRNN(4, 6, 2, injection=i, transition='input_rotation'), sequence) for i in ('tanh', 'mlp', None)},
    'RootBlock': (lambda: RootBlock(4, **TIGHT), sequence),
    **{f'EquilibriumRNN {c.__name__} {m}': (lambda c=c, m=m: EquilibriumRNN(c(4, 3), m, **TIGHT), sequence)
       for c in (TanhCell, IncrementalCell, EquilibriumGRUCell, DiagonalGRUCell) for m in ('sequential', 'parallel')},
    'EquilibriumRNN DiagonalLSTMCell': (lambda: EquilibriumRNN(DiagonalLSTMCell(4, 3), 'parallel', 'block', **TIGHT), sequence),
    'EquilibriumRNN nn.GRUCell': (lambda: EquilibriumRNN(Explicit(nn.GRUCell(4, 3)), 'parallel', **TIGHT), sequence),
    **{f'IncrementalResNet {b} {i}': (lambda b=b, i=i: IncrementalResNet(4, 3, i, block=b, **TIGHT), vectors if b == 'dense' else pictures) for b in ('dense', 'conv') for i in ('input', 'normed')},
    'DEQTransformer': (lambda: DEQTransformer(4, 2, **TIGHT), tokens),
    'IncrementalTransformer': (lambda: IncrementalTransformer(4, 2, heads=2, **TIGHT), tokens),
    'Transformer': (lambda: Transformer(4, 2, 2), tokens)}
nets = pytest.mark.parametrize('name', NETS)

def make(name, device, dtype):
    torch.manual_seed(0)
    module, input = NETS[name]
    return module().to(device, dtype), input().to(device, dtype)
def first(out): return first(out[0]) if isinstance(out, tuple) else out
def learned(net): return [p for p in net.parameters() if p.requires_grad]

@on_devices
@nets
def test_float32_stays_where_it_is(name, device):
    net, x = make(name, device, torch.float32)
    solving = [m for m in net.modules() if isinstance(m, SolvingModule)]
    for m in solving: m.how = replace(m.how, tol=1e-5)                      # every layer that solves has one `how`
    assert solving or not name.startswith(('DEQ', 'Monotone', 'Root', 'Equilibrium', 'Incremental'))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)                 # the tolerances are those of float64
        y = first(net(x)); y.square().mean().backward()
    assert y.device == x.device and y.dtype == torch.float32 and y.isfinite().all()
    assert all(p.device == x.device and p.grad is not None and p.grad.device == x.device and p.grad.isfinite().all() for p in learned(net))
    reference = copy.deepcopy(net).double().cpu()
    torch.testing.assert_close(y.double().cpu(), first(reference(x.double().cpu())), atol=1e-3, rtol=1e-3)

@on_devices
@nets
def test_bfloat16_autocast(name, device):
    net, x = make(name, device, torch.float32)
    exact = first(copy.deepcopy(net).double()(x.double()))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)                 # eight bits do not reach them
        with torch.autocast(device, torch.bfloat16): y = first(net(x))
        y.float().square().mean().backward()
    assert y.isfinite().all() and all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in learned(net))
    assert (y.double() - exact).norm() < .1*exact.norm()

@on_devices
@nets
def test_gradcheck(name, device):
    net, x = make(name, device, torch.float64)
    names, params = zip(*net.named_parameters())
    def run(x, *params): return first(torch.func.functional_call(net, dict(zip(names, params)), (x,)))
    assert gradcheck(run, (x.requires_grad_(), *params), atol=1e-5, fast_mode=True)

WAITS = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::is_nonzero', 'aten::equal'}    # what makes Python wait for a GPU; counted on the CPU as well

def waits(run):
    "How often `run` waits for a result of the device. (LAPACK's own look at the pivots of a linear system, on the CPU, is none.)"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile: run()
    def inside(e): return e is not None and (e.name == 'aten::linalg_lu_solve' or inside(e.cpu_parent))
    return sum(e.name in WAITS and not inside(e) for e in profile.events())

@on_devices
@pytest.mark.parametrize('solver', (Picard(), Anderson(), Broyden()), ids=lambda s: type(s).__name__)
def test_a_solve_waits_once_per_look(solver, device, monkeypatch):
    "Twice as many iterations: as many more waits as there are more looks, and none in between (but when 0 is tried, in iteration 8, 16, 32, …)."
    for module in (loop, solvers): monkeypatch.setattr(module, 'is_far', lambda z: True)    # the CPU is to behave like a GPU
    W, x = (.9*torch.linalg.qr(torch.randn(32, 32))[0]).to(device), torch.randn(8, 32, device=device)
    def f(z): return torch.tanh(z @ W + x)
    for every in (1, 4, 10):
        counts = [waits(lambda: solve(f, torch.zeros_like(x), solver, tol=1e-30, max_iter=n, check_every=every, on_failure='ignore')) for n in (20, 40)]
        assert counts[1] - counts[0] <= 20//every + 2, (every, counts)
