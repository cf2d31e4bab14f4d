"FSDP2: parameters cut into pieces over two processes (gloo, CPU), half of the batch each; the gradients and a step of Adam are those of one process."
import os, subprocess, sys
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parents[1]
OLD = tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6)    # before, fully_shard moved everything to a GPU

SCRIPT = '''
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from deq_irnn import *
torch.set_num_threads(1)
dist.init_process_group('gloo')
rank, world = dist.get_rank(), dist.get_world_size()

class Cell(nn.Module):
    def __init__(self): super().__init__(); self.linear = make_contractive(nn.Linear(6, 6), .8)
    def forward(self, z, x): return torch.tanh(self.linear(z) + x)

class Reader(nn.Module):
    "A layer and a head; time first."
    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.layer = layer()
        with torch.no_grad(): size = self.layer(torch.zeros(2, 1, 6))
        self.head = nn.Linear((size[0] if isinstance(size, tuple) else size).shape[-1], 2)
    def forward(self, x):
        out = self.layer(x)
        return self.head((out[0] if isinstance(out, tuple) else out)[-1])

tight = dict(tol=1e-6, max_iter=200)
LAYERS = {
    'IRNN': lambda: IRNN(6, 5, 2, bidirectional=True, learn_h0=True), 'IRNN, one layer': lambda: IRNN(6, 5, alpha=.9),
    'RootIRNN': lambda: RootIRNN(6, 4, 2, **tight), 'RootIRNN monotone': lambda: RootIRNN(6, 4, recurrence='monotone', **tight),
    'IsometricRNN': lambda: IsometricRNN(6, 8, transition='orthogonal', learn_h0=True),
    'EquilibriumRNN': lambda: EquilibriumRNN(TanhCell(6, 5), **tight), 'DEQ': lambda: DEQ(Cell(), **tight),
}
torch.manual_seed(1)
x = torch.randn(7, 8, 6)
mine = x[:, rank::world]
for name, layer in LAYERS.items():
    alone, sharded = Reader(layer), Reader(layer)
    fully_shard(sharded.layer); fully_shard(sharded)
    assert all(isinstance(p, DTensor) and p.dim() > 0 for p in sharded.parameters()), name
    for net, some in ((alone, x), (sharded, mine)):
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(2):
            adam.zero_grad()
            net(some).square().mean().backward()
            adam.step()
    theirs = dict(sharded.named_parameters())
    for key, p in alone.named_parameters():
        if p.grad is None: assert theirs[key].grad is None, (name, key); continue
        torch.testing.assert_close(theirs[key].grad.full_tensor(), p.grad, atol=1e-5, rtol=1e-3, msg=lambda m: f'{name} {key}: {m}')
        torch.testing.assert_close(theirs[key].full_tensor(), p, atol=1e-4, rtol=1e-3, msg=lambda m: f'{name} {key}: {m}')
    if rank == 0: print(name, 'alpha' if any('alpha' in k for k in theirs) else '', 'as alone', flush=True)
dist.barrier(); dist.destroy_process_group()
'''

@pytest.mark.skipif(OLD, reason='fully_shard on the CPU needs torch 2.6')
def test_sharded_is_as_alone(tmp_path):
    (tmp_path/'sharded.py').write_text(SCRIPT)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', str(tmp_path/'sharded.py')]
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=600)
    assert done.stdout.count('as alone') == 7 and 'IRNN alpha' in done.stdout, done.stdout + done.stderr[-3000:]
