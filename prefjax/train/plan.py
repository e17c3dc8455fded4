"""What a step would cost on N devices of a named chip, from shapes alone: nothing is run, nothing allocated."""

import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.extend import core as jex

from prefjax.checks import refuse


class Chip(NamedTuple):
    """Published peaks of one chip: dense bfloat16 FLOP/s, memory, its bandwidth, and that of the links to others."""

    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


CHIPS = {
    "v4": Chip(275e12, 32e9, 1228e9, 300e9),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
    "a100": Chip(312e12, 80e9, 2039e9, 300e9),
    "h100": Chip(989e12, 80e9, 3350e9, 450e9),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9),
}
TPUS = ("v4", "v5e", "v5p", "v6e")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4,
          "f64": 8, "s64": 8, "u64": 8}  # fmt: skip


class Plan(NamedTuple):
    """Figures for one device, but for `parameters` and `flops`, which are the whole step's."""

    chip: str
    compiled_by: str  # the backend whose compiler made the program
    devices: int
    parameters: int
    flops: float
    state_bytes: int  # what stays on a device between steps (frozen parameters too), and the batch
    temporary_bytes: int
    collectives: dict[
        str, tuple[int, int]
    ]  # kind: how many in the program's text, bytes they hand over (loops once)
    compute_seconds: float
    memory_seconds: float  # state read and written once, temporaries written and read once
    network_seconds: float

    @property
    def seconds(self) -> float:
        """The roofline: no step is faster than its slowest resource."""
        return max(self.compute_seconds, self.memory_seconds, self.network_seconds)


def stand_in(count: int) -> None:
    """Lets this program see `count` devices of its own processor. Call before JAX first looks for devices."""
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    )


def devices_of(chip: str, count: int) -> Sequence[Any]:
    """`count` devices to compile for: described TPUs if the TPU compiler is installed, else what is here.

    Raises: InputError for an unknown chip, or when this program sees too few devices to stand in.
    """
    if chip != "host" and chip not in CHIPS:
        refuse("--chip", repr(chip), f"host, {', '.join(CHIPS)}", "Name one of these.")
    if chip in TPUS and (described := _described_tpus(chip, count)) is not None:
        return described
    if len(jax.devices()) < count:
        refuse(
            "--plan", f"{count} devices, of which {len(jax.devices())} are here", "as many, real or virtual",
            f"Set XLA_FLAGS=--xla_force_host_platform_device_count={count}, or install libtpu for a TPU.",
        )  # fmt: skip
    return jax.devices()[:count]


def _described_tpus(chip: str, count: int) -> Sequence[Any] | None:
    try:
        import libtpu  # noqa: F401  (only there where the user installed it)
    except ImportError:
        return None
    # There is no TPU to ask what it is; without these the TPU runtime looks for one.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    dimensions = 2 if chip in ("v5e", "v6e") else 3
    sides = [1] * dimensions
    for _ in range(int(math.log2(count))):
        sides[sides.index(min(sides))] *= 2
    name = f"{chip}:{'x'.join(map(str, sorted(sides)))}"
    hosts = {"chips_per_host_bounds": sides + [1] * (3 - dimensions)} if count <= 2 else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=name, **hosts).devices
    except Exception as error:
        refuse(
            "--mesh, --chip", f"{count} devices of {chip} as {name} ({str(error)[:200]})", "a slice that exists",
            "Choose 4, 8, 16, 32, … devices.",
        )  # fmt: skip
    return described[:count]


def make_plan(step: Any, *arguments: Any, chip: str, parameters: int, devices: int, frozen: int = 0) -> Plan:
    """Compiles `step` for the shapes `arguments` (with shardings) and reads what the compiler says.

    FLOPs are those of all matrix products in the traced program, loops multiplied out (the compiler's own
    count takes a loop's body once). `frozen` are bytes of parameters that stay on the devices beside the step's own,
    spread over them. Peaks are those of bfloat16; float32 is several times slower on these chips.
    """
    flops = _matrix_flops(jax.make_jaxpr(step)(*arguments).jaxpr)
    lowered = step.lower(*arguments)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    collectives = count_collectives(compiled.as_text())
    limits = CHIPS[chip] if chip != "host" else _this_host()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * memory.temp_size_in_bytes
    sent = sum(size for _, size in collectives.values())
    return Plan(
        chip=chip,
        compiled_by=_first_device(arguments).platform,
        devices=devices,
        parameters=parameters,
        flops=flops,
        state_bytes=memory.argument_size_in_bytes + frozen // devices,
        temporary_bytes=memory.temp_size_in_bytes,
        collectives=collectives,
        compute_seconds=flops / devices / limits.flops,
        memory_seconds=moved / limits.memory_bandwidth,
        network_seconds=sent / limits.link_bandwidth,
    )


def describe_plan(plan: Plan) -> str:
    """The plan in words and units."""
    limits = CHIPS.get(plan.chip)
    need = plan.state_bytes + plan.temporary_bytes
    fits = (
        ""
        if limits is None
        else f" of {limits.memory / 1e9:.0f} GB: {'fits' if need <= limits.memory else 'DOES NOT FIT'}"
    )
    lines = [
        f"{plan.devices} x {plan.chip}, compiled by the {plan.compiled_by} compiler; nothing was run",
        f"parameters            {plan.parameters:,}",
        f"FLOPs a step          {plan.flops:.3g} in matrix products, {plan.flops / plan.devices:.3g} a device",
        f"bytes a device        {need / 1e6:,.1f} MB{fits} "
        f"(state and batch {plan.state_bytes / 1e6:,.1f}, temporary {plan.temporary_bytes / 1e6:,.1f})",
    ]
    lines += [
        f"{name:21s} {count} in the program, {size / 1e6:,.2f} MB"
        for name, (count, size) in plan.collectives.items()
    ] or ["collectives           none"]
    lines.append(
        f"roofline a step       {plan.seconds:.3g} s (compute {plan.compute_seconds:.3g}, "
        f"memory {plan.memory_seconds:.3g}, network {plan.network_seconds:.3g})"
    )
    return "\n".join(lines)


def count_collectives(program: str) -> dict[str, tuple[int, int]]:
    """Collectives in an HLO text: how many of each kind, and the bytes of their results."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    pattern = re.compile(r"= (\(?[^=]*?\)?) (" + "|".join(_COLLECTIVES) + r")(?:-start)?\(")
    for shapes, kind in pattern.findall(program):
        number[kind] += 1
        for dtype, extent in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size[kind] += _BYTES.get(dtype, 4) * math.prod(int(n) for n in extent.split(",") if n)
    return {kind: (number[kind], size[kind]) for kind in _COLLECTIVES if number[kind]}


def _first_device(arguments: Any) -> Any:
    return next(iter(jax.tree.leaves(arguments)[0].sharding.device_set))


def _matrix_flops(jaxpr: Any) -> float:
    """2·m·n·k of every matrix product, inside loops as often as they run (a while loop of unknown length: once)."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [j for value in equation.params.values() for j in _jaxprs(value)]
        total += times * sum(_matrix_flops(j) for j in inner)
    return total


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, jex.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, jex.Jaxpr):
        return [value]
    return [j for item in value for j in _jaxprs(item)] if isinstance(value, tuple | list) else []


def _this_host() -> Chip:
    """What this machine does, measured in a fraction of a second."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda a: a + 1.0)
    large = jnp.ones((1 << 24,))

    def fastest(function, argument) -> float:
        jax.block_until_ready(function(argument))
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            jax.block_until_ready(function(argument))
            taken.append(time.perf_counter() - started)
        return min(taken)

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bandwidth = 2 * large.nbytes / fastest(copy, large)
    return Chip(2.0 * 1024**3 / fastest(product, x), memory, bandwidth, bandwidth)
