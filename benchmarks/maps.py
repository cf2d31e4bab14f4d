"""The maps f(z, x) on which benchmarks/solvers.py runs solvers, and what they are like at their equilibrium.

    python benchmarks/maps.py           spectral radius and plain iteration's fate; writes results/maps.json

A map is a module f and an injection x; the state has the shape of x. `MAPS` has them by name, seeded.
"""
import warnings
from typing import Callable

import torch
import torch.nn.functional as F
from torch import nn
from common import Options, machine, table, write
from deq_irnn.data import sklearn_digits
from deq_irnn.implicit import fixed_point
from deq_irnn.solvers import Anderson, Picard, solve
from deq_irnn.wellposed import spectral_radius

Map = tuple[nn.Module, torch.Tensor]        # f, x


def orthogonal(n: int) -> torch.Tensor:
    "A random orthogonal matrix (n, n)."
    return torch.linalg.qr(torch.randn(n, n))[0]


def symmetric(n: int, rho: float = .9) -> torch.Tensor:
    "A symmetric matrix, its eigenvalues uniform in [−ρ, ρ], the largest ρ itself."
    Q, values = orthogonal(n), rho*(2*torch.rand(n) - 1)
    values[0] = rho
    return Q @ torch.diag(values) @ Q.T


def gaussian(n: int, norm: float = .9) -> torch.Tensor:
    "A Gaussian matrix of this norm: eigenvalues in a disc of half the radius."
    W = torch.randn(n, n)
    return norm*W/torch.linalg.matrix_norm(W, 2)


def nonnormal(n: int, rho: float = .8, above: float = .1) -> torch.Tensor:
    "Eigenvalues uniform in [−ρ, ρ], eigenvectors far from orthogonal: the norm is above 1, errors grow before they fall."
    T = torch.diag(rho*(2*torch.rand(n) - 1)) + above*torch.randn(n, n).triu(1)
    Q = orthogonal(n)
    return Q @ T @ Q.T


class Tanh(nn.Module):
    "f(z) = tanh(W z + x + b)."
    def __init__(self, W: torch.Tensor, scale: float):
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(scale*torch.randn(1, len(W)))

    def forward(self, z, x): return torch.tanh(torch.addmm(x + self.b, z, self.W.T))


class Block(nn.Module):
    "A post-norm transformer block with the input injected, weights `gain` times their usual start."
    def __init__(self, d: int = 128, heads: int = 4, gain: float = 2.):
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3*d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2*d), nn.Linear(2*d, d)
        self.norms, self.heads = nn.ModuleList(nn.LayerNorm(d) for _ in range(2)), heads
        for layer in (self.qkv, self.out, self.up, self.down): layer.weight.data.mul_(gain)

    def forward(self, z, x):
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        z = self.norms[0](x + z + self.out(read))
        return self.norms[1](x + z + self.down(torch.relu(self.up(z))))


class Conv(nn.Module):
    "f(z) = tanh(norm(3×3 convolution of z) + x), the norm's gain as given."
    def __init__(self, c: int = 32, gain: float = .6):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(4, c)
        self.norm.weight.data.mul_(gain)

    def forward(self, z, x): return torch.tanh(self.norm(self.conv(z)) + x)


class Graph(nn.Module):
    "An implicit graph network: f(z) = tanh(A z W + x), A the normalised adjacency of a random graph, ‖W‖ = 0.95."
    def __init__(self, nodes: int = 200, d: int = 32, degree: int = 6):
        super().__init__()
        links = torch.rand(nodes, nodes).triu(1) < degree/nodes
        links = (links | links.T).float() + torch.eye(nodes)
        scale = links.sum(1).rsqrt()
        self.register_buffer('A', scale[:, None]*links*scale)
        Q = orthogonal(d)
        self.W = nn.Parameter(Q @ torch.diag(.95*torch.rand(d)) @ Q.T)

    def forward(self, z, x): return torch.tanh(self.A @ z @ self.W + x)


def tanh(B: int, W: torch.Tensor, scale: float) -> Map: return Tanh(W, scale), scale*torch.randn(B, len(W))


class Digits(nn.Module):
    "A classifier of the 8×8 digits whose hidden layer is an equilibrium of f, of rows (8 tokens) or of the whole image."
    def __init__(self, f: nn.Module, d: int, tokens: int):
        super().__init__()
        self.f, self.tokens = f, tokens
        self.embed, self.read = nn.Linear(64//tokens, d), nn.Linear(d, 10)

    def inject(self, images): return self.embed(images.unflatten(1, (self.tokens, -1)).squeeze(1))

    def forward(self, images):
        x = self.inject(images)
        how = dict(solver=Anderson(every=1, gain=0.), tol=1e-3, max_iter=50)     # by the book: the map must not change with our default
        z = fixed_point(self.f, torch.zeros_like(x), args=(x,), **how, on_failure='ignore')
        return self.read(z.flatten(1, -2).mean(1) if self.tokens > 1 else z)


def trained(f: nn.Module, d: int, tokens: int, epochs: int, B: int) -> Map:
    "The map of a classifier after `epochs` on the digits (0: as it starts), and B images that it has not seen."
    images, labels = sklearn_digits()
    images = images.float().flatten(1)
    images = images/images.max()
    model = Digits(f, d, tokens)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(1437).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
    with torch.no_grad(): x = model.inject(images[1437:1437 + B])
    return f.requires_grad_(), x.detach()


EPOCHS = 8

MAPS: dict[str, Callable[[], Map]] = {
    **{f'{name} {B}×{n}': lambda B=B, n=n, make=make, scale=scale: tanh(B, make(n), scale)
       for B, n in ((64, 256), (256, 512))
       for name, make, scale in (('gauss', gaussian, 1.), ('orth', lambda n: .9*orthogonal(n), .1), ('sym', symmetric, .1))},
    'near-critical 64×256': lambda: tanh(64, symmetric(256, .99), .01),
    'non-normal 64×256': lambda: tanh(64, nonnormal(256), .1),
    'attention 32×64×128': lambda: (Block(), torch.randn(32, 64, 128)),
    'convolution 16×32×16×16': lambda: (Conv(), torch.randn(16, 32, 16, 16)),
    'convolution ×2 16×32×16×16': lambda: (Conv(gain=1.2), torch.randn(16, 32, 16, 16)),
    'graph 8×200×32': lambda: (Graph(), .5*torch.randn(8, 200, 32)),
    **{f'digits tanh, {when}': lambda epochs=epochs: trained(Tanh(torch.randn(128, 128)/128**.5*.9, 0.), 128, 1, epochs, 64)
       for when, epochs in (('start', 0), ('trained', EPOCHS))},
    **{f'digits attention, {when}': lambda epochs=epochs: trained(Block(64, 4, 1.), 64, 8, epochs, 64)
       for when, epochs in (('start', 0), ('trained', EPOCHS))}}


def make(name: str) -> Map:
    "The map of this name, the same in every process."
    torch.manual_seed(0)
    return MAPS[name]()


def describe(name: str) -> dict:
    "Size, spectral radius at the equilibria (median and largest of the samples), plain iteration to 1e-4."
    f, x = make(name)
    f.requires_grad_(False)
    how = dict(args=(x,), max_iter=300, on_failure='ignore')
    z = solve(f, torch.zeros_like(x), Anderson(memory=20), tol=1e-5, **how).z
    radius = spectral_radius(lambda z: f(z, x), z)
    plain = solve(f, torch.zeros_like(x), Picard(), tol=1e-4, **how)
    return dict(map=name, shape=list(x.shape), radius=radius.median().item(), largest=radius.max().item(),
                plain=plain.iterations.float().mean().item(), failed=int((~plain.converged).sum()))


def main():
    args = Options(__doc__, 'maps').parse_args()
    torch.set_num_threads(args.threads[0])
    warnings.simplefilter('ignore')
    names = [n for n in MAPS if not args.quick or n.endswith('64×256')]
    rows = [describe(n) for n in names]
    table(('map', 'radius', 'largest', 'plain', 'failed'),
          [(r['map'], f"{r['radius']:.2f}", f"{r['largest']:.2f}", f"{r['plain']:.1f}", str(r['failed'])) for r in rows])
    write(args.out, dict(what='maps at their equilibria; plain: iterations to 1e-4, mean over the samples', **machine(), rows=rows))


if __name__ == '__main__': main()
