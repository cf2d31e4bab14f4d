"Weights in a safetensors file: written, read into a network on the meta device, and the same answers."
import tempfile
from pathlib import Path
import torch
from safetensors.torch import load_model, save_model
from plain_loop import Reader, batch


def main():
    torch.manual_seed(0)
    net, (x, _) = Reader().eval(), batch()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'reader.safetensors')
        save_model(net, str(file))
        with torch.device('meta'): other = Reader()
        other = other.to_empty(device='cpu').eval()
        load_model(other, str(file))
        print(f'{file.stat().st_size} bytes, largest difference {(net(x) - other(x)).abs().max().item():.0e}')
        return (net(x) - other(x)).abs().max().item()


if __name__ == '__main__': main()
