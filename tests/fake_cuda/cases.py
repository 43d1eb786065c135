"""Settings that are walked through on a CUDA device that is not there."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
ARCHS = sorted(path.stem for path in (CONF / "arch").glob("*.yaml"))

HALF = "precision=bf16"
ON_HOST = "arch.stored_on=host"
MANY_WORDS = ("size.cutoffs=[10,20]", "size.narrowing=2", "data.tokenizer.kind=lines")
POSITIONS = ("none", "xl", "rotary", "xpos", "alibi", "dynamic")
"""All but the default, t5."""

CASES: tuple[tuple[str, ...], ...] = (
    # in full precision the others are below, with an option too
    ("arch=armt",), ("arch=infini",),
    *(
        (f"arch={arch}", HALF, "recompute=true", "accumulate=2", "arch.key_smear=true", "arch.dropout=0.1")
        for arch in ARCHS
    ),
    ("arch=block", "accumulate=2", "bptt_segments=0"), ("arch=rmt", "accumulate=4", "bptt_segments=1"),
    *(("arch=xl", HALF, f"arch.position={name}") for name in POSITIONS), ("arch=rmt_xl", HALF, "arch.position=xl"),
    ("arch=compressive", HALF, "arch.position=rotary"), ("arch=thought", HALF, "arch.position=xl"),
    ("arch=knn", "arch.combine=joint", "arch.position=xl"),
    ("arch=vanilla", "arch.normalise=false", "arch.scale=1", "arch.keys_as_queries=true"),
    ("arch=xl", "arch.reach=window", HALF), ("arch=xl_enhanced", "arch.reach=window", "mem=5"),
    *(
        ("arch=knn", HALF, f"arch.search={search}", f"arch.stored={stored}", f"arch.stored_on={on}")
        for search in ("exact", "bucketed", "faiss_flat", "faiss_ivf", "faiss_hnsw")
        for stored, on in (("fp32", "device"), ("bf16", "host"))
        if (search, on) != ("faiss_flat", "device")  # needs faiss for GPUs
    ),
    ("arch=knn", "arch.search=auto", "arch.stored=bf16"), ("arch=knn", HALF, "arch.stored=bf16"), ("arch=knn", "arch.stored_on=host"),
    ("arch=knn", "arch.combine=joint", HALF, "arch.stored_on=host"),
    ("arch=knn", "arch.write=leaving", "arch.reach=window", "arch.knn_position=false", HALF),
    ("arch=knn", "arch.knn_layers=[1,2]", "accumulate=2", "recompute=true"), ("arch=knn", "mem=0"),
    ("arch=knn_routed", "arch.combine=joint", HALF), ("arch=knn_routed", "arch.stored=bf16", "arch.write=leaving"),
    ("arch=block", "arch.window=8", "arch.gate_kind=lstm", "arch.gates=dual", "arch.feedback=true", HALF),
    ("arch=block", "arch.gates=single", "arch.borrow=true"),
    ("arch=block", "arch.state_dropout=0.1", "arch.cache_dropout=0.1", "arch.shared_values=true", HALF),
    ("arch=block_knn", "arch.window=8", "arch.combine=joint", "arch.write=leaving", HALF),
    ("arch=block_knn", "arch.search=routed", "arch.shared_values=true"), ("arch=block_knn", "arch.stored_on=host", HALF),
    ("arch=compressive", "arch.compress=max", HALF), ("arch=compressive", "arch.compress=mean"),
    ("arch=rmt", "arch.aux_weight=0.5", HALF), ("arch=rmt", "mem=0", "accumulate=1"),
    ("arch=rmt_xl", "arch.memory_sees_cache=none"), ("arch=rmt_xl", "arch.memory_sees_cache=both", HALF),
    ("arch=rmt", "arch.past_memories=3", "arch.adapters=true", HALF), ("arch=infini", "arch.write=linear", "mem=1", HALF),
    ("arch=armt", "arch.memory=parallel", HALF),
    ("arch=delta", "arch.decay=channel", HALF), ("arch=delta", "arch.decay=none", "arch.window=5"),
    ("arch=titans", "arch.role=layer", "arch.window=0", "arch.memory=linear", HALF),
    ("arch=titans", "arch.momentum=false", "arch.forget=none"), ("arch=titans", "arch.forget=start", HALF),
    ("arch=titans", "arch.role=context", "arch.window=0", "arch.persistent=3", HALF),
    ("arch=delta", "arch.write=add", "arch.unit_keys=false", "arch.window=0", HALF),
    ("arch=knn", "arch.place=edge", "arch.position=rotary", "arch.combine=joint", "arch.sinks=2", HALF), ("arch=xl", "arch.sinks=2"),
    ("arch=knn", "arch.negatives=1", "arch.combine=joint", "bptt_segments=1", "accumulate=2", HALF),
    ("arch=thought", "arch.faithful=true", "arch.recall_target=embeddings", HALF),
    ("arch=thought", "arch.recall_target=embeddings"),
    *((f"arch={arch}", *MANY_WORDS) for arch in ("vanilla", "rmt_xl")), ("arch=thought", *MANY_WORDS, HALF),
    ("arch=knn", "optim=adafactor", HALF), ("arch=rmt", "optim=adafactor", "optim.factor_from=8", "accumulate=2"),
)  # fmt: skip

WITHOUT_TRITON: tuple[tuple[str, ...], ...] = (
    ("arch=knn",), ("arch=knn", HALF, "arch.stored=bf16"), ("arch=block_knn", "arch.stored_on=host", HALF),
)  # fmt: skip
"""Walked through without Triton's kernels; all other cases have them."""


def searches_on_the_host(case: tuple[str, ...]) -> bool:
    """Whether the search itself runs on the host: the host then waits for queries, or for an index."""
    return any(word.startswith("arch.search=faiss") for word in case) or {"arch.search=bucketed", ON_HOST} <= set(case)
