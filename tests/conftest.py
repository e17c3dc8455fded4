"""What every test runs under: checked shapes, no silent rank promotion, eight CPU devices, a time-out."""

import os

# Before jax starts: tests of meshes need several devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
# Shapes in annotations are checked while the tests run; in use they cost nothing.
install_import_hook("prefjax", "beartype.beartype")
