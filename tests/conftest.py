"""What every test runs under: checked shapes, no silent rank promotion, eight CPU devices, a time-out."""

import atexit
import os
import shutil
import tempfile

# Before jax starts: tests of meshes need several devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Many tests compile the same small programs, some in processes of their own: each is compiled once a session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="prefjax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
from hypothesis import settings
from jaxtyping import install_import_hook

# The same examples in every run, so that a failure is one that others see as well.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes in annotations are checked while the tests run; in use they cost nothing.
install_import_hook("prefjax", "beartype.beartype")
