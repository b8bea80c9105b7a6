"""What a train.py may touch: mathematics, its own model, and the few doors that the session opens.

Tables; `gate_walk` reads a file by them. A policy, not a wall. It keeps honest proposers, and
models that try the obvious, away from files, processes, clocks, seeds, the harness, and functions
of others, so that no budget is spent on them. Whoever wants around it gets around it: names put
together from what is known only at run time, what an allowed function gives access to (a frame, a
closure, a hook), a module carried through a container, and everything that is done with tensors
alone: looking ahead, replaying, memorising. Those are for the wall, the audit and the hashes to
stop; tests/night/test_exploits.py runs them with the gate off.
"""


def _names(text: str) -> set[str]:
    """The names with blanks between them."""
    return set(text.split())


def _refused(instead: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), instead)


OUTSIDE = (
    "train.py touches no files, processes, network or system: batches come from session.batches, "
    "weights leave by session.finish"
)
PATCHING = (
    "functions and settings of others stay as they are: write a function or a subclass of your own"
)
CLOCK = "session.progress is the only clock"
SEED = "the session seeds torch and the seed is no idea: leave it alone"
WRITTEN_OUT = "write it out, so that it can be read"
SESSION_IS_OURS = "the session is the harness's: keep state in variables of your own"
UNSEEDED = (
    "it is not seeded by the session: use torch's random functions, or a generator made with "
    "session.seed"
)
PRIVATE = "what begins with _ is private: use what is public, or write it yourself"

ALLOWED_MODULES = _names(
    """
    torch torch.nn torch.nn.functional torch.optim torch.amp torch.autograd torch.linalg torch.fft
    torch.special torch.func torch.distributions torch.utils torch.utils.checkpoint torch.compiler
    torch.cuda torch.cuda.amp
    numpy numpy.linalg numpy.fft numpy.random
    __future__ math cmath random statistics itertools functools operator collections collections.abc
    dataclasses typing enum contextlib copy bisect heapq numbers fractions warnings
    """
)
ALLOWED_BELOW = ("torch.nn.", "torch.optim.", "torch.distributions.")  # and all modules below these
ALLOWED_WORDS = (
    "train.py may import torch (nn, optim and what computes), numpy, and the standard library's "
    "modules for mathematics and data structures; of the harness attend and open_session"
)
OPEN_SESSION = "harness.training.session.open_session"
HARNESS = {
    "harness.training.attention.attend",
    "harness.training.session.Session",
    OPEN_SESSION,
}
HARNESS_WORDS = f"of the harness train.py may use {', '.join(sorted(HARNESS))}"
SESSION = _names(
    """
    seed budget_seconds max_seq_len vocab_size device dtype
    autocast compile leave_eager device_batch_size batches start progress log finish
    """
)
SESSION_WORDS = f"a session offers {', '.join(sorted(SESSION))}"

BUILTINS = _refused(
    OUTSIDE, "open input breakpoint exit quit help license credits copyright"
) | _refused(
    WRITTEN_OUT,
    "exec eval compile __import__ globals locals vars __builtins__ __loader__ __spec__",
)
BY_NAME = {"getattr", "setattr", "delattr"}

# Parts of a dotted name that begins at an import: `torch.save`, `np.lib.npyio.os`.
PARTS = (
    _refused(
        OUTSIDE,
        """
        os sys io subprocess socket shutil pathlib tempfile glob pickle marshal importlib builtins
        inspect gc threading ctypes signal types platform bltns open copyreg chdir gzip bz2 lzma
        sqlite3 tunable mp fork parallel multiprocessing concurrent asyncio logging linecache
        traceback weakref pkgutil zipfile urllib requests
        save load from_file hub package serialization storage distributed futures cpp_extension
        load_library load_url model_zoo tensorboard onnx UntypedStorage TypedStorage collect_env
        classes DataLoader cudart ipc_collect save_cache_artifacts load_cache_artifacts
        savez savez_compressed savetxt loadtxt genfromtxt fromfile fromregex memmap open_memmap
        DataSource npyio ctypeslib f2py testing
        fx export DataParallel PyTorchFileReader PyTorchFileWriter
        """,
    )
    | _refused(
        CLOCK, "time datetime datetime64 Event profiler Timer perf_counter monotonic emit_nvtx"
    )
    | _refused(
        SEED, "seed manual_seed manual_seed_all seed_all set_rng_state set_rng_state_all fork_rng"
    )
    | _refused(
        PATCHING,
        """
        overrides library register_module_forward_hook register_module_forward_pre_hook
        register_module_full_backward_hook set_num_threads set_num_interop_threads
        """,
    )
    | _refused(
        WRITTEN_OUT,  # the second line evaluates annotations, which may be text
        """
        attrgetter methodcaller
        get_type_hints ForwardRef evaluate_forward_ref singledispatch singledispatchmethod
        """,
    )
    | _refused("it runs type comments and opens files: use torch.compile", "jit ScriptModule")
)
# Where a module offers more than may be imported from it, what is not below these is refused.
UTILITIES = ("torch.utils.", "torch.utils.checkpoint")
# Of torch, without a public name.
PRIVATE_OPERATIONS = ("_foreach_", "_fused_", "_scaled_mm", "_grouped_mm", "_int_mm", "_calculate_")
SEEDED_BY_CALLER = {"random.Random", "numpy.random.default_rng", "numpy.random.Generator"}

# Attributes of anything, whatever it is.
ATTRIBUTES = (
    _refused(
        OUTSIDE,
        """
        tofile dump share_memory share_memory_ from_file memmap untyped_storage ctypes to_folder
        """,
    )
    | _refused(
        PATCHING,
        """
        f_globals f_locals f_builtins f_back f_code gi_frame cr_frame ag_frame tb_frame tb_next
        gi_code cr_code ag_code cell_contents
        """,
    )
    | _refused(CLOCK, "elapsed_time")
)
DUNDERS = _names(
    """
    __init__ __call__ __name__ __class__ __len__ __post_init__ __version__ __doc__ __setstate__
    """
)
# Neither defined nor assigned: others call them, or read them.
HOOKS = _names(
    """
    __torch_function__ __torch_dispatch__ __reduce__ __reduce_ex__ __del__ __match_args__
    __builtins__ __name__
    """
)
