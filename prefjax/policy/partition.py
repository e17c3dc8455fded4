"""How the parameters of a decoder are cut over the axes of a mesh."""

# (output, input) of each matrix. What is computed with heads or hidden units stays on the device that has them:
# the first product of a pair is cut by what it makes, the second by what it reads, and one sum follows both
# (Shoeybi et al., "Megatron-LM", 2019, section 3, arXiv:1909.08053). The vocabulary is cut like heads.
PARTITION: dict[str, tuple[str, str]] = {
    "q_proj": ("tensor", "fsdp"),
    "k_proj": ("tensor", "fsdp"),
    "v_proj": ("tensor", "fsdp"),
    "o_proj": ("fsdp", "tensor"),
    "gate_proj": ("tensor", "fsdp"),
    "up_proj": ("tensor", "fsdp"),
    "down_proj": ("fsdp", "tensor"),
    "embed_tokens": ("tensor", "fsdp"),
    "lm_head": ("tensor", "fsdp"),
}
