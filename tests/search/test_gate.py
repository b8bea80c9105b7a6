"""The gate: what may be trained."""

import contextlib
import os
import re
import runpy

import pytest
from checkout import TEMPLATE

from harness.run.profiles import PROFILES
from harness.search.bank.order import ON_CARDS
from harness.search.constants import rewrite_constants
from harness.search.gate import check_candidate, source_hash
from harness.search.gate_policy import ALLOWED_WORDS
from harness.search.patch import PatchError

SOURCE = '''"""A train.py."""
import math
from harness.training.session import open_session
# === constants ===
DEPTH = 8  # layers, 1..32 int: blocks
# === end of constants ===

def build_model(vocab_size, max_seq_len):
    """Make it."""
    return math.pi

if __name__ == "__main__":
    session = open_session(__file__)
    session.start()
    session.finish(build_model(session.vocab_size, session.max_seq_len), depth=DEPTH)
'''


def test_the_template_passes():
    assert check_candidate(TEMPLATE) == []
    assert check_candidate(SOURCE) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def build_model", "def build_modle", "must define build_model"),
        ("def build_model", "def build_model(a, b): pass\ndef build_model", "once"),
        ("(vocab_size, max_seq_len)", "(vocab_size)", "must take"),
        ("return math.pi", "return math.pi(", "not valid Python at line"),
        ("8  # layers, 1..32 int: blocks", "8", "constants block"),
        ('if __name__ == "__main__":', "if True:", "__main__"),
        ("    session.start()\n", "", r"must call session\.start"),
        ("    session.finish(", "    print(", r"must call session\.finish"),
        ("import math", "import math, os", "imports os"),
        ("import math", "import math\nfrom subprocess import run", "imports subprocess"),
        ("import math", "import math\nfrom . import data", r"imports \."),
        ("import math", "import math\nfrom harness import scoring", "imports harness.scoring"),
        ("import math", "from harness.scoring.scorer import x", "imports harness.scoring.scorer"),
        ("import math", "from harness.training_set import x", "imports harness.training_set"),
        ("    return math.pi", "    import socket\n    return math.pi", "imports socket"),
        ("def build_model", "DEPTH = 9\ndef build_model", "sets DEPTH again"),
        ("def build_model", "DEPTH += 1\ndef build_model", "sets DEPTH again"),
        ("    return math.pi", "    global DEPTH\n    DEPTH = 2", "sets DEPTH again"),
    ],
)
def test_reasons(old, new, words):
    assert SOURCE.count(old) >= 1
    reasons = check_candidate(SOURCE.replace(old, new, 1))
    assert len(reasons) == 1
    assert re.search(words, reasons[0]), reasons


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("# layers, 1..32 int: blocks", "# layers, 1..16 int: other words"),
        SOURCE.replace('    """Make it."""\n', ""),
        SOURCE.replace('"""A train.py."""', '"""Another."""\n\n\n'),
        SOURCE.replace("(vocab_size, max_seq_len):", "(\n    vocab_size,\n    max_seq_len,\n):"),
    ],
)
def test_layout_is_no_new_idea(other):
    assert source_hash(other) == source_hash(SOURCE)
    assert "tried before" in check_candidate(other, {source_hash(SOURCE)})[0]


@pytest.mark.parametrize(
    "other", [SOURCE.replace("= 8", "= 9"), SOURCE.replace("math.pi", "math.e")]
)
def test_a_changed_number_or_name_is_new(other):
    assert check_candidate(other, {source_hash(SOURCE)}) == []


def test_a_local_of_the_same_name_is_allowed():
    local = SOURCE.replace("    return math.pi", "    DEPTH = 2\n    return DEPTH")
    assert check_candidate(local) == []


def reasons_for(body: str) -> list[str]:
    """What the gate says of SOURCE with these lines at its top level, before build_model."""
    return check_candidate(
        SOURCE.replace("def build_model", f"{HEADER}{body}\n\ndef build_model", 1)
    )


HEADER = """import contextlib, copy, functools, operator, random
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from harness.training import attention

"""
REFUSED = {
    # files, processes, network, system
    "open('x').read()": "uses open",
    "with open('x', 'w') as file:\n    file.write('y')": "uses open",
    "from builtins import open as reader": "imports builtins",
    "exec('x = 1')": "uses exec",
    "evaluate = eval": "uses eval",
    "code = compile('1', 'x', 'eval')": "uses compile",
    "os = __import__('os')": "uses __import__",
    "globals()['x'] = 1": "uses globals",
    "vars(nn)": "uses vars",
    "input()": "uses input",
    "breakpoint()": "uses breakpoint",
    "__builtins__['open']": "uses __builtins__",
    "def f(x=open):\n    return x": "uses open",
    "class A:\n    read = open": "uses open",
    "def f(open=open):\n    return open('x')": "uses open",
    "def f(*, exec=exec):\n    exec('1')": "uses exec",
    "f = lambda open=open: open('x')": "uses open",
    "FILES = [open(name) for open in [open] for name in 'ab']": "uses open",
    "def f(open: open('x')):\n    pass": "uses open",
    "@exec\ndef f(exec):\n    return exec": "uses exec",
    "def f(torch=torch):\n    torch.save({}, 'x')": "passes the module torch on",
    "import enum\nenum.bltns.open('x')": r"uses enum\.bltns",
    "contextlib.chdir('/')": r"uses contextlib\.chdir",
    "np.zeros(3).dump('x')": r"uses \.dump",
    "torch.cuda.tunable.write_file('x')": r"uses torch\.cuda\.tunable",
    "torch.save({}, 'x')": r"uses torch\.save",
    "state = torch.load('x')": r"uses torch\.load",
    "from torch import load as read": r"uses torch\.load",
    "torch.hub.load('a', 'b')": r"uses torch\.hub",
    "import torch.hub": r"imports torch\.hub",
    "torch.from_file('x', size=3)": r"uses torch\.from_file",
    "torch.UntypedStorage.from_file('x')": "uses torch.UntypedStorage",
    "x = torch.zeros(3).untyped_storage()": "uses .untyped_storage",
    "torch.ops.load_library('x.so')": "load_library",
    "from torch.utils.cpp_extension import load_inline": "imports torch.utils.cpp_extension",
    "torch.multiprocessing.spawn(print)": "uses torch.multiprocessing",
    "import torch.distributed as dist": "imports torch.distributed",
    "torch.utils.data.DataLoader([])": "DataLoader",
    "torch.jit.save(None, 'x')": r"uses torch\.jit\.save",
    "np.load('x.npy')": r"uses numpy\.load",
    "np.savez('x', a=1)": r"uses numpy\.savez",
    "np.memmap('x')": r"uses numpy\.memmap",
    "np.fromfile('x')": r"uses numpy\.fromfile",
    "np.loadtxt('x')": r"uses numpy\.loadtxt",
    "np.lib.npyio.DataSource('x')": "uses numpy.lib.npyio",
    "np.zeros(3).tofile('x')": r"uses \.tofile",
    "from safetensors.torch import save_file": "imports safetensors",
    "import tiktoken": "imports tiktoken",
    "contextlib.os.listdir('.')": r"uses contextlib\.os",
    "from contextlib import sys": r"uses contextlib\.sys",
    "torch.serialization.os.getpid()": "uses torch.serialization",
    "random._os.getpid()": r"uses random\._os",
    "torch._C._cuda_init()": r"uses torch\._C",
    "x = torch\nx.save({}, 'y')": "passes the module torch on",
    "tools = [nn, F]": "passes the module nn on",
    "G = torch.hub\nG.load('a', 'b')": "uses torch.hub",
    # reaching what is hidden
    "F.relu.__globals__": "uses torch.nn.functional.relu.__globals__",
    "(lambda: 0).__globals__": "uses __globals__",
    "object.__subclasses__()": "uses __subclasses__",
    "nn.Linear(1, 1).__dict__.clear()": "uses __dict__",
    "x = nn.Linear(1, 1)\nx.__class__ = nn.Identity": "uses __class__",
    "getattr(nn.Linear(1, 1), '__dict__')": "__dict__",
    "getattr(torch, 'lo' + 'ad')": "calls getattr on torch",
    "setattr(F, 'cross_entropy', None)": "calls setattr on F",
    "setattr(torch.nn.functional, 'cross_entropy', None)": "calls setattr on torch.nn.functional",
    "list(map(getattr, [], []))": "passes getattr on",
    "operator.attrgetter('a')": "uses operator.attrgetter",
    "def f():\n    yield\nf().gi_frame.f_back": r"uses \.f_back",
    # functions and settings of others
    "F.cross_entropy = None": r"sets F\.cross_entropy",
    "G = torch.nn.functional\nG.cross_entropy = None": r"sets G\.cross_entropy",
    "def f():\n    G: object = torch.nn.functional\n    G.cross_entropy = None": (
        r"sets G\.cross_entropy"
    ),
    "nn.Module.eval = None": r"sets nn\.Module\.eval",
    "del torch.isfinite": r"sets torch\.isfinite",
    "torch.backends.cudnn.benchmark = True": r"sets torch\.backends\.cudnn\.benchmark",
    "attention.attend = None": r"sets attention\.attend",
    "attention.use(None, None)": r"uses harness\.training\.attention\.use",
    "from harness.training.attention import use": r"imports harness\.training\.attention\.use",
    "import harness.training.launch": r"imports harness\.training\.launch",
    "from torch import *": r"imports \* from torch",
    "torch.overrides.TorchFunctionMode": "uses torch.overrides",
    "class A(torch.Tensor):\n    def __torch_function__(self):\n        pass": (
        "defines __torch_function__"
    ),
    "class A:\n    def __reduce__(self):\n        return print, ()": "defines __reduce__",
    "nn.modules.module.register_module_forward_hook(print)": "register_module_forward_hook",
    "torch.set_num_threads(8)": r"uses torch\.set_num_threads",
    "torch.set_num_threads(1)": r"uses torch\.set_num_threads",
    "torch.set_num_interop_threads(1)": r"uses torch\.set_num_interop_threads",
    "from torch import set_num_threads as calm": r"uses torch\.set_num_threads",
    # other threads and processes, which do work that a clock of the main thread would not see
    "import os\nos.fork()": "imports os",
    "from os import fork": "imports os",
    "import subprocess": "imports subprocess",
    "import multiprocessing": "imports multiprocessing",
    "import threading": "imports threading",
    "import _thread": "imports _thread",
    "from concurrent.futures import ThreadPoolExecutor": r"imports concurrent\.futures",
    "import asyncio": "imports asyncio",
    "import signal": "imports signal",
    "from time import sleep": "imports time",
    "torch.futures.Future()": r"uses torch\.futures",
    "torch.jit.fork(print)": r"uses torch\.jit\.fork",
    "nn.parallel.parallel_apply([], [])": r"uses torch\.nn\.parallel",
    # the session
    "def f(session):\n    session.budget_seconds = 9": r"sets session\.budget_seconds",
    "def f(session):\n    session.request['seed'] = 1": r"uses session\.request",
    "def f(session):\n    session._started = 0": r"sets session\._started",
    "def f(session):\n    session._send('finish')": r"uses session\._send",
    "def f(session):\n    return session.request": r"uses session\.request",
    "s = open_session(__file__)\ns._send('finish')": r"uses session\._send",
    "def f(session):\n    other = session\n    other._started = 0": r"sets other\._started",
    "class A:\n    def f(self):\n        self.session._started = 0": (
        r"sets self\.session\._started"
    ),
    "def f(session):\n    return getattr(session, '_started')": "calls getattr on session",
    # names in other clothes
    "def f(x):\n    return '{0.__globals__}'.format(x)": "uses __globals__",
    "def f(x):\n    return '{x.f_back.f_globals}'.format(x=x)": r"uses \.f_",
    "def f(x):\n    return x['__glo' + 'bals__']": "names __globals__",
    "def f(x):\n    return x[f\"__{'globals'}__\"]": "names __globals__",
    "def f(x):\n    return x[''.join(['__glo', 'bals__'])]": "names __globals__",
    "def f(x, name):\n    return getattr(x, name)": "a name that is not written out",
    "def f(x):\n    match x:\n        case object(f_globals=found):\n            return found": (
        r"uses \.f_globals"
    ),
    "def f(x):\n    match x:\n        case object(__dict__=found):\n            return found": (
        "uses __dict__"
    ),
    "class A:\n    __match_args__ = ('f_globals',)": "sets __match_args__",
    "def f(x):\n    return '{:{0.__globals__}}'.format(x)": "uses __globals__",
    "def f(x):\n    return '{0:{1.f_back}}'.format(1, x)": r"uses \.f_back",
    "def f(x, name):\n    return ('{0.' + name + '}').format(x)": "calls format on text",
    "def f(x, name):\n    return f'{{0.{name}}}'.format(x)": "calls format on text",
    "def f(x, name):\n    return ('{0.%s}' % name).format_map(x)": "calls format on text",
    "def f(x, name):\n    return str.format('{0.' + name + '}', x)": "calls format on text",
    "def f(x):\n    return x['--globals--'.replace('-', '_')]": "names __globals__",
    "def f(x):\n    return x[' __globals__ '.strip()]": "names __globals__",
    "def f(x):\n    return x['__GLO'.lower() + 'bals__']": "names __globals__",
    "def f(x):\n    return x[b'__globals__'.decode()]": "names __globals__",
    "def f(x, name):\n    return getattr(*[x, name])": "a name that is not written out",
    "def f(x):\n    setattr(*[x, '_started', 1])": "a name that is not written out",
    "def f(x):\n    return x.f_builtins": r"uses \.f_builtins",
    "def f(x):\n    return x.cell_contents": r"uses \.cell_contents",
    "def g():\n    yield\ng().gi_code": r"uses \.gi_code",
    # a builtin that only seems to be hidden
    "open('x')\ndef open(x):\n    pass": "uses open",
    "def open(x=open('x')):\n    pass": "uses open",
    "class open:\n    x = open('x')": "uses open",
    "@exec\ndef exec(x):\n    pass": "uses exec",
    "class open:\n    pass\ndel open\nopen('x')": "uses open",
    "X = [open('x') for _ in [0] if False and (open := 1)]": "uses open",
    "license._Printer__filenames": "uses license",
    "ｏｐｅｎ('x')": "uses open",
    "torch.ｌｏａｄ('x')": r"uses torch\.load",
    # what others call, or evaluate
    "class A:\n    __del__ = print": "sets __del__",
    "class A:\n    __torch_function__: object = print": "sets __torch_function__",
    "type('A', (), {'__reduce__': print})": "names __reduce__",
    "__name__ = '__main__'": "sets __name__",
    "import typing\ntyping.get_type_hints(object)": r"uses typing\.get_type_hints",
    "from typing import ForwardRef": r"uses typing\.ForwardRef",
    "@functools.singledispatch\ndef f(x):\n    pass": r"uses functools\.singledispatch",
    "@torch.jit.script\ndef f(x):\n    # type: (open) -> Tensor\n    return x": (
        r"uses torch\.jit\.script"
    ),
    # files by other ways
    "torch.jit.trace(nn.ReLU(), torch.zeros(1)).save('x')": r"uses torch\.jit\.trace",
    "torch.fx.GraphModule(nn.ReLU(), None).to_folder('x')": r"uses torch\.fx",
    "def f(x):\n    x.to_folder('x')": r"uses \.to_folder",
    "torch.export.save(None, 'x')": r"uses torch\.export",
    "torch.PyTorchFileReader('x')": r"uses torch\.PyTorchFileReader",
    "torch.utils.file_baton.FileBaton('x')": r"uses torch\.utils\.file_baton",
    "from torch.utils import data": r"uses torch\.utils\.data",
    "np.zeros(1).ctypes": r"uses \.ctypes",
    "nn.DataParallel(nn.ReLU())": r"uses torch\.nn\.DataParallel",
    # seeds
    "torch.manual_seed(3)": r"uses torch\.manual_seed",
    "torch.cuda.manual_seed_all(3)": r"uses torch\.cuda\.manual_seed_all",
    "torch.random.fork_rng()": r"uses torch\.random\.fork_rng",
    "torch.Generator().manual_seed(3)": r"calls \.manual_seed",
    "torch.Generator().seed()": r"calls \.seed",
    "def f(session):\n    return torch.Generator().manual_seed(session.seed + 1)": (
        r"calls \.manual_seed"
    ),
    "np.random.seed(3)": r"uses numpy\.random\.seed",
    "np.random.default_rng(3)": r"calls numpy\.random\.default_rng",
    "np.random.default_rng()": r"calls numpy\.random\.default_rng",
    "np.random.randn(3)": r"uses numpy\.random\.randn",
    "random.seed(3)": r"uses random\.seed",
    "random.Random(3)": r"calls random\.Random",
    "random.random()": r"uses random\.random",
    # clocks
    "import time": "imports time",
    "from datetime import datetime": "imports datetime",
    "torch.cuda.Event(enable_timing=True)": r"uses torch\.cuda\.Event",
    "np.datetime64('now')": r"uses numpy\.datetime64",
    "torch.profiler.profile()": r"uses torch\.profiler",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_a_training_has_no_need_of_is_refused_with_line_and_remedy(body):
    reasons = reasons_for(body)
    assert reasons, "nothing was refused"
    assert any(re.search(REFUSED[body], reason) for reason in reasons), reasons
    assert all(re.fullmatch(r"line \d+ \S.*: .{15,}", reason) for reason in reasons), reasons
    assert len(reasons) <= 2


HONEST = [
    (
        "def f(x):\n"
        "    return 'loss {:.3f} of {x[0]}, {{not.a.field}}'.format(1.0, x=x) + 'a' + f'{x}__'"
    ),
    "def f(x):\n    return getattr(x, 'weight', None)",
    "def f(x):\n    match x:\n        case torch.Tensor(shape=(n, m)):\n            return n * m",
    (
        "class A(nn.Module):\n    def __init__(self, input):\n        super().__init__()\n"
        "        self.open = nn.Linear(input, 3)"
    ),
    "def forward(self, input):\n    return F.relu(input)",
    "def compile(model):\n    return model\n\nMODEL = compile(None)",
    "def f():\n    vars = [1.0, 2.0]\n    return [input for input in vars]",
    (
        "def f(input, open=None, *, vars=3):\n"
        "    return lambda x=input: [open(x) for open in input if vars]"
    ),
    "@functools.lru_cache(maxsize=None)\ndef f(dump=len):\n    return dump",
    "def f(model):\n    return getattr(model, '_orig_mod', model)",
    "def f(model):\n    setattr(model, 'scale', nn.Parameter(torch.ones(())))",
    (
        "class A(nn.Module):\n    def load(self, save):\n        self.time = self.save = save\n"
        "        return self.time"
    ),
    (
        "class A(nn.Module):\n    def name(self):\n"
        "        return self.__class__.__name__ + torch.__version__"
    ),
    "def f(session):\n    return torch.Generator(device=session.device).manual_seed(session.seed)",
    "def f(session):\n    return np.random.default_rng(session.seed), random.Random(session.seed)",
    "def f(rng: np.random.Generator):\n    return rng.random()",
    "from torch.nn.attention.flex_attention import flex_attention, create_block_mask",
    "from torch.nn.attention import SDPBackend, sdpa_kernel",
    "from torch.utils.checkpoint import checkpoint",
    "from torch.optim.lr_scheduler import LambdaLR",
    "from torch import Tensor, nn as layers\nLAYER = layers.Linear",
    (
        "from dataclasses import dataclass, field\n\n@dataclass\nclass A:\n"
        "    x: int = field(default=1)"
    ),
    (
        "def f(params, grads):\n    torch._foreach_mul_(params, 0.9)\n"
        "    return torch._foreach_norm(grads)"
    ),
    "def f(model):\n    return copy.deepcopy(model), functools.partial(F.gelu, approximate='tanh')",
    (
        "def f(model, session):\n    model.loss = session.compile(model.loss)\n"
        "    return torch.compile(model)"
    ),
    "def f(q, k, v):\n    return attention.attend(q, k, v, 8)",
    (
        "def f(block):\n    attention, other = block.attention, block.other\n"
        "    attention.gate.weight.zero_()\n    attention.x = 1"
    ),
    (
        "def f(session):\n    with session.autocast(), contextlib.nullcontext():\n"
        "        return session.progress, session.budget_seconds"
    ),
    "def f(x):\n    return torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False)",
    (
        "def f():\n    torch.cuda.synchronize()\n"
        "    return torch.get_default_dtype(), torch.is_grad_enabled()"
    ),
    "def f(x):\n    return torch.random_like(x) if x is None else x.seed",
    (
        "class A(torch.optim.Optimizer):\n    def __setstate__(self, state):\n"
        "        super().__setstate__(state)"
    ),
    "def f(weight):\n    return nn.init._calculate_fan_in_and_fan_out(weight)",
    "OPTIMIZER = torch.optim.AdamW\n\ndef f(params):\n    return OPTIMIZER(params)",
    (
        "def f(x, n):\n    '{0:>{1}} {:,} {x[0]:{w}.{p}f}'.format(n, 5, x=x, w=8, p=3)\n"
        "    words = 'step {} loss {:.3f}'\n"
        "    return words.format(n, x), f'{x:>{n}.2f}|{x!r}|{n=}'"
    ),
    "def f(n):\n    match n:\n        case 0 | 1 | int():\n            return n",
    (
        "class A(nn.Module):\n    __constants__ = ['eps']\n    __hash__ = None\n"
        "    def __repr__(self):\n        return getattr(self, 'name')"
    ),
    "def f(model):\n    for n in range(3):\n        setattr(model, f'layer{n}', nn.ReLU())",
    (
        "def f(model):\n    model.register_forward_hook(print).remove()\n"
        "    model.weight.register_post_accumulate_grad_hook(print)"
    ),
    (
        "def f(n):\n    if (k := n * 2) > 3:\n        return k\n"
        "    return [y for x in range(n) if (y := x * x) > 3]"
    ),
    "from torch.utils.checkpoint import checkpoint_sequential",
    "def compile(model):\n    return model\n\ndef f():\n    return compile(None)",
    "TEXT = 'b t h d, b s h d -> b h t s'.replace(' ', '') + ' x '.strip()",
    (
        "class A(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n"
        "        ctx.save_for_backward(x)\n        return x\n\n    @staticmethod\n"
        "    def backward(ctx, grad):\n        return grad * ctx.saved_tensors[0]"
    ),
]


@pytest.mark.parametrize("body", HONEST)
def test_what_an_idea_may_need_passes(body):
    assert reasons_for(body) == []


def test_reasons_come_in_the_order_of_lines_and_once_each():
    code = "import os, time\nprint(os.getpid(), os.getpid())\nx = open('a'), open('b')"
    reasons = reasons_for(code)
    lines = [int(reason.split()[1]) for reason in reasons]
    assert lines == sorted(lines) and len(reasons) == len(set(reasons)) == 3


def test_nothing_of_a_candidate_is_run_by_looking(tmp_path):
    trace = tmp_path / "trace"
    check_candidate(f"open({str(trace)!r}, 'w')\n{SOURCE}")
    assert not trace.exists()


@pytest.mark.parametrize(
    "profile",
    ["demo", *(pytest.param(name, marks=pytest.mark.slow) for name in PROFILES if name != "demo")],
)
def test_the_template_and_every_idea_pass_under_every_profile(profile):
    source = rewrite_constants(TEMPLATE, PROFILES[profile].constants, clamp=False)
    assert check_candidate(source) == []
    passed = 0
    for idea in ON_CARDS:
        with contextlib.suppress(PatchError):  # what does not apply says so in test_bank
            candidate = idea.apply(source)
            assert check_candidate(candidate, {source_hash(source)}) == [], idea.id
            passed += 1
    assert passed > 5


UNREADABLE = {
    "nested parentheses": "x = " + "(" * 3000 + "1" + ")" * 3000,
    "a parser out of memory": "x = " + "-" * 20_000 + "1",
    "a parser too deep": "x = " + "+".join("1" * 20_000),
    "a tree too deep to walk": "x = " + "not " * 900 + "1",
    "a null byte": "x = 1\0",
    "half a surrogate pair": "x = '\ud800'",
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_that_breaks_its_reader_gets_a_reason_and_a_hash(what):
    (reason,) = check_candidate(SOURCE + UNREADABLE[what])
    assert re.match("train.py (is not valid Python.*: .{10}|nests something too deeply)", reason)
    assert source_hash(UNREADABLE[what]) not in (source_hash(""), source_hash(SOURCE))


HIDDEN = "# nothing to see +AAo-import os+ADs- print(os.getpid())\n"


OTHERS = (
    "# coding: utf-7\n",
    "#!/usr/bin/python\n# -*- coding: utf_7 -*-\n",
    "# coding: no_such\n",
)


@pytest.mark.parametrize("first", OTHERS)
def test_a_file_that_python_reads_in_another_encoding_is_refused(first):
    (reason,) = check_candidate(first + HIDDEN + SOURCE)
    assert "declares an encoding" in reason


def test_what_the_encoding_hides_is_run_by_python(tmp_path, capfd):
    """Else the refusal above would guard against nothing."""
    (tmp_path / "train.py").write_text("# coding: utf-7\n" + HIDDEN)
    runpy.run_path(str(tmp_path / "train.py"))
    assert capfd.readouterr().out.strip() == str(os.getpid())


def test_utf_8_may_be_declared():
    assert check_candidate("# -*- coding: utf-8 -*-\n" + SOURCE) == []
    words = "# one line\n\n# coding: utf-7 is plain words from the third line on\n"
    assert check_candidate(words + SOURCE) == []


def test_reasons_are_few_and_short_whatever_the_file():
    many = reasons_for("open\n" * 10_000)
    assert len(many) == 21 and many[-1].startswith("and 9,980 more")
    (long,) = reasons_for("import " + "a" * 100_000)
    assert len(long) < 600 and long.endswith(ALLOWED_WORDS)


def test_a_file_too_long_for_an_idea_is_refused_before_it_is_parsed():
    literal = "TABLE = [" + "0.123456, " * 30_000 + "]\n"
    assert re.search(r"bytes, 200,000 are allowed", check_candidate(SOURCE + literal)[0])
    assert check_candidate(SOURCE + "# " + "long words " * 10_000) == []
