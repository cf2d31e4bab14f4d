"What all tests share: no window opens, one thread per process, and global settings are put back after each test."
import os
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('JUPYTER_PLATFORM_DIRS', '1')
import matplotlib, pytest, torch
if not torch.cuda.is_available(): os.environ.setdefault('TRITON_INTERPRET', '1')     # chapter 35's kernel on the CPU; read when triton is first imported

@pytest.fixture(autouse=True)
def settings():
    dtype, params, threads = torch.get_default_dtype(), matplotlib.rcParams.copy(), torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype); torch.set_num_threads(threads); matplotlib.rcParams.update(params)
    matplotlib.pyplot.close('all') if 'matplotlib.pyplot' in __import__('sys').modules else None

def pytest_configure(config): config.addinivalue_line('markers', 'cuda: needs a GPU; skipped where there is none')

def hearing():
    "For Popen(preexec_fn=): a child hears Ctrl-C also where the tests run in the background of a shell, which has its jobs ignore it."
    import signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)
