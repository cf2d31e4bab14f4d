"The DEQ layer as people use it: mixed precision, compiled, copied, with a memory of its samples, dropout, states on the way."
import copy, pickle, subprocess, sys
import pytest, torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from deq_irnn import DEQ, Picard, VariationalDropout, WeightDropout, fixed_point

class Cell(nn.Module):
    def __init__(self, D=6, dropout=None):
        super().__init__()
        self.linear, self.dropout = nn.Linear(D, D), dropout or nn.Identity()
        with torch.no_grad(): self.linear.weight.mul_(.7)
    def forward(self, z, x): return torch.tanh(self.dropout(self.linear(z)) + x)

class Two(nn.Module):
    "A nested state and a second injection."
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 3)
    def forward(self, z, x, scale): return {'a': torch.tanh(.5*self.b(z['b']) + x), 'b': (torch.sin(.5*self.a(z['a']))*scale)}

def nested(**options): return DEQ(Two(), init=lambda x: {'a': torch.zeros_like(x), 'b': x.new_zeros(len(x), 2)}, **options)

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
    del layer.states[:]                                                  # states with a graph can't be copied, as any such tensor
    torch.save(layer, tmp_path/'a.pt')
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(tmp_path/'a.pt', weights_only=False)): assert torch.equal(twin(x), layer(x))
    assert set(layer.state_dict()) == {'f.linear.weight', 'f.linear.bias'}

def test_evaluation_mode():
    layer, x = DEQ(Cell(), tol=1e-3, max_iter=9, eval_tol=1e-6, eval_max_iter=70), torch.randn(4, 6)
    layer(x); loose = layer.solution.n_eval
    z = layer.eval()(x)
    assert layer.solution.n_eval > loose and layer.solution.residual.max() <= 1e-6
    assert torch.autograd.grad(z.sum(), layer.f.linear.weight)[0].norm() > 0
    assert 'eval_tol=1e-06, eval_max_iter=70' in repr(layer) and 'eval' not in repr(DEQ(Cell()))

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
    layer(x, key=range(4, 8)); assert torch.equal(layer.solution.iterations, cold)           # others: from zero; and these push the first ones out
    layer(x, key=range(4)); assert torch.equal(layer.solution.iterations, cold)
    layer(x.double().float(), key=range(4)); assert layer.solution.n_eval <= 2
    layer.double()(x.double(), key=range(4)); assert layer.solution.n_eval > 2               # another dtype
    layer.float().f.linear = nn.Linear(3, 3); layer(x[:, :3], key=range(4)); assert layer.solution.iterations.min() > 2     # another shape

def test_a_broken_sample_is_not_remembered():
    layer, x = DEQ(Cell(), remember=4, on_failure='ignore'), torch.randn(2, 6)
    layer.init = lambda x: torch.full_like(x, torch.nan)
    layer(x, key=range(2))
    assert not layer._known

# states on the way
def test_trajectory():
    layer, x = DEQ(Cell(), solver=Picard(), tol=1e-9, max_iter=99, trajectory=(1, 3, 500)).double(), torch.randn(4, 6, dtype=torch.float64)
    end, z, chain = layer(x), torch.zeros(4, 6, dtype=torch.float64), []
    for _ in range(4): z = layer.f(z, x); chain.append(z)
    assert torch.allclose(layer.states[0], chain[0]) and torch.allclose(layer.states[1], chain[2]) and torch.allclose(layer.states[2], end, atol=1e-8)
    want, = torch.autograd.grad(layer.f(chain[1].detach(), x).sum(), layer.f.linear.weight)
    assert torch.allclose(torch.autograd.grad(layer.states[1].sum(), layer.f.linear.weight)[0], want)

# dropout
@pytest.mark.parametrize('kind', ('features', 'weights'))
def test_dropout_stands_still_in_a_solve(kind):
    layer = DEQ(Cell(dropout=VariationalDropout(.3) if kind == 'features' else None), tol=1e-12, max_iter=300).double()
    if kind == 'weights': register_parametrization(layer.f.linear, 'weight', WeightDropout(.3))
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    a = layer(x)
    assert layer.solution.converged.all() and torch.allclose(layer.f(a, x), a, atol=1e-10)                    # the same mask outside
    mask = next(m for m in layer.modules() if hasattr(m, 'mask')).mask
    def kept(x): return fixed_point(lambda z: layer.f(z, x), torch.zeros_like(x), tol=1e-13, max_iter=500)    # the layer without drawing anew
    assert torch.autograd.gradcheck(kept, x) and torch.autograd.gradgradcheck(kept, x)
    want, = torch.autograd.grad(kept(x).square().sum(), x)
    assert torch.allclose(torch.autograd.grad(a.square().sum(), x)[0], want, atol=1e-8)                       # the backward pass saw that mask
    layer(x); assert not torch.equal(next(m for m in layer.modules() if hasattr(m, 'mask')).mask, mask)       # the next call draws another
    assert torch.equal(layer.eval()(x), layer(x))

def test_dropout_shared_over_time():
    drop = VariationalDropout(.5, shared=(1,))
    y = drop(torch.ones(4, 7, 5))
    assert torch.equal(y, y[:, :1].expand_as(y)) and set(y.unique().tolist()) <= {0., 2.}

def test_checkpoint_draws_the_same_mask_again():
    layer, x = DEQ(Cell(dropout=VariationalDropout(.3)), tol=1e-6), torch.randn(4, 6)
    torch.manual_seed(3); want = torch.autograd.grad(layer(x).sum(), layer.f.linear.weight)[0]
    torch.manual_seed(3); y = torch.utils.checkpoint.checkpoint(layer, x.clone().requires_grad_(), use_reentrant=False)
    assert torch.allclose(torch.autograd.grad(y.sum(), layer.f.linear.weight)[0], want, atol=1e-5)

@pytest.mark.parametrize('call, message', (
    (lambda: DEQ(Cell(), remember=-1), 'remember'), (lambda: DEQ(Cell(), trajectory=(0,)), 'trajectory'), (lambda: DEQ(Cell(), eval_tol=-1), 'tol'),
    (lambda: DEQ(Cell())(torch.zeros(2, 6), key=[0, 1]), 'remember'), (lambda: DEQ(Cell(), remember=2)(torch.zeros(2, 6), key=[0]), 'one integer for each of the 2 samples'),
    (lambda: VariationalDropout(1.), 'p must be in'), (lambda: WeightDropout(-.1), 'p must be in')))
def test_wrong_arguments_name_themselves(call, message):
    with pytest.raises(ValueError, match=message): call()
