"The DEQ layer as people use it: mixed precision, compiled, copied, with a memory of its samples, dropout, states on the way."
import dataclasses
import copy, io, pickle, subprocess, sys
import pytest, torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from deq_irnn import DEQ, Anderson, Implicit, Picard, VariationalDropout, WeightDropout, fixed_point

class Cell(nn.Module):
    def __init__(self, D=6, dropout=None):
        super().__init__()
        self.linear, self.dropout = nn.Linear(D, D), dropout or nn.Identity()
        with torch.no_grad(): self.linear.weight.mul_(.7)
    def forward(self, z, x): return torch.tanh(self.dropout(self.linear(z)) + x)

class Two(nn.Module):
    "A nested state and a second injection."
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 3)
    def forward(self, z, x, scale):
        return {'a': torch.tanh(.5*self.b(z['b']) + x), 'b': torch.sin(.5*self.a(z['a']))*scale}

def nested(**options):
    return DEQ(Two(), init=lambda x: {'a': torch.zeros_like(x), 'b': x.new_zeros(len(x), 2)}, **options)

def test_a_whole_class():
    assert DEQ.forward.__name__ == 'forward' and DEQ.forward.__qualname__ == 'DEQ.forward'

# injections
def test_an_injection_without_the_batch_is_refused():
    "One factor for each feature, not each sample: rows of it were dropped with the samples, and the answer was wrong."
    layer = DEQ(lambda z, x, s: s*z + x, tol=1e-6)
    x, s = torch.tensor([[0.]*4, [1.]*4]), torch.tensor([.1, .3, .5, .7])
    with pytest.raises(ValueError, match=r'injection 2 of f\(z, x, …\) must have the batch, 2.*got the shape \(4,\).*t\[None\]'):
        layer(x, s)
    with pytest.raises(ValueError, match='x must have the batch, 3'): layer(x, s[None], z0=torch.zeros(3, 4))
    with pytest.raises(ValueError, match='injection 2'): layer(x, {'nested': [s]})
    layer.trajectory = (2,)                                      # the rule does not depend on an option
    with pytest.raises(ValueError, match='injection 2'): layer(x, s)

@pytest.mark.parametrize('options', ({}, {'trajectory': (2,)}, {'solver': Picard()}))
def test_an_injection_that_all_samples_share(options):
    "No dimension, or a first one of 1: right in every row, with its gradient, when samples are done at different times."
    layer = DEQ(lambda z, x, s, t: s*z + t*x, tol=1e-6, max_iter=200, **options)
    x = torch.tensor([[0.]*4, [1.]*4, [1e-3]*4, [0.]*4])
    s, t = torch.tensor([[.1, .3, .5, .7]], requires_grad=True), torch.tensor(2., requires_grad=True)
    z = layer(x, s, t)
    torch.testing.assert_close(z, 2*x/(1 - s), atol=1e-4, rtol=1e-4)
    gs, gt = torch.autograd.grad(z.sum(), (s, t))
    torch.testing.assert_close(gs, (2*x/(1 - s)**2).sum(0, keepdim=True), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(gt, (x/(1 - s)).sum(), atol=1e-2, rtol=1e-3)

def test_gradcheck_of_a_nested_state_with_two_injections():
    layer = nested(tol=1e-13, max_iter=500).double()
    x, scale = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.rand(2, 1, dtype=torch.float64, requires_grad=True)
    names, params = zip(*layer.named_parameters())
    def f(x, scale, *p): return tuple(torch.func.functional_call(layer, dict(zip(names, p)), (x, scale)).values())
    assert torch.autograd.gradcheck(f, (x, scale, *params)) and torch.autograd.gradgradcheck(f, (x, scale, *params))

def test_trains_under_bfloat16_autocast():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 16), DEQ(Cell(16), tol=2e-2, on_failure='ignore'), nn.Linear(16, 1)), torch.randn(256, 4)
    y = (x[:, :1]*x[:, 1:2]).sign()
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(150):
        with torch.autocast('cpu', torch.bfloat16): loss = nn.functional.mse_loss(net(x).float(), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step(); losses.append(loss.item())
    assert losses[-1] < .5*losses[0] and all(p.dtype == torch.float32 for p in net.parameters())

@pytest.mark.parametrize('options', ({}, {'trajectory': (2,)}))
def test_weights_get_their_gradients_under_autocast(options):
    "Those of float32 but for rounding: no cast made while no gradient was recorded may serve the backward pass."
    layer = DEQ(Cell(), tol=1e-2, max_iter=20, on_failure='ignore', init=nn.Linear(6, 6), **options)
    x = torch.randn(32, 6)
    want = torch.autograd.grad(layer(x).square().mean(), tuple(layer.f.parameters()))
    seen = []
    layer.f.register_forward_hook(lambda *_: seen.append((torch.is_grad_enabled(), torch.is_autocast_cache_enabled())))
    with torch.autocast('cpu', torch.bfloat16):
        z = layer(x)
        got = torch.autograd.grad(z.float().square().mean(), tuple(layer.f.parameters()))
    for g, w in zip(got, want): assert (g - w).norm() < .1*w.norm() and g.norm() > 0
    assert not [1 for recorded, cached in seen if cached and not recorded]      # else torch < 2.11 loses gradients

def test_trains_under_torch_compile():
    torch._dynamo.reset()
    net, x = nn.Sequential(nn.Linear(4, 16), DEQ(Cell(16), tol=1e-4), nn.Linear(16, 1)), torch.randn(64, 4)
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, backend='aot_eager')
    for model, parameters in ((compiled, net), (twin, twin)):
        optimizer = torch.optim.SGD(parameters.parameters(), .1)
        for _ in range(3): optimizer.zero_grad(); model(x).square().mean().backward(); optimizer.step()
    for a, b in zip(net.parameters(), twin.parameters()): assert torch.allclose(a, b, atol=1e-4)
    torch._dynamo.reset()

def test_copies_and_files(tmp_path):
    layer, x = DEQ(Cell(), remember=5, trajectory=(2,)), torch.randn(4, 6)
    layer(x, key=range(4)).sum().backward()
    torch.save(layer, tmp_path/'a.pt')
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(tmp_path/'a.pt', weights_only=False)
    for twin in twins:
        assert not twin.states and not len(twin.remembered)
        with pytest.raises(RuntimeError, match='call the layer first'): twin.solution
        assert torch.equal(twin(x), layer(x))
    assert len(layer.states) == 1 and len(layer.remembered) == 4             # the original keeps its own
    assert set(layer.state_dict()) == {'f.linear.weight', 'f.linear.bias'}

def test_files_do_not_grow():
    "The last batch, states, masks and remembered rows belong to nobody else."
    layer = DEQ(Cell(dropout=VariationalDropout(.2)), remember=99, trajectory=(1, 2), init=nn.Linear(6, 6))
    def size():
        torch.save(layer, buffer := io.BytesIO())
        return buffer.tell()
    before = size()
    layer(torch.randn(99, 6), key=range(99))
    assert size() == before

def test_the_solution_has_no_graph():
    "Also where the start is made by a module, and is already good enough, or the best there is."
    for options in dict(tol=1., max_iter=1), dict(tol=0., max_iter=1), dict(tol=0., max_iter=3):
        layer = DEQ(Cell(), init=nn.Linear(6, 6), on_failure='ignore', **options)
        layer(torch.randn(3, 6))
        assert not layer.solution.z.requires_grad and not layer.solution.residual.requires_grad

def test_evaluation_mode():
    layer, x = DEQ(Cell(), tol=1e-3, max_iter=9, eval_tol=1e-6, eval_max_iter=70), torch.randn(4, 6)
    layer(x); loose = layer.solution.n_eval
    z = layer.eval()(x)
    assert layer.solution.n_eval > loose and layer.solution.residual.max() <= 1e-6
    assert torch.autograd.grad(z.sum(), layer.f.linear.weight)[0].norm() > 0
    assert 'eval_tol=1e-06, eval_max_iter=70' in repr(layer) and 'eval' not in repr(DEQ(Cell()))
    assert (layer.how.tol, layer.how.max_iter, layer.eval_how.tol, layer.eval_how.max_iter) == (1e-3, 9, 1e-6, 70)
    assert DEQ(Cell(), atol=.1).eval_how == DEQ(Cell(), atol=.1).how

def test_atol_is_enough():
    layer = DEQ(Cell(), tol=0., atol=1e-2)
    layer(torch.randn(4, 6))
    assert layer.solution.converged.all() and 'atol=0.01' in repr(layer)

PROCESSES = """
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from deq_irnn import DEQ
torch.set_num_threads(1); torch.set_default_dtype(torch.float64)
dist.init_process_group('gloo')
class Cell(nn.Module):
    def __init__(self): super().__init__(); self.linear = nn.Linear(6, 6)
    def forward(self, z, x): return torch.tanh(.7*self.linear(z) + x)
torch.manual_seed(0)
net, x, y = nn.Sequential(nn.Linear(4, 6), DEQ(Cell(), tol=1e-12, max_iter=300)), torch.randn(8, 4), torch.randn(8, 6)
want = torch.autograd.grad(nn.functional.mse_loss(net(x), y), net.parameters())
mine, spread = slice(dist.get_rank(), None, 2), DistributedDataParallel(net)
for step in range(2):                                                   # twice: the reducer is ready again
    net.zero_grad()
    nn.functional.mse_loss(spread(x[mine]), y[mine]).backward()
    for p, w in zip(net.parameters(), want): torch.testing.assert_close(p.grad, w, atol=1e-9, rtol=1e-9)
del spread                                                              # it holds the process group
dist.barrier(); dist.destroy_process_group()
if int(__import__('os').environ['RANK']) == 0: print('equal')
"""

def test_distributed_data_parallel(tmp_path):
    "Two gloo processes, half of the batch each: the gradients of the whole batch."
    (tmp_path/'run.py').write_text(PROCESSES)
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', tmp_path/'run.py'], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and 'equal' in done.stdout, done.stderr[-3000:]

# a start from an earlier call
def test_a_known_sample_starts_where_it_was():
    layer, x = DEQ(Cell(), tol=1e-6, max_iter=99, remember=8), torch.randn(4, 6)
    a = layer(x, key=[3, 5, 7, 9]); first = layer.solution.n_eval
    b = layer(x[[2, 0]], key=torch.tensor([7, 3]))                       # in another order, in another batch
    assert layer.solution.n_eval <= 2 < first and torch.allclose(b, a[[2, 0]], atol=1e-5)

def test_nothing_stale_is_used():
    layer, x = DEQ(Cell(), tol=1e-6, max_iter=99, remember=4), torch.randn(4, 6)
    layer(x, key=range(4))
    cold = layer.solution.iterations.clone()
    layer(x, key=range(4, 8))
    assert torch.equal(layer.solution.iterations, cold)          # others: from zero; and these push the first ones out
    layer(x, key=range(4))
    assert torch.equal(layer.solution.iterations, cold)
    layer(x.double().float(), key=range(4))
    assert layer.solution.n_eval <= 2
    layer.double()(x.double(), key=range(4))
    assert layer.solution.n_eval > 2                             # another dtype
    layer.float().f.linear = nn.Linear(3, 3)
    layer(x[:, :3], key=range(4))
    assert layer.solution.iterations.min() > 2                   # another shape

def test_a_broken_sample_is_not_remembered():
    layer, x = DEQ(Cell(), remember=4, on_failure='ignore'), torch.randn(2, 6)
    layer.init = lambda x: torch.full_like(x, torch.nan)
    layer(x, key=range(2))
    assert not len(layer.remembered)

# states on the way
def test_trajectory():
    layer, x = DEQ(Cell(), solver=Picard(), tol=1e-9, max_iter=99, trajectory=(1, 3, 500)).double(), torch.randn(4, 6, dtype=torch.float64)
    end, z, chain = layer(x), torch.zeros(4, 6, dtype=torch.float64), []
    for _ in range(4): z = layer.f(z, x); chain.append(z)
    assert torch.allclose(layer.states[0], chain[0]) and torch.allclose(layer.states[1], chain[2])
    assert torch.allclose(layer.states[2], end, atol=1e-8)
    want, = torch.autograd.grad(layer.f(chain[1].detach(), x).sum(), layer.f.linear.weight)
    assert torch.allclose(torch.autograd.grad(layer.states[1].sum(), layer.f.linear.weight)[0], want)

# dropout
@pytest.mark.parametrize('kind', ('features', 'weights'))
def test_dropout_stands_still_in_a_solve(kind):
    layer = DEQ(Cell(dropout=VariationalDropout(.3) if kind == 'features' else None), tol=1e-12, max_iter=300).double()
    if kind == 'weights': register_parametrization(layer.f.linear, 'weight', WeightDropout(.3))
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    a = layer(x)
    assert layer.solution.converged.all() and torch.allclose(layer.f(a, x), a, atol=1e-10)   # the same mask outside
    dropout = next(m for m in layer.modules() if hasattr(m, 'mask'))
    mask = dropout.mask
    def kept(x):                                                 # the layer without drawing anew
        return fixed_point(lambda z: layer.f(z, x), torch.zeros_like(x), tol=1e-13, max_iter=500)
    assert torch.autograd.gradcheck(kept, x) and torch.autograd.gradgradcheck(kept, x)
    want, = torch.autograd.grad(kept(x).square().sum(), x)
    assert torch.allclose(torch.autograd.grad(a.square().sum(), x)[0], want, atol=1e-8)      # the backward pass saw it
    layer(x)
    assert not torch.equal(dropout.mask, mask)                   # the next call draws another
    assert torch.equal(layer.eval()(x), layer(x))

def test_a_dropout_of_your_own():
    from deq_irnn.deq_extras import FixedMask
    class WholeSamples(FixedMask):
        "All features of a sample, or none."
        def forward(self, z): return self.times(z, torch.Size((len(z), 1)))
    layer, x = DEQ(Cell(dropout=WholeSamples(.5)), tol=1e-6), torch.randn(32, 6)
    z = layer(x)
    gone = layer.f.dropout.mask[:, 0] == 0
    assert layer.solution.converged.all() and 0 < gone.sum() < 32 and torch.allclose(z[gone], torch.tanh(x[gone]))

def test_dropout_shared_over_time():
    drop = VariationalDropout(.5, shared=(1,))
    y = drop(torch.ones(4, 7, 5))
    assert torch.equal(y, y[:, :1].expand_as(y)) and set(y.unique().tolist()) <= {0., 2.}

def test_checkpoint_draws_the_same_mask_again():
    layer, x = DEQ(Cell(dropout=VariationalDropout(.3)), tol=1e-6), torch.randn(4, 6)
    torch.manual_seed(3)
    want = torch.autograd.grad(layer(x).sum(), layer.f.linear.weight)[0]
    torch.manual_seed(3)
    y = torch.utils.checkpoint.checkpoint(layer, x.clone().requires_grad_(), use_reentrant=False)
    assert torch.allclose(torch.autograd.grad(y.sum(), layer.f.linear.weight)[0], want, atol=1e-5)

@pytest.mark.parametrize('error, call, message', (
    (ValueError, lambda: DEQ(Cell(), remember=-1), 'remember'),
    (ValueError, lambda: DEQ(Cell(), trajectory=(0,)), 'trajectory'),
    (ValueError, lambda: DEQ(Cell(), tol=-1), 'tol'),
    (ValueError, lambda: DEQ(Cell(), atol=-1), 'atol'),
    (ValueError, lambda: DEQ(Cell(), eval_tol=-1), 'eval_tol'),
    (ValueError, lambda: DEQ(Cell(), eval_max_iter=0), 'eval_max_iter'),
    (ValueError, lambda: DEQ(Cell(), on_failure=''), 'on_failure'),
    (ValueError, lambda: DEQ(Cell())(torch.zeros(2, 6), key=[0, 1]), 'remember'),
    (ValueError, lambda: DEQ(Cell(), remember=2)(torch.zeros(2, 6), key=[0]), 'one integer for each of the 2 samples'),
    (ValueError, lambda: VariationalDropout(1.), 'p must be in'),
    (ValueError, lambda: WeightDropout(-.1), 'p must be in'),
    (TypeError, lambda: DEQ(3), 'f must be a module'),
    (TypeError, lambda: DEQ(Cell(), solver=Anderson), 'solver'),
    (TypeError, lambda: DEQ(Cell(), gradient=Implicit), 'gradient'),
    (TypeError, lambda: DEQ(Cell(), init=torch.zeros(2)), 'init'),
    (TypeError, lambda: DEQ(Two())({'a': torch.zeros(2, 3)}), 'pass z0')))
def test_wrong_arguments_name_themselves(error, call, message):
    with pytest.raises(error, match=message): call()

def test_no_solution_before_the_first_call():
    with pytest.raises(RuntimeError, match='DEQ has no solution yet: call the layer first'): DEQ(Cell()).solution

def test_an_option_set_on_the_layer_is_refused():
    "It would be read by nobody: options are in `how`."
    layer = DEQ(lambda z, x: torch.tanh(.5*z + x))
    with pytest.raises(AttributeError, match=r"layer.how = dataclasses.replace\(layer.how, tol=1e-08\)"): layer.tol = 1e-8
    layer.how = dataclasses.replace(layer.how, tol=1e-7)
    assert layer.how.tol == 1e-7
    layer(torch.randn(3, 4))
    assert (layer.solution.residual <= 1e-7).all()

def test_who_is_done_leaves_unless_samples_depend_on_each_other():
    "Two samples, one done at once: f is then asked about one; with a BatchNorm in training mode about both to the end."
    class Slow(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm, self.seen = norm, []
        def forward(self, z, x):
            self.seen.append(len(z))
            return self.norm(.9*torch.tanh(z) + x) if isinstance(self.norm, nn.BatchNorm1d) else .9*torch.tanh(z) + self.norm(x)
    x = torch.tensor([[0., 0.], [1., -1.]])
    for norm, alone in ((nn.Dropout(0.), True), (nn.BatchNorm1d(2), False), (nn.BatchNorm1d(2).eval(), True)):
        layer = DEQ(Slow(norm), solver=Picard(), tol=1e-6, max_iter=200, on_failure='ignore')
        if not norm.training: layer.eval()
        with torch.no_grad(): layer(x)
        assert (1 in layer.f.seen) == alone, (norm, layer.f.seen)

def test_what_a_deq_takes_and_shows():
    with pytest.raises(TypeError, match='eval_max_iter must be an integer; got 2.5'): DEQ(nn.Identity(), eval_max_iter=2.5)
    assert DEQ(nn.Identity(), eval_tol=0.).eval_how.tol == 0
    assert 'trajectory=(1, 3)' in repr(DEQ(nn.Identity(), trajectory=(1, 3))) and 'trajectory' not in repr(DEQ(nn.Identity()))
