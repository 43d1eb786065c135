"""What people call things elsewhere, and what a word that is not known can mean here: one table, then the nearest known names."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from typing import NamedTuple

from memexp.config.arch import ARCHS
from memexp.config.commands import COMMANDS
from memexp.config.introspection import TYPED_AS, choices_of, groups_of, is_offered, settings_of, source_of
from memexp.config.sources import SOURCES
from memexp.errors import nearest

SOURCE = "data.source."

OPEN = "..."
"""Stands for what only the user knows."""


class Meant(NamedTuple):
    """What a word means here.

    Attributes:
        here: the words to type in its place: `optim.rate`, which takes over the value; `precision=bf16`; variables of the shell
            go before the program; `memexp eval` is a command. Empty: the word is left out.
        why: a sentence, if the words alone do not tell.
    """

    here: str
    why: str = ""


STOPPED = "a run that was stopped continues when its command is given again"

TABLE: tuple[tuple[str, str, str], ...] = (
    # training
    ("optim.rate", "lr learning_rate rate peak_lr max_lr base_lr init_lr max_learning_rate", ""),
    (f"optim.floor={OPEN}", "min_lr final_lr lr_min min_learning_rate", "expected optim.floor, the last learning rate as a fraction of optim.rate"),
    ("optim.warmup", "warmup_steps num_warmup_steps warmup_iters lr_warmup n_warmup", ""),
    (f"optim.warmup={OPEN}", "warmup_ratio warmup_fraction", "expected optim.warmup, in steps"),
    ("optim.schedule", "scheduler lr_scheduler lr_schedule lr_scheduler_type lr_decay", ""),
    ("optim.weight_decay", "wd l2", ""),
    ("optim.clip", "grad_clip clip_grad max_grad_norm gradient_clip gradient_clip_val clip_norm clip_grad_norm grad_norm_clip", ""),
    ("optim", "optimizer optimiser optimizer_name opt", ""),
    ("optim=adamw", "optim=adam adam", ""),
    ("lanes", "batch_size bs batch train_batch_size per_device_train_batch_size micro_batch_size device_batch_size n_batch", ""),
    ("eval.lanes", "batch_size bs batch eval_batch_size eval.batch_size test_batch_size per_device_eval_batch_size", ""),
    ("accumulate", "grad_accum gradient_accumulation_steps gradient_accumulation accumulate_grad_batches grad_accumulation accumulation_steps accum_steps grad_acc_steps grad_accum_steps grad_accumulation_steps", ""),
    ("steps", "max_steps total_steps num_steps n_steps train_steps training_steps max_train_steps num_train_steps iterations iters max_iters n_iters num_iterations max_iterations updates", ""),
    (f"steps={OPEN}", "epochs epoch num_epochs max_epochs n_epochs num_train_epochs", "the length of training is given in steps: expected steps=N"),
    ("segment", "context context_length context_size context_len context_window ctx ctx_len n_ctx seq_len seq_length sequence_length seqlen block_size max_length max_len max_seq_len max_seq_length max_position_embeddings n_positions tgt_len segment_length segment_len segment_size", ""),
    ("bptt_segments", "bptt bptt_depth bptt_steps k2 bptt_horizon", ""),
    ("seed", "random_seed rng_seed manual_seed rng seeds", ""),
    ("hardware", "gpu gpu_type gpu_name accelerator card chip", ""),
    ("checkpoint_every", "save_every save_steps save_interval save_freq checkpoint_steps checkpoint_interval checkpoint_freq ckpt_every ckpt_interval", ""),
    ("log_every", "logging_steps log_interval log_steps log_freq print_every print_freq", ""),
    ("validate_every", "eval_every eval_interval eval_steps eval_freq val_every val_interval val_check_interval evaluation_steps", ""),
    ("", "resume auto_resume continue resume_from_checkpoint resume_from load_checkpoint resume_training", STOPPED),
    ("run", "checkpoint ckpt ckpt_path checkpoint_path model model_path pretrained weights run_dir run_path run_name", ""),
    (f"init_from={OPEN}", "checkpoint ckpt ckpt_path checkpoint_path pretrained pretrained_model weights load_from load init_checkpoint", f"init_from=RUN starts from the weights of another run, and {STOPPED}"),
    ("init_from", "finetune_from init_weights", ""),
    # the machine
    ("device=cuda", "gpu cuda use_gpu use_cuda gpu_id accelerator device=gpu device=cuda:0 device=gpu:0 device=nvidia accelerator=gpu", ""),
    ("device=cpu", "cpu no_cuda use_cpu", ""),
    ("CUDA_VISIBLE_DEVICES={} device=cuda", "device=cuda:{} device=gpu:{} device={}", "memexp uses the first GPU that it sees, and CUDA_VISIBLE_DEVICES={} before `memexp` chooses which it sees"),
    ("devices", "gpus n_gpus num_gpus n_gpu num_gpu world_size nproc nproc_per_node num_processes", ""),
    ("nodes", "num_nodes nnodes n_nodes machines num_machines", ""),
    ("precision=bf16", "fp16 bf16 half amp use_amp mixed autocast bfloat16 float16 precision=fp16 precision=half precision=amp precision=mixed precision=bfloat16 precision=float16 precision=16 precision=16-mixed precision=bf16-mixed", ""),
    ("precision=fp32", "fp32 float32 precision=float32 precision=32 precision=full precision=single precision=float", ""),
    ("tf32=true", "allow_tf32 precision=tf32", ""),
    ("precision", "dtype mixed_precision torch_dtype amp_dtype", ""),
    ("recompute", "gradient_checkpointing activation_checkpointing grad_checkpoint grad_checkpointing checkpoint_activations remat", ""),
    ("compile", "torch_compile use_compile", ""),
    ("threads", "num_threads n_threads cpu_threads torch_threads omp_num_threads", ""),
    ("jobs", "n_jobs num_jobs parallel", ""),
    ("", "num_workers n_workers workers dataloader_num_workers", "documents are read ahead without workers, so there is no such setting"),
    # the network and its memory
    ("arch", "model architecture model_type model_name network net", ""),
    ("arch=xl", "arch=transformer_xl arch=txl arch=trxl arch=transfo_xl", ""),
    ("arch=xl_enhanced", "arch=enhanced_xl arch=transformer_xl_enhanced", ""),
    ("arch=knn", "arch=memorizing arch=memorising arch=memorizing_transformer arch=memorizing_transformers arch=memorising_transformer arch=knn_memory arch=knn_transformer", ""),
    ("arch=rmt", "arch=recurrent_memory arch=recurrent_memory_transformer arch=memory_tokens", ""),
    ("arch=block", "arch=block_recurrent arch=block_recurrent_transformer arch=brt arch=brect", ""),
    ("arch=compressive", "arch=compressive_transformer", ""),
    ("arch=rmt arch.past_memories=8", "arch=rmt_r arch=rmtr arch=rmt_with_retrieval", ""),
    ("arch=knn arch.combine=joint arch.negatives=1 bptt_segments=1 accumulate=2", "arch=focused_transformer arch=fot arch=longllama arch=long_llama", ""),
    ("arch=armt", "arch=associative_rmt arch=associative_recurrent_memory_transformer arch=amt", ""),
    ("arch=armt arch.memory=parallel", "arch=prmt arch=parallel_rmt", ""),
    ("arch=infini", "arch=infini_attention arch=infini_transformer arch=infinitransformer arch=infiniattention", ""),
    ("arch=delta", "arch=gated_deltanet arch=gated_delta_net arch=gated_delta_rule arch=gated_delta arch=gdn", ""),
    ("arch=delta arch.decay=none", "arch=deltanet arch=delta_net arch=delta_rule", ""),
    ("arch=delta arch.decay=channel", "arch=kda arch=kimi arch=kimi_linear arch=kimi_delta_attention", ""),
    ("arch=delta arch.write=add arch.unit_keys=false arch.decay=none", "arch=linear_attention arch=linear_transformer arch=linear", ""),
    ("arch=delta arch.write=add arch.unit_keys=false", "arch=mamba2 arch=mamba_2 arch=ssd", ""),
    ("arch=delta arch.write=add arch.unit_keys=false", "arch=mamba arch=mamba1 arch=ssm", "there is no Mamba; expected arch=delta arch.write=add arch.unit_keys=false, which has the rule of Mamba-2"),
    ("arch=titans", "arch=mag arch=memory_as_gate arch=titans_mag arch=neural_memory neural_memory", ""),
    ("arch=titans arch.role=context arch.window=0", "arch=mac arch=memory_as_context arch=titans_mac", ""),
    ("arch=titans arch.role=layer arch.window=0", "arch=lmm arch=titans_lmm arch=long_term_memory", ""),
    ("arch=titans arch.role=layer arch.window=0 arch.momentum=false arch.forget=none", "arch=ttt arch=test_time_training arch=ttt_linear arch=ttt_mlp", "TTT is close to arch=titans arch.role=layer arch.window=0 arch.momentum=false arch.forget=none"),
    ("arch.key_size", "d_mem dmem mem_key_size", ""),
    ("arch=vanilla", "arch=transformer arch=gpt arch=gpt2 arch=decoder arch=baseline arch=none arch=plain arch=standard", ""),
    ("mem=0", "no_memory no_mem", ""),
    ("mem={}", "memory={}", ""),
    ("mem", "memory mem_size memory_size mem_len mem_length memory_length memory_slots mem_slots num_memory num_mem num_mem_tokens num_memory_tokens memory_tokens max_memories max_knn_memories", ""),
    ("top_k", "topk k", ""),
    ("arch.neighbours", "topk top_k k knn_k n_neighbors num_neighbors num_neighbours neighbors num_retrieved_memories num_retrieved", ""),
    ("arch.knn_layers", "memory_layers knn_memory_layers memorizing_layers knn_layer memory_layer", ""),
    ("arch.position", "pos_emb pos_enc positional_encoding position_encoding position_embedding position_embedding_type pos_encoding positions", ""),
    ("arch.position=rotary", "rope use_rope arch.position=rope", ""),
    ("arch.dropout", "dropout_rate dropout_p p_dropout drop_rate resid_pdrop hidden_dropout", ""),
    ("arch.normalise", "normalize arch.normalize qk_norm", ""),
    ("size", "model_size preset", ""),
    ("size.layers", "n_layer n_layers num_layers num_hidden_layers num_layer depth", ""),
    ("size.heads", "n_head n_heads num_heads num_attention_heads nhead num_head", ""),
    ("size.width", "d_model n_embd n_embed embed_dim embedding_dim embedding_size emb_dim emb_size dim hidden_size hidden_dim hidden model_dim", ""),
    ("size.head_size", "d_head head_dim dim_head d_kv d_key", ""),
    ("size.feedforward", "d_ff d_inner ffn_dim ff_dim ffn_size intermediate_size n_inner dim_feedforward mlp_dim ffn_hidden_size", ""),
    # text
    ("data", "dataset corpus dataset_name data_name datasets", ""),
    ("data=text data.path", "data_path data_dir dataset_path dataset_dir train_file train_data data_file text_file corpus_path", ""),
    ("data=text", "data=file data=files data=custom data=own data=local data=txt data=jsonl", ""),
    ("data=wikitext103", "data=wikitext data=wt103 data=wiki103", ""),
    ("data=arxiv_math", "data=arxiv", ""),
    ("data=c4_4k", "data=c4", ""),
    ("data=babi", "data=babilong data=babi_long data=b_abi data=qa1", ""),
    ("data=needle", "data=niah data=ruler data=needle_in_a_haystack data=haystack data=s_niah", ""),
    ("data=passkey", "data=passkey_retrieval data=pass_key data=landmark", ""),
    ("data=mqar", "data=associative_recall data=zoology data=multi_query_associative_recall", ""),
    ("data=rewrite", "data=associative_retrieval_rewrite data=ar_rewrite", ""),
    ("data.tokenizer.vocabulary", "vocab_size vocabulary_size n_vocab vocab n_token", ""),
    ("data.tokenizer.kind", "tokenizer tokeniser tokenizer_type tokenizer_name", ""),
    # generation
    ("tokens", "max_new_tokens max_tokens n_tokens num_tokens new_tokens max_length length", ""),
    ("samples", "num_samples n_samples num_return_sequences", ""),
    ("temperature", "temp", ""),
    ("prompt", "text input_text", ""),
    ("prompt_file", "input_file text_file", ""),
    # names and folders
    ("tracker=wandb", "wandb use_wandb wandb_log log_wandb", ""),
    ("tracker=tensorboard", "tensorboard use_tensorboard tracker=tb", ""),
    ("tracker=none", "no_wandb tracker=off tracker=false tracker=no", ""),
    ("tracker", "logger report_to log_to loggers", ""),
    ("tracker.project", "wandb_project project_name", ""),
    ("tag", "run_name name exp_name experiment_name expname wandb_name job_name label run_id", "a run's name is made of its settings: expected tag=NAME, a label to find it by"),
    ("out", "output_dir out_dir outdir output output_folder output_path save_dir", ""),
    ("root", "output_dir out_dir outdir output output_folder output_path save_dir log_dir logdir work_dir workdir results_dir exp_dir checkpoint_dir run_dir", "runs are kept in results/runs of the root: expected root=DIR"),
    ("table", "experiment exp paper", ""),
    (f"memexp reproduce {OPEN}", "experiment exp paper", "a table of a paper is trained by `memexp reproduce NAME`"),
    # commands
    ("memexp eval", "evaluate test score validate", ""),
    ("memexp train", "fit pretrain finetune training", ""),
    (f"memexp {OPEN}", "run", "`memexp train` trains a run, and `memexp runs` lists the runs"),
    ("memexp runs", "list ls status ps", ""),
    ("memexp data list", "datasets corpora", ""),
    ("memexp prepare", "download preprocess tokenize tokenise", ""),
    ("memexp generate", "sample gen complete inference infer", ""),
    ("memexp diff", "compare difference", ""),
    ("memexp reproduce", "replicate", ""),
    ("memexp plan", "estimate cost", ""),
    ("memexp bench", "benchmark speed", ""),
)  # fmt: skip
"""What to type here, the words that others use for it, and a sentence or nothing. `{}` stands for a number.

A word in several rows means the first of them that the command has.
"""


def plain(word: str) -> str:
    """A word of the table without capitals and separators; the halves of key=value are kept apart."""
    return "=".join(re.sub(r"[\W_]", "", half).lower() for half in word.replace("{}", "0").partition("=")[::2] if half)


@cache
def _rows() -> dict[str, list[Meant]]:
    rows: dict[str, list[Meant]] = {}
    for here, words, why in TABLE:
        for word in words.split():
            rows.setdefault(re.sub("0$", "{}", plain(word)) if "{}" in word else plain(word), []).append(
                Meant(here, why)
            )
    return rows


def _in_table(word: str) -> Iterator[Meant]:
    """The rows of a word, then those of the word with `{}` for its last number."""
    key = plain(word)
    yield from _rows().get(key, ())
    if number := re.search(r"\d+[kmg]?$", key):
        for row in _rows().get(f"{key[: number.start()]}{{}}", ()):
            yield Meant(*(text.replace("{}", number[0]) for text in row))


def is_command(row: Meant) -> bool:
    """Whether a row is about the name of a command."""
    return row.here.startswith("memexp ")


def has(command: str, here: str) -> bool:
    """Whether a command has the settings that a row tells to type."""
    names = {word.partition("=")[0] for word in here.split()}
    return {name for name in names if not name.isupper()} <= names_of(command).keys()


@cache
def names_of(command: str) -> dict[str, tuple[str, ...]]:
    """What users can type before the =, for a command: groups and settings, with their choices."""
    known: dict[str, tuple[str, ...]] = {name: tuple(choices) for name, choices in groups_of(command).items()}
    for name, item in settings_of(command).items():
        if is_offered(name):
            known.setdefault(TYPED_AS.get(name, name), item.metadata["choices"])
    return known


def meant_setting(key: str, command: str) -> list[Meant]:
    """What a name that a command does not have can mean; more than one if nothing says which, none if nobody knows."""
    rows = [row for row in _in_table(key) if has_row(row, command)]
    if rows:
        return rows[:1]
    known = names_of(command)
    if near := nearest(key, known):
        return [Meant(name) for name in near]
    return [row for row in _in_table(re.split(r"[./]", key)[-1]) if has_row(row, command)][:1]


def has_row(row: Meant, command: str) -> bool:
    """Whether a row of the table tells what to type after this command."""
    return OPEN in row.here if is_command(row) else has(command, row.here)


def meant_value(key: str, value: str, choices: Iterable[str]) -> list[Meant]:
    """What a value can mean that is no choice of a setting or group."""
    return [*_in_table(f"{key}={value}")][:1] or [Meant(f"{key}={choice}") for choice in nearest(value, choices)]


def meant_command(word: str, known: list[str]) -> list[Meant]:
    """What a word can mean that is no command."""
    return [row for row in _in_table(word) if is_command(row)][:1] or [
        Meant(f"memexp {name}") for name in nearest(word, known)
    ]


def suggestion(meant: list[Meant], known: str = "") -> str:
    """What to add to a message: '; did you mean optim.rate?', or the sentence of the table; empty without a meaning.

    Args:
        known: what the message is about, such as `device=` if it is about the setting's value; it is not repeated.
    """
    if not meant:
        return ""
    if meant[0].why:
        return f"; {meant[0].why}"
    # of several words, all are to be typed
    words = (row.here if " " in row.here.removeprefix(known) else row.here.removeprefix(known) for row in meant)
    return f"; did you mean {' or '.join(words)}?"


def unknown_setting(key: str, command: str) -> str:
    """The message about a key that is not a setting."""
    key = key.lstrip("+~")
    owners = [
        name
        for name, schema in ARCHS.items()
        if key.startswith("arch.") and key[5:] in {item.name for item in fields(schema)}
    ]
    if owners and "arch" in groups_of(command):
        return f"this architecture has no setting {key}; expected arch={' or arch='.join(owners)} with it"
    if key.partition(".")[0] == "data" and "run" in names_of(command) and "data" not in groups_of(command):
        return (
            f"`memexp {command}` has no setting {key}, because a run's corpus is chosen when it is trained; expected `memexp train "
            f"init_from=RUN steps=0 {key}={OPEN}` with the other settings of that run, which trains nothing and scores its weights on another "
            "corpus"
        )
    if key.startswith(SOURCE):
        choices = {data: _options_of_source(data) for data in choices_of("data")}
        if owners := [data for data, options in choices.items() if key.removeprefix(SOURCE) in options]:
            return f"this corpus has no setting {key}; expected it with data={' or data='.join(owners)}"
    meant = suggestion(meant_setting(key, command))
    if not meant and (others := [other for other in COMMANDS if key in names_of(other)]):
        meant = f"; it is a setting of `memexp {'`, `memexp '.join(others)}`"
    return f"there is no setting {key}; expected a setting that `memexp {command} --help` lists{meant}"


def _options_of_source(data: str) -> set[str]:
    source = source_of(data)
    return {item.name for item in fields(SOURCES[source])} if source else set()
